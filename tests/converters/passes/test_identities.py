"""Identities, constants, functions and shapes: gone, and the outputs the same."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kacc.converters.passes import (
    applied,
    drop_identities,
    fix_reshapes,
    fold_constants,
    inline_functions,
    optimized,
)
from kacc.converters.passes.graph import Graph
from kacc.converters.trace import freeze
from tests.converters.passes.graphs import count, equal, frozen, randomized, run, same

layers = keras.layers
SHAPE = (None, 4, 6)


def kinds(graph):
    return [n.op for n in graph.graph_def.node if n.op not in ("Const", "Placeholder")]


NOTHING = {
    "identity": tf.identity,
    "stop": tf.stop_gradient,
    "reshape": lambda x: tf.reshape(x, (-1, 4, 6)),
    "transpose": lambda x: tf.transpose(x, (0, 1, 2)),
    "pad": lambda x: tf.pad(x, [[0, 0]] * 3),
    "tile": lambda x: tf.tile(x, (1, 1, 1)),
    "times": lambda x: np.ones((4, 1), "float32") * x,
    "through": lambda x: x / 1.0,
    "plus": lambda x: x + np.zeros(6, "float32"),
    "minus": lambda x: x - 0.0,
    "bias": lambda x: tf.nn.bias_add(x, np.zeros(6, "float32")),
    "cast": lambda x: tf.raw_ops.Cast(x=x, DstT=tf.float32),
}
SOMETHING = {
    "reshape": lambda x: tf.reshape(x, (-1, 6, 4)),
    "transpose": lambda x: tf.transpose(x, (0, 2, 1)),
    "pad": lambda x: tf.pad(x, [[0, 0], [0, 1], [0, 0]]),
    "tile": lambda x: tf.tile(x, (1, 2, 1)),
    "larger": lambda x: x * np.ones((3, 1, 4, 6), "float32"),
    "repeated": lambda x: x * np.ones((3, 1, 1), "float32"),
    "times": lambda x: x * 2.0,
    "minus": lambda x: 0.0 - x,
    "through": lambda x: 1.0 / (x + 9.0),
    "plus": lambda x: x + 1.0,
}


@pytest.mark.parametrize("kind", NOTHING)
def test_what_does_nothing_goes(kind):
    source = frozen(lambda x: tf.nn.relu(NOTHING[kind](tf.nn.tanh(x))), SHAPE)
    graph = applied(source, drop_identities)
    assert kinds(graph) == ["Tanh", "Relu"]
    same(source, graph, [np.ones((2, 4, 6), "float32")], relative=0)


@pytest.mark.parametrize("kind", SOMETHING)
def test_what_does_something_stays(kind):
    source = frozen(lambda x: tf.nn.relu(SOMETHING[kind](tf.nn.tanh(x))), SHAPE)
    graph = applied(source, drop_identities)
    assert len(kinds(graph)) >= 3
    x = np.random.default_rng(0).normal(size=(1, 4, 6)).astype("float32")
    same(source, graph, [x], relative=0)


def test_outputs_stay_tensors_of_their_own():
    def function(x):
        y = tf.nn.relu(x)
        return tf.identity(x), tf.identity(y), tf.identity(y), y * 1.0, y

    source = frozen(function, SHAPE)
    graph = optimized(source)
    assert len(set(graph.output_tensors)) == 5
    assert not set(graph.output_tensors) & set(graph.input_tensors)
    same(source, graph, [np.ones((2, 4, 6), "float32")], relative=0)


def test_inputs_that_nobody_reads_stay():
    source = frozen(lambda x, y: tf.nn.relu(x), SHAPE, (2,))
    graph = optimized(source)
    assert count(graph, "Placeholder") == 2


def test_constants_are_computed_once():
    weights = np.linspace(1, 2, 6).astype("float32")

    def function(x):
        w = tf.constant(weights)
        first, second = tf.split(tf.sqrt(w) + 1.0, 2)
        return x * tf.concat([second, first], 0), tf.exp(w), tf.tanh(first)

    source = frozen(function, SHAPE)
    graph = applied(source, drop_identities, fold_constants)
    assert set(kinds(graph)) <= {"Mul", "Identity"}
    same(source, graph, [np.ones((2, 4, 6), "float32")], relative=0)


def test_constants_do_not_make_the_file_larger():
    def function(x):
        return x + tf.tile(tf.constant(np.ones((1, 1, 1), "float32")), (1, 4000, 6))

    source = frozen(function, (None, 4000, 6))
    graph = applied(source, fold_constants)
    assert "Tile" in kinds(graph)
    assert graph.graph_def.ByteSize() < 5000


@pytest.mark.parametrize("kind", ["fake", "random"])
def test_what_is_no_constant_is_computed_each_time(kind):
    def fake(x):
        w = tf.quantization.fake_quant_with_min_max_vars(tf.ones(6), -1.0, 1.0)
        return tf.linalg.matvec(x, w)

    def random(x):
        return x + tf.random.normal((4, 6))

    graph = optimized(frozen({"fake": fake, "random": random}[kind], SHAPE))
    wanted = {"fake": "FakeQuantWithMinMaxVars", "random": "RandomStandardNormal"}
    assert wanted[kind] in kinds(graph)


def test_functions_are_put_in_place_of_their_calls():
    model = randomized((8, 8, 4), layers.Conv2D(6, 3, groups=2, name="conv"))
    source = freeze(model)
    assert source.outputs[0].shape == (None, 6, 6, 6)
    graph = applied(source, inline_functions)
    (name,) = [n.name for n in graph.graph_def.node if n.op == "Conv2D"]
    assert graph.layer_of(name) == "conv"
    assert count(graph, "StatefulPartitionedCall") == 0
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype("float32")
    same(source, graph, [x])


def test_loops_stay_as_they_are():
    model = randomized((5, 4), layers.LSTM(3), layers.Dense(2))
    assert count(equal(model), "While", "StatelessWhile") == 1


def test_dense_layers_on_sequences_compute_no_shapes():
    graph = equal(randomized((5, 4), layers.Dense(6), layers.ReLU(), layers.Dense(3)))
    assert count(graph, "Shape", "Prod", "GatherV2", "Pack", "Transpose") == 0
    assert count(graph, "Reshape") == 4


def test_shapes_with_two_unknown_sizes_stay_computed():
    source = frozen(
        lambda x: tf.reshape(x, (tf.shape(x)[0], tf.shape(x)[1], 2, 3)),
        (None, None, 6),
    )
    graph = applied(source, fix_reshapes)
    same(source, graph, [np.ones((2, 5, 6), "float32")], relative=0)
    assert count(graph, "Pack") == 1


def test_everything_is_read_from_what_is_there():
    """Nodes are in order, and their readers known, after every pass."""
    model = randomized(
        (9, 9, 3),
        layers.Conv2D(4, 3, padding="same", use_bias=False, name="conv"),
        layers.BatchNormalization(),
        layers.Dropout(0.3),
        layers.GaussianNoise(0.1),
        layers.ReLU(),
        layers.Flatten(),
        layers.Dense(3),
    )
    graph = equal(model)
    assert set(kinds(graph)) == {"Conv2D", "BiasAdd", "Relu", "Reshape", "MatMul"}
    seen = set()
    for node in graph.graph_def.node:
        assert {name.partition(":")[0] for name in node.input} <= seen
        seen.add(node.name)
    working = Graph(graph)
    assert working.only_reader("net/conv/convolution/BiasAdd") is not None


def test_several_inputs_and_outputs(two_by_two):
    equal(run(keras.models.clone_model(two_by_two)))


def test_shapes_are_known_behind_activations():
    """A gelu is made of several operations, two of which read its input."""
    dense = layers.Dense(6, activation="gelu")
    graph = equal(randomized((5, 4), dense, layers.Dense(3)))
    assert count(graph, "Shape", "Prod", "GatherV2", "Pack", "Transpose") == 0
