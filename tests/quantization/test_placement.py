"""Which tensors get a range, and that the file has them: it is equal to the bit."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

import kacc
from kacc.converters.convert import convert
from kacc.quantization import calibrate, unseen_ranges
from kacc.quantization.transform import quantize_of
from tests.quantization.blocks import BLOCKS, SHAPE, model_of


@pytest.mark.parametrize(
    ("block", "ranges"), BLOCKS.items(), ids=lambda b: getattr(b, "__name__", "")
)
def test_ranges_stand_where_the_file_has_tensors(block, ranges):
    model = model_of(block)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # nothing may stay in float
        kacc.quantize(model)
    assert {_plain_name(path, block) for path in unseen_ranges(model)} == ranges


def _plain_name(path, block):
    """Without the block's prefix, and without the number of an operator."""
    name, tensor = path.removeprefix(f"{block.__name__}.").split(":")
    head, _, number = name.rpartition("_")
    return f"{head if number.isdigit() else name}:{tensor}"


@pytest.fixture(scope="module")
def quantized_blocks(tmp_path_factory):
    """All blocks as one model, and its file: a conversion each would take minutes."""
    model = model_of(*BLOCKS)
    rng = np.random.default_rng(3)
    x = [rng.normal(size=(96, *SHAPE)).astype("float32") for _ in BLOCKS]
    kacc.quantize(model)
    calibrate(model, [[array[:64] for array in x]])
    path = tmp_path_factory.mktemp("blocks") / "model.tflite"
    artifact = convert(model, path, "tflite-int8")
    wider = [1.2 * array for array in x]  # beyond the ranges too
    return model, artifact, wider


@pytest.fixture(scope="module", params=["xnnpack", "builtin", "reference"])
def outputs(request, quantized_blocks):
    model, artifact, x = quantized_blocks
    want = kacc.simulate(model, request.param)(x)
    return want, artifact.predict(x, kernels=request.param)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: b.__name__)
def test_the_file_has_these_tensors_and_rounds_them_so(block, outputs):
    want, got = outputs[0][block.__name__], outputs[1][block.__name__]
    np.testing.assert_array_equal(got, want)
    assert len(np.unique(got)) > 30


def quantized(inputs, outputs, **options):
    model = keras.Model(inputs, outputs)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kacc.quantize(model, **options)
    return model, [str(w.message) for w in caught if w.category is UserWarning]


def test_layers_after_one_in_float_quantize_what_they_read():
    x = keras.Input(SHAPE)
    y = layers.Conv2D(4, 1, name="one")(x)
    y = layers.LayerNormalization(axis=1, name="norm")(y)
    y = layers.Conv2D(4, 1, name="two")(y)
    model, reports = quantized(x, layers.Dense(2, name="head")(y))
    assert unseen_ranges(model) == [
        "one:input_0",
        "one:output",
        "two:input_0",
        "two:output",
        "head:output",
    ]
    assert reports == [
        "kacc leaves in float: "
        "norm (only normalization over the last axis is supported)"
    ]


def test_a_relu_in_float_is_not_fused():
    x = keras.Input(SHAPE)
    y = layers.Conv2D(4, 1, name="conv")(x)
    y = layers.ReLU(name="relu")(y)
    model, _ = quantized(
        x, layers.Dense(2, name="head")(y), rules=[kacc.Rule("relu", skip=True)]
    )
    assert unseen_ranges(model) == [
        "conv:input_0",
        "conv:output",
        "head:input_0",
        "head:output",
    ]


def test_outputs_of_the_model_are_tensors_even_before_a_relu():
    x = keras.Input(SHAPE)
    y = layers.Conv2D(4, 1, name="conv")(x)
    model, _ = quantized(x, [y, layers.ReLU(name="relu")(y)])
    assert unseen_ranges(model) == ["conv:input_0", "conv:output", "relu:output"]


