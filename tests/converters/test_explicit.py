"""Integers written after conversion, where layers have equal weights."""

import keras
import numpy as np
import pytest
from keras import layers

import kacc
from kacc.quantization import calibrate
from kacc.quantization.transform import quantize_of

FOUR_BITS = [kacc.Rule(".*", bits=4)]
SCHEMES = [("int8", []), ("w4a8", FOUR_BITS)]


def twins(layer, ends):
    """Two layers of the same weights, on one input or on two; one is called again."""
    image = keras.Input((6, 6, 3))
    x = layers.Conv2D(3, 1, name="before")(image)
    first, second = layer("first"), layer("second")
    other = x if ends == "one input" else layers.ReLU()(x)
    outputs = [first(x), second(other)]
    if ends == "called again":
        outputs.append(first(layers.ReLU(6.0)(x)))
    model = keras.Model(image, outputs)
    second.set_weights(first.get_weights())
    return model


LAYERS = {
    "conv": lambda name: layers.Conv2D(4, 3, name=name),
    "depthwise": lambda name: layers.DepthwiseConv2D(3, name=name),
    "dense": lambda name: layers.Dense(4, name=name),
}


@pytest.mark.parametrize(("scheme", "rules"), SCHEMES, ids=["int8", "w4a8"])
@pytest.mark.parametrize("ends", ["one input", "two inputs", "called again"])
@pytest.mark.parametrize("kind", LAYERS)
def test_layers_with_equal_weights(kind, ends, scheme, rules, tmp_path):
    keras.utils.set_random_seed(0)
    model = twins(LAYERS[kind], ends)
    x = np.random.default_rng(1).normal(size=(32, 6, 6, 3)).astype("float32")
    model.get_layer("second").bias.assign_add([0.5, *([0.1] * 3)][: _width(kind)])
    kacc.quantize(model, scheme, rules, learned_steps=True)
    calibrate(model, [x])
    # As after training: from here on the steps of both are different ones.
    _widen_steps(model.get_layer("second"))
    artifact = kacc.convert(model, tmp_path / "m.tflite", f"tflite-{scheme}")
    assert kacc.parity(model, artifact, 1.3 * x).equal == 1


def _width(kind):
    return 3 if kind == "depthwise" else 4


def _widen_steps(layer):
    gain = quantize_of(layer)._variables["kernel_gain"]
    gain.assign(np.full(gain.shape, 0.05, "float32"))
