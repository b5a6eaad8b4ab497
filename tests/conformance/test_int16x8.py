"""Activations of 16 bits: every row of the registry equals its file to the bit.

A row of whose operators LiteRT lacks a 16 bit kernel stays in float, with the reason.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kacc
from kacc.converters import flatbuffer
from kacc.converters.convert import convert
from kacc.core import registry
from kacc.core.errors import ConversionError
from kacc.core.registry import Output
from kacc.quantization import calibrate
from kacc.quantization.kernels import KERNELS
from kacc.quantization.simulation import Simulation
from tests.conformance.rows import rows

# Of the others nothing is left in a file.
ROWS = [
    row
    for row in rows(fits=lambda operation: registry.lacks_wide(operation) is None)
    if row.spec.output is not Output.IDENTITY and row.examples
]


def lacking(model):
    """The operations of a model that cannot have 16 bit activations: name -> why."""
    reasons = {o.name: registry.lacks_wide(o) for o in model.operations}
    return {name: reason for name, reason in reasons.items() if reason}


@pytest.mark.sampled(11)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_it_equals_its_file(row, tmp_path):
    model = row.model()
    left = lacking(model)
    if left:
        assert_reported(model, row, left, tmp_path)
        return
    kacc.quantize(model, "int16x8")
    calibrate(model, [row.data(64, seed=1)])
    artifact = convert(model, tmp_path / "model.tflite", "tflite-int16x8")
    assert_wide(artifact)
    # Beyond the ranges too, where everything clips.
    x = row.data(64, seed=2, spread=1.5)
    for kernels in ("xnnpack", "builtin", "reference"):
        simulation = Simulation(model, KERNELS[kernels])
        want = simulation.run([tf.constant(array) for array in x])
        got = artifact.predict(x, kernels=kernels)
        for info in artifact.manifest.outputs:
            np.testing.assert_array_equal(
                got[info.name], want[info.name], err_msg=f"{kernels}: {info.name}"
            )
            assert len(np.unique(got[info.name])) > 20, "they must say something"


def assert_wide(artifact):
    """Everything is an integer: activations of 16 bits, weights of 8, biases of 64."""
    (graph,) = flatbuffer.subgraphs(artifact.read())
    types = {t.type for t in graph.tensors}
    assert types <= {"INT16", "INT8", "INT64", "INT32", "BOOL"}  # of shapes, indices
    for tensor in graph.tensors:
        if tensor.type == "INT8":
            assert tensor.constant
        if tensor.type == "INT32":  # shapes and axes
            assert tensor.scale is None
    outputs = artifact.manifest.outputs
    assert {(info.dtype, info.zero_point) for info in outputs} == {("int16", 0)}


def assert_reported(model, row, left, tmp_path):
    """They stay in float with the reason, and the conversion names them."""
    with pytest.warns(UserWarning, match="has no 16 bit kernel") as caught:
        kacc.quantize(model, "int16x8")
    for name, reason in left.items():
        assert f"{name} ({reason})" in str(caught[0].message)
    calibrate(model, [row.data(64, seed=1)])
    with pytest.raises(ConversionError, match=next(iter(left))):
        convert(model, tmp_path / "model.tflite", "tflite-int16x8")


def test_predict_of_a_trained_model_equals_its_file(tmp_path):
    """Through `fit` and `predict`, as a person does it."""
    keras.utils.set_random_seed(4)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(8, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.Activation("hard_swish"),
            layers.DepthwiseConv2D(3, activation="relu6"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(64, 8, 8, 3)), rng.integers(0, 5, 64)
    qat = kacc.callbacks.QuantizationAwareTraining("int16x8")
    model.fit(x, y, batch_size=32, epochs=2, verbose=0, callbacks=[qat])
    artifact = kacc.convert(model, tmp_path / "m.tflite", "tflite-int16x8")
    want = model.predict(2 * x, verbose=0)
    np.testing.assert_array_equal(artifact.predict(2 * x), want)
    for kernels in ("builtin", "reference"):
        simulated = kacc.simulate(model, kernels).predict(2 * x, verbose=0)
        np.testing.assert_array_equal(
            simulated, artifact.predict(2 * x, kernels=kernels)
        )


def equal_to_its_file(build, tmp_path):
    keras.utils.set_random_seed(1)
    image = keras.Input((6, 6, 4))
    outputs = keras.tree.flatten(build(image))
    model = keras.Model(image, [*outputs, keras.layers.Conv2D(2, 1)(image)])
    x = np.random.default_rng(0).normal(size=(32, 6, 6, 4)).astype("float32")
    kacc.quantize(model, "int16x8")
    calibrate(model, [x])
    artifact = convert(model, tmp_path / "model.tflite", "tflite-int16x8")
    found = kacc.parity(model, artifact, 1.3 * x).outputs
    return all(output.equal == 1 for output in found)


@pytest.mark.parametrize("ends", [(-1.0, 1.0), (-0.5, 1.0), (-1.0, 0.5), (0.0, 1.0)])
@pytest.mark.parametrize("before", ["pooling", "maximum", "another reader"])
def test_clips_are_not_lost(ends, before, tmp_path):
    """A QUANTIZE behind what keeps its input's scale is dropped without an operator."""

    def build(image):
        x = keras.layers.DepthwiseConv2D(3)(image)
        if before == "pooling":
            x = keras.layers.AveragePooling2D(2)(x)
        if before == "maximum":
            x = keras.layers.Maximum()([x, x * -0.5])
        clipped = keras.ops.clip(x, *ends)
        return [clipped, keras.ops.soft_shrink(x, 0.3), x * 0.7]

    assert equal_to_its_file(build, tmp_path)


def test_tensors_of_zeros(tmp_path):
    def build(image):
        return [image * 0.0, keras.ops.celu(keras.ops.relu(image), alpha=0.5)]

    assert equal_to_its_file(build, tmp_path)


def test_channels_whose_factor_is_zero(tmp_path):
    def build(image):
        layer = keras.layers.RMSNormalization()
        y = layer(image)
        layer.scale.assign([0.5, -0.2, 0.0, 0.0])
        return y

    assert equal_to_its_file(build, tmp_path)


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "softmax", "hard_tanh"])
def test_a_prescribed_range_before_a_join(name, tmp_path):
    """The converter knows it of 8 bits only."""

    def build(image):
        x = keras.layers.DepthwiseConv2D(3, padding="same")(image)
        y = keras.layers.Activation(name)(x)
        return [keras.layers.Concatenate()([y, x]), keras.layers.Minimum()([y, image])]

    assert equal_to_its_file(build, tmp_path)
