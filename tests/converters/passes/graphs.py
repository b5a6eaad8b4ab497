"""Models of random numbers, and what passes make of them."""

import keras
import numpy as np
import tensorflow as tf

from kacc.converters.frozen_graph import FrozenGraph
from kacc.converters.passes import optimized
from kacc.converters.trace import freeze
from kacc.core.manifest import TensorInfo

RELATIVE = 1e-5


def randomized(shape, *stack, zeros=True):
    """A sequential model with random weights."""
    return run(keras.Sequential([keras.Input(shape), *stack], name="net"), zeros)


def run(model, zeros=True):
    """Gives a model random weights: factors that are negative, and some that are zero.

    Args:
        model: one that no other test reads: it is changed.
        zeros: whether there are any of those.
    """
    rng = np.random.default_rng(3)
    for variable in model.weights:
        name, shape = variable.path.rpartition("/")[2], variable.shape
        if not variable.dtype.startswith("float") or "normalization/" in (
            variable.path if name in ("mean", "variance", "count") else ""
        ):
            continue
        if name == "moving_variance":
            value = rng.uniform(0.2, 3.0, shape)
        elif name == "gamma":
            value = rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1], shape)
            value.flat[0] = 0.0 if zeros else 1.0
        elif len(shape) < 2:
            value = rng.normal(size=shape)
        else:
            value = rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))
        variable.assign(value)
    return model


def equal(model, *arrays):
    """The optimized graph of a model, after its outputs were compared."""
    source = freeze(model)
    graph = optimized(source)
    rng = np.random.default_rng(9)
    feeds = list(arrays) or [
        rng.normal(size=(3, *[size or 3 for size in x.shape[1:]])).astype("float32")
        for x in source.inputs
    ]
    same(source, graph, feeds)
    return graph


def same(source, graph, feeds, relative=RELATIVE):
    """Compares all outputs of two graphs, by the largest value of each."""
    assert graph.inputs == source.inputs
    assert graph.outputs == source.outputs
    pairs = zip(source.run(feeds), graph.run(feeds), strict=True)
    for wanted, got in pairs:
        assert got.shape == wanted.shape
        assert got.dtype == wanted.dtype
        scale = np.abs(wanted).max(initial=0.0)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=relative * scale)


def count(graph, *kinds):
    """How many operations of some kinds a graph has."""
    return sum(node.op in kinds for node in graph.graph_def.node)


def frozen(function, *shapes):
    """A frozen graph of a function of TensorFlow."""
    specs = [tf.TensorSpec(shape, name=f"x{i}") for i, shape in enumerate(shapes)]
    concrete = tf.function(function, input_signature=specs).get_concrete_function()
    outputs = concrete.outputs
    return FrozenGraph(
        graph_def=concrete.graph.as_graph_def(),
        inputs=tuple(
            TensorInfo(f"x{i}", tuple(shape), "float32")
            for i, shape in enumerate(shapes)
        ),
        outputs=tuple(
            TensorInfo(f"y{i}", tuple(x.shape), x.dtype.name)
            for i, x in enumerate(outputs)
        ),
        input_tensors=tuple(x.name for x in concrete.inputs),
        output_tensors=tuple(x.name for x in outputs),
        input_structure="list",
        output_structure="list",
        layers={},
    )
