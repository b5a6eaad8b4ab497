"""Integers written after conversion, where layers have equal weights."""

import keras
import numpy as np
import pytest
from keras import layers

import kacc
from kacc.core.errors import ConversionError
from kacc.quantization import calibrate
from kacc.quantization.transform import quantize_of

FOUR_BITS = [kacc.Rule(".*", bits=4)]
SCHEMES = [("int8", []), ("w4a8", FOUR_BITS)]

LAYERS = {
    "conv": lambda name: layers.Conv2D(4, 3, name=name),
    "dense": lambda name: layers.Dense(4, name=name),
}


def one_input(first, second, x):
    return [first(x), second(x)]


def two_inputs(first, second, x):
    return [first(x), second(layers.ReLU()(x))]


def called_again_at_the_end(first, second, x):
    return [first(x), second(layers.ReLU()(x)), first(layers.ReLU(6.0)(x))]


def called_again_before_the_other(first, second, x):
    return [first(x), first(layers.ReLU(6.0)(x)), second(layers.ReLU()(x))]


def twins(kind, calls):
    """Two layers of the same weights."""
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 3))
    x = layers.Conv2D(3, 1, name="before")(image)
    first, second = (LAYERS[kind](name) for name in ("first", "second"))
    model = keras.Model(image, calls(first, second, x))
    second.set_weights(first.get_weights())
    return model


def with_another_bias(model):
    second = model.get_layer("second")
    second.bias.assign_add(np.linspace(0.1, 0.5, second.bias.shape[0]))
    return second


def assert_equals_file(model, scheme, x, path):
    artifact = kacc.convert(model, path / "m.tflite", f"tflite-{scheme}")
    assert kacc.parity(model, artifact, 1.3 * x).equal == 1


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).normal(size=(32, 6, 6, 3)).astype("float32")


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("scheme", "rules"), SCHEMES, ids=["int8", "w4a8"])
@pytest.mark.parametrize(
    "calls",
    [
        one_input,
        two_inputs,
        called_again_at_the_end,
        called_again_before_the_other,
    ],
    ids=lambda calls: calls.__name__,
)
@pytest.mark.parametrize("steps", ["equal", "different"])
@pytest.mark.parametrize("kind", LAYERS)
def test_each_keeps_its_own_bias_and_steps(
    kind, steps, calls, scheme, rules, images, tmp_path
):
    model = twins(kind, calls)
    second = with_another_bias(model)
    kacc.quantize(model, scheme, rules, learned_steps=True)
    calibrate(model, [images])
    if steps == "different":  # as after training
        gain = quantize_of(second)._variables["kernel_gain"]
        gain.assign(np.full(gain.shape, 0.05, "float32"))
    elif calls is one_input:  # of the products the converter makes one
        with pytest.raises(ConversionError, match="second"):
            kacc.convert(model, tmp_path / "m.tflite", f"tflite-{scheme}")
        return
    assert_equals_file(model, scheme, images, tmp_path)


def test_one_product_with_two_biases_is_refused(images, tmp_path):
    """The converter adds the biases of both behind it, in float."""
    model = twins("conv", one_input)
    with_another_bias(model)
    kacc.quantize(model)
    calibrate(model, [images])
    with pytest.raises(ConversionError, match="in float: CONV_2D from first"):
        kacc.convert(model, tmp_path / "m.tflite", "tflite-int8")


@pytest.mark.parametrize(("scheme", "rules"), SCHEMES, ids=["int8", "w4a8"])
def test_layers_that_the_converter_makes_one_of(scheme, rules, images, tmp_path):
    """They compute the same of the same input, so that one stands for both."""
    model = twins("conv", one_input)
    kacc.quantize(model, scheme, rules, learned_steps=True)
    calibrate(model, [images])
    assert_equals_file(model, scheme, images, tmp_path)


def test_equal_weights_of_different_widths(images, tmp_path):
    """Of a kernel of ones the converter makes one constant for 4 and 8 bits."""
    model = twins("conv", two_inputs)
    for name in ("first", "second"):
        kernel = model.get_layer(name).kernel
        kernel.assign(np.ones(kernel.shape))
    rules = [kacc.Rule("first|before", bits=8), kacc.Rule("second", bits=4)]
    kacc.quantize(model, "w4a8", rules, learned_steps=True)
    calibrate(model, [images])
    assert_equals_file(model, "w4a8", images, tmp_path)


@pytest.mark.parametrize("scheme", ["int8", "w4a8"])
@pytest.mark.parametrize("shared_axes", [None, [1, 2]])
def test_prelu_with_learned_steps(scheme, shared_axes, images, tmp_path):
    image = keras.Input((6, 6, 3))
    slopes = layers.PReLU(shared_axes=shared_axes, alpha_initializer="random_uniform")
    model = keras.Model(image, layers.Conv2D(2, 3)(slopes(image)))
    kacc.quantize(model, scheme, learned_steps=True)
    calibrate(model, [images])
    assert_equals_file(model, scheme, images, tmp_path)


@pytest.mark.parametrize("kind", LAYERS)
def test_steps_of_a_layer_of_zeros(kind, images, tmp_path):
    """Any step is right; by large ones XNNPACK's multipliers end."""
    image = keras.Input((6, 6, 3))
    x = layers.Conv2D(3, 1, name="before")(image)
    empty = LAYERS[kind]("empty")
    model = keras.Model(image, layers.Conv2D(2, 1)(empty(x)))
    empty.kernel.assign(0.0 * empty.kernel)
    empty.bias.assign([1e-3, 0.0, -1e-3, 2e-3])
    kacc.quantize(model, learned_steps=True)
    calibrate(model, [images])
    assert_equals_file(model, "int8", images, tmp_path)