def test_ranges_of_relus_begin_at_zero_and_prescribed_ones_are_not_learned():
    x = keras.Input(SHAPE)
    y = layers.Conv2D(4, 1, activation="relu", name="conv")(x)
    model, _ = quantized(x, layers.Dense(2, activation="sigmoid", name="head")(y))
    conv, head = (quantize_of(model.get_layer(name)) for name in ("conv", "head"))
    assert conv.ranges == {"input_0": False, "output": True}
    assert head.ranges == {"pre_activation": False}
    assert head.fixed == {"output": (0.0, 255 / 256)}


def test_operators_inside_a_call_that_need_a_home_are_reported():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.conv = layers.Conv2D(4, 1, name="conv")
            self.second = layers.Conv2D(4, 1, name="second")
            self.head = layers.Conv2D(2, 1, name="head")

        def call(self, x):
            x = self.conv(x)
            y = ops.relu(x + self.second(x))  # the head holds its range
            return self.head(y) * ops.sigmoid(self.head(y))

    model = Model()
    model(np.ones((1, *SHAPE), "float32"))
    with pytest.warns(UserWarning, match="kacc leaves in float") as caught:
        kacc.quantize(model)
    (message,) = (str(w.message) for w in caught)
    assert "sigmoid" in message
    assert "multiply" in message
    assert "cannot hold its ranges, a layer can" in message
    assert "relu" not in message
    assert "add" not in message
    assert {name.split(":")[0] for name in unseen_ranges(model)} == {
        "conv",
        "second",
        "head",
    }
    x = np.random.default_rng(0).normal(size=(8, *SHAPE)).astype("float32")
    calibrate(model, [x])
    assert np.isfinite(model(x, training=False)).all()


def averaging(before):
    """A model whose `call` averages by an operator what a function makes."""

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.conv = layers.Conv2D(4, 1, name="conv")
            self.head = layers.Conv2D(2, 1, name="head")

        def call(self, x):
            return self.head(ops.average_pool(before(self, x), 2))

    model = Model()
    model(np.ones((1, *SHAPE), "float32"))
    return model


@pytest.mark.parametrize(
    "before",
    [lambda m, x: x, lambda m, x: m.conv(x) + 1.0],
    ids=["the input", "a sum"],
)
def test_an_average_of_a_float_tensor_inside_a_call_is_reported(before):
    """The converter averages integers: the range before it would need a home."""
    with pytest.warns(UserWarning, match=r"average_pool.*cannot hold its ranges"):
        kacc.quantize(averaging(before))


def test_an_average_of_a_quantized_tensor_inside_a_call_is_not(recwarn):
    kacc.quantize(averaging(lambda model, x: model.conv(x)))
    assert not [w for w in recwarn if "in float" in str(w.message)]


def test_a_moved_float_tensor_that_no_layer_reads_is_reported():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.conv = layers.Conv2D(4, 1, name="conv")

        def call(self, x):
            return self.conv(x), ops.repeat(x, 2, axis=-1)

    model = Model()
    model(np.ones((1, *SHAPE), "float32"))
    with pytest.warns(UserWarning, match=r"repeat.*cannot hold its ranges"):
        kacc.quantize(model)


def test_a_prelu_beside_another_is_reported():
    """The converter makes one relu of both, and no longer sees a PRELU."""
    image = keras.Input((4, 4, 3))
    x = layers.Conv2D(2, 3, name="conv")(image)
    outputs = [layers.PReLU(name="prelu")(x), layers.PReLU(name="rival")(x)]
    with pytest.warns(
        UserWarning, match=r"prelu \(another PReLU reads the same tensor"
    ):
        kacc.quantize(keras.Model(image, outputs))


def test_a_prelu_beside_other_readers_is_not():
    image = keras.Input((4, 4, 3))
    x = layers.Conv2D(2, 3, name="conv")(image)
    outputs = [layers.PReLU(name="prelu")(x), layers.ReLU()(x), layers.Flatten()(x)]
    model = kacc.quantize(keras.Model(image, outputs))
    assert quantize_of(model.get_layer("prelu")) is not None
