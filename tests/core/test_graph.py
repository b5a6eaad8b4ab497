"""The flat graph: what it is made of, and that running it is running the model."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from kacc.core import graph
from kacc.core.errors import UsageError
from tests.core import models


@pytest.mark.parametrize("build", models.MODELS, ids=lambda b: b.__name__)
def test_running_the_graph_runs_the_model(build):
    model = build()
    flat = graph.trace(model)
    x = models.inputs_for(model, 3)

    def apply(call, values):
        args, kwargs = graph.fill(call, values)
        return call.operation(*args, **kwargs)

    inputs = [x[t.name] for t in model.inputs] if isinstance(x, dict) else [x]
    got = flat.run([tf.constant(v) for v in inputs], apply)
    want = model(x, training=False)
    keras.tree.assert_same_structure(got, want)
    for a, b in zip(keras.tree.flatten(got), keras.tree.flatten(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert not [call for call in flat.calls if graph.is_container(call.operation)]


def test_paths_name_the_models_around_a_layer():
    paths = [call.path for call in graph.trace(models.nested()).calls]
    assert paths == [
        "body/stem/conv",
        "body/stem/relu",
        "body/block/conv",
        "body/block/add",
        "body/flat",
        "head",
    ]


def test_operators_of_graphs_last_and_those_of_a_call_do_not():
    lasting = {c.path: c.lasting for c in graph.trace(models.operators()).calls}
    assert set(lasting.values()) == {True}
    model = models.subclassed()
    short = {c.path: c.lasting for c in graph.trace(model).calls}
    assert [path for path, last in short.items() if last] == [
        "block/first",
        "block/second",
        "pool",
        "head",
    ]
    assert len(short) == 6


def test_shared_layers_are_called_twice():
    calls = graph.trace(models.shared()).calls
    first, second = [c for c in calls if c.path == "conv"]
    assert first.operation is second.operation
    assert second.inputs == first.outputs


def test_producers_and_consumers():
    flat = graph.trace(models.functional())
    by_path = {call.path: call for call in flat.calls}
    (stem,) = by_path["stem"].outputs
    readers = [(call.path, position) for call, position in flat.consumers()[stem]]
    assert readers == [("conv", 0), ("add", 0)]
    assert flat.producers()[stem] is by_path["stem"]
    assert flat.inputs[0] not in flat.producers()


@pytest.mark.parametrize("build", models.MODELS, ids=lambda b: b.__name__)
def test_tracing_leaves_no_trace(build):
    """Symbolic calls leave nodes on layers, which would end up in saved models."""
    model = build()

    def nodes():
        return [
            (len(layer._inbound_nodes), len(layer._outbound_nodes))
            for layer in model._flatten_layers()
        ]

    before, config = nodes(), model.to_json()
    graph.trace(model)
    graph.trace(model)
    assert nodes() == before
    assert model.to_json() == config


def test_raw_tensorflow_in_a_call_is_a_usage_error():
    class Raw(keras.Model):
        def call(self, x):
            return tf.signal.fft(tf.cast(x, tf.complex64))

    model = Raw(name="raw")
    model(np.ones((1, 4), "float32"))
    with pytest.raises(UsageError, match=r"'raw' must run on symbolic.*keras\.ops"):
        graph.trace(model)


def test_a_block_that_cannot_be_opened_keeps_its_reason():
    class Raw(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = layers.Dense(4)

        def call(self, x):
            return tf.raw_ops.Relu(features=self.dense(x))

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape)

    class Whole(keras.Model):
        def __init__(self):
            super().__init__()
            self.raw, self.head = Raw(name="raw"), layers.Dense(2, name="head")

        def call(self, x):
            return self.head(self.raw(x))

    model = Whole()
    model(np.ones((1, 4), "float32"))
    reasons = {call.path: call.reason for call in graph.trace(model).calls}
    assert reasons["head"] is None
    assert "symbolic" in reasons["raw"]


def test_subclassed_models_with_several_inputs():
    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3)

        def call(self, inputs):
            return ops.add(self.dense(inputs["a"]), inputs["b"])

    model = Two()
    model({"a": np.ones((2, 4), "float32"), "b": np.ones((2, 3), "float32")})
    flat = graph.trace(model)
    assert [t.shape for t in flat.inputs] == [(None, 4), (None, 3)]


@pytest.mark.parametrize("thing", ["a model", None, 3])
def test_things_that_are_no_models(thing):
    with pytest.raises(UsageError, match="Keras 3 models"):
        graph.require_built(thing)


def test_models_of_legacy_keras():
    tf_keras = pytest.importorskip("tf_keras")
    model = tf_keras.Sequential([tf_keras.layers.Dense(2, input_shape=(3,))])
    with pytest.raises(UsageError, match=r"Keras 3 models.*tf_keras.*version 3"):
        graph.trace(model)


@pytest.mark.parametrize(
    "model", [keras.Sequential([layers.Dense(2)]), models.Plain(name="plain")]
)
def test_unbuilt_models(model):
    with pytest.raises(UsageError, match=r"must be built.*unbuilt model.*keras\.Input"):
        graph.trace(model)
