"""Whole models of every kind: what Keras predicts is what the file computes."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import kacc
from kacc.converters.convert import convert
from kacc.core.fold import batch_norm_affine
from kacc.quantization import calibrate
from tests.core import models


def quantized(build):
    """A model with random biases, its data, and wider data beyond the ranges."""
    keras.utils.set_random_seed(2)
    model = build()
    rng = np.random.default_rng(3)
    for variable in model.trainable_variables:
        variable.assign(rng.uniform(-0.7, 0.7, variable.shape))
    x = models.inputs_for(model, 64)
    kacc.quantize(model)
    calibrate(model, [x])
    return model, keras.tree.map_structure(lambda v: 1.3 * v, x)


def assert_equal_to_file(model, x, path):
    artifact = convert(model, path / "model.tflite", "tflite-int8")
    want = keras.tree.flatten(model.predict(x, batch_size=16, verbose=0))
    got = keras.tree.flatten(artifact.predict(x))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)
        assert len(np.unique(a)) > 10


@pytest.mark.parametrize("build", models.MODELS, ids=lambda b: b.__name__)
def test_predict_equals_the_file(build, tmp_path):
    model, x = quantized(build)
    assert_equal_to_file(model, x, tmp_path)


@pytest.mark.parametrize("build", [models.sequential, models.plain])
def test_models_of_bfloat16_predict_as_their_float32_file(build, tmp_path):
    """Keras rounds weights, and the inputs of a subclassed model, before its call."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model, x = quantized(build)
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.compute_dtype == "bfloat16"
    assert_equal_to_file(model, x, tmp_path)


def wide_batch_normalization():
    image = keras.Input((2, 2, 512))
    x = keras.layers.BatchNormalization()(image)
    return keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(x)))


def test_the_numbers_of_a_lone_batch_normalization_are_those_of_its_file(tmp_path):
    """The converter's own square root is one rounding off in a third of them."""
    model = wide_batch_normalization()
    rng = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(rng.uniform(0.3, 3.0, variable.shape))
    kacc.quantize(model)
    calibrate(model, [rng.normal(size=(8, 2, 2, 512)).astype("float32")])
    artifact = convert(model, tmp_path / "model.tflite", "tflite-int8")
    [scale] = kernel_scales(artifact, 512)
    factor, _ = batch_norm_affine(model.layers[1])
    want = np.abs(np.asarray(factor, np.float64)) / 127
    np.testing.assert_array_equal(scale, want.astype("float32"))


def kernel_scales(artifact, channels):
    """The scales of the kernels with so many, of one for each channel."""
    interpreter = Interpreter(str(artifact.path))
    found = [
        detail["quantization_parameters"]["scales"]
        for detail in interpreter.get_tensor_details()
        if detail["dtype"] == np.int8
    ]
    return [scales for scales in found if len(scales) == channels]


def test_equality_holds_while_training_goes_on(tmp_path):
    model, x = quantized(models.sequential)
    model.compile("sgd", "mse", run_eagerly=True)
    before = model.predict(x, verbose=0)
    model.fit(x, models.targets_for(model, 64), verbose=0)
    assert not np.array_equal(model.predict(x, verbose=0), before)
    assert_equal_to_file(model, x, tmp_path)


def shared_sum_before(join):
    """A sum that is made twice, once for a layer that makes its inputs' grids one."""

    def build():
        image = keras.Input(models.SHAPE)
        x = keras.layers.DepthwiseConv2D(3)(image)
        y = keras.layers.DepthwiseConv2D(1)(x)
        add = keras.layers.Add()
        outputs = [join()([add([x, y]), x]), add([y, y])]
        return keras.Model(image, outputs)

    return build


@pytest.mark.parametrize("join", ["Concatenate", "Maximum"])
def test_a_shared_layer_before_a_join_equals_the_file(join, tmp_path):
    """The file has the join's range where only that reads, the layer's elsewhere."""
    model, x = quantized(shared_sum_before(getattr(keras.layers, join)))
    assert_equal_to_file(model, x, tmp_path)


def shared_normalization_before(join):
    """Of vectors, which the file reshapes between the layer and the join."""

    def build():
        image = keras.Input(models.SHAPE)
        vector = keras.layers.Dense(5)(keras.layers.Flatten()(image))
        normalization = keras.layers.BatchNormalization()
        x = normalization(vector)
        return keras.Model(image, join()([vector, normalization(x), x]))

    return build


@pytest.mark.parametrize("join", ["Concatenate", "Maximum", "Minimum"])
def test_a_shared_layer_that_is_reshaped_before_a_join(join, tmp_path):
    """The converter kept the layer's range there, and rounded a second time."""
    build = shared_normalization_before(getattr(keras.layers, join))
    model, x = quantized(build)
    assert_equal_to_file(model, x, tmp_path)


@pytest.mark.parametrize("activation", ["hard_sigmoid", "softsign", "hard_tanh"])
def test_an_activation_of_a_known_range_before_a_join(activation, tmp_path):
    """The converter gives it the join's range unless its operator prescribes one."""

    def build():
        image = keras.Input(models.SHAPE)
        x = keras.layers.DepthwiseConv2D(3)(image)
        bounded = keras.layers.Activation(activation)(x)
        return keras.Model(image, keras.layers.Concatenate()([bounded, x]))

    model, x = quantized(build)
    assert_equal_to_file(model, x, tmp_path)


def a_tensor_that_two_joins_read():
    image = keras.Input(models.SHAPE)
    x = keras.layers.DepthwiseConv2D(1)(image)
    size = keras.ops.absolute(x)
    joined = keras.layers.Concatenate()([size, x, x])
    return keras.Model(image, keras.layers.Concatenate()([joined, x, size]))


def a_layer_called_twice_on_a_tensor():
    image = keras.Input(models.SHAPE)
    vector = keras.layers.Dense(5)(keras.layers.Flatten()(image))
    normalization = keras.layers.BatchNormalization()
    x, y = normalization(vector), normalization(vector)
    joined = keras.layers.Maximum()([y, x, vector])
    return keras.Model(image, [joined, keras.layers.Dense(4)(y)])


def a_prelu_beside_relus():
    image = keras.Input(models.SHAPE)
    x = keras.layers.DepthwiseConv2D(1)(image)
    prelu = keras.layers.PReLU(shared_axes=[1, 2])
    limited = prelu(keras.ops.minimum(x, 0.3))
    return keras.Model(image, [prelu(x), keras.ops.elu(x), keras.ops.relu(x), limited])


def a_prelu_and_a_join_of_one_of_several_outputs():
    image = keras.Input(models.SHAPE)
    x = keras.ops.unstack(keras.layers.DepthwiseConv2D(1)(image), axis=1)[2]
    y = keras.layers.PReLU()(x)
    return keras.Model(image, [y, keras.layers.Maximum()([y, x])])


def a_leaky_relu_of_two_layers():
    image = keras.Input(models.SHAPE)
    x = keras.layers.DepthwiseConv2D(1)(image)
    return keras.Model(image, keras.layers.Maximum()([x * 0.3, x]))


@pytest.mark.parametrize(
    "build",
    [
        a_tensor_that_two_joins_read,
        a_layer_called_twice_on_a_tensor,
        a_prelu_beside_relus,
        a_prelu_and_a_join_of_one_of_several_outputs,
        a_leaky_relu_of_two_layers,
    ],
)
def test_what_the_converter_makes_something_else_of(build, tmp_path):
    model, x = quantized(build)
    assert_equal_to_file(model, x, tmp_path)


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("size", [0.01, 0.5])
def test_softsign_of_small_values(size, joined, tmp_path):
    """On a wide range LiteRT's DIV made the largest integer of small quotients."""
    values = keras.Input((64,))
    y = keras.ops.softsign(keras.ops.clip(values, -size, size))
    y = keras.layers.Concatenate()([y, values]) if joined else y
    model = keras.Model(values, [y, keras.layers.Dense(2)(values)])
    x = np.linspace(-1, 1, 4 * 64, dtype="float32").reshape(4, 64)
    kacc.quantize(model)
    calibrate(model, [x])
    artifact = convert(model, tmp_path / "model.tflite", "tflite-int8")
    [softsign, _] = kacc.parity(model, artifact, x).outputs
    assert softsign.equal == 1
    got = artifact.predict(x)[0][:, :64]
    inside = np.clip(x, -size, size)
    steps = 1 / 255 + 2.5 * (1 if joined else size) / 127  # of the input, of the output
    np.testing.assert_allclose(got, inside / (1 + abs(inside)), atol=steps)


@pytest.mark.parametrize("kernels", ["builtin", "reference"])
def test_a_number_added_where_many_sums_are_halves(kernels, tmp_path):
    """The built-in ADD takes eight values at once, and rounds those otherwise."""
    image = keras.Input((37, 3))
    x = keras.ops.clip(keras.ops.clip(image, 0.0, 3.0) + 1.0, 0.0, 2.0)
    model = keras.Model(image, [x, keras.layers.Dense(2)(image)])
    data = np.random.default_rng(0).uniform(-1, 3, (3, 37, 3)).astype("float32")
    kacc.quantize(model)
    calibrate(model, [data])
    artifact = convert(model, tmp_path / "model.tflite", "tflite-int8")
    outputs = kacc.parity(model, artifact, data, kernels=kernels).outputs
    assert [output.equal for output in outputs] == [1.0, 1.0]


def a_mean_joined_with_itself():
    image = keras.Input(models.SHAPE)
    x = keras.layers.DepthwiseConv2D(3)(image)
    mean = keras.layers.Average()
    y = keras.layers.Minimum()([mean([x, x])] * 2)
    wider = keras.layers.Add()([x, keras.layers.ReLU()(x)])
    return keras.Model(image, [y, mean([wider, wider])])


def test_a_join_that_reads_a_tensor_twice_equals_the_file(tmp_path):
    model, x = quantized(a_mean_joined_with_itself)
    assert_equal_to_file(model, x, tmp_path)


def test_the_layer_table_tells_the_calls_of_a_shared_layer_apart(tmp_path):
    model, x = quantized(a_mean_joined_with_itself)
    artifact = convert(model, tmp_path / "model.tflite", "tflite-int8")
    rows = kacc.parity(model, artifact, x).layers
    means = [row.operator for row in rows if row.layer.startswith("average")]
    assert sorted(means) == ["ADD", "ADD", "MUL", "MUL"]
    assert all(row.equal == 1 for row in rows)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("relu", ["relu", "relu6"])
@pytest.mark.parametrize("layer", ["Conv2D", "Dense", "Activation"])
def test_a_relu_behind_an_activation_of_several_operators(layer, relu, tmp_path):
    """The converter fuses it into the last of them."""

    def build():
        image = keras.Input(models.SHAPE)
        outputs = []
        for name in ("swish", "elu", "softsign", "tanh_shrink", "soft_shrink"):
            arguments = {"Conv2D": (4, 3), "Dense": (4,), "Activation": ()}[layer]
            function = getattr(keras.activations, name.replace("swish", "silu"))
            x = getattr(keras.layers, layer)(*arguments, activation=function)(image)
            outputs.append(keras.layers.Activation(relu)(x))
        x = keras.layers.DepthwiseConv2D(1)(image)  # `Activation` has no weights
        return keras.Model(image, [*outputs, x])

    model, x = quantized(build)
    assert_equal_to_file(model, x, tmp_path)


def dense_read_by_a_relu_and_others():
    image = keras.Input(models.SHAPE)
    x = keras.layers.Flatten()(image)
    y = keras.layers.Dense(12)(x)
    z = keras.layers.ReLU()(keras.layers.Dropout(0.5)(y))
    outputs = [z, keras.layers.Dense(12)(y), keras.layers.Dense(12, "elu")(x)]
    return keras.Model(image, outputs)


def test_a_dense_layer_that_not_only_a_relu_reads(tmp_path):
    """The converter would compute it a second time, with the relu in it."""
    model, x = quantized(dense_read_by_a_relu_and_others)
    assert_equal_to_file(model, x, tmp_path)


def soft_shrink_of_a_moved_tensor():
    image = keras.Input(models.SHAPE)
    x = keras.layers.Cropping2D(1)(image)
    y = keras.layers.Activation("soft_shrink")(x)
    return keras.Model(image, [y, keras.layers.DepthwiseConv2D(1)(x)])


def test_an_activation_that_reads_a_moved_tensor_by_another_range(tmp_path):
    model, x = quantized(soft_shrink_of_a_moved_tensor)
    assert_equal_to_file(model, x, tmp_path)


@pytest.mark.parametrize(
    "layer", ["Conv2D", "Dense", "BatchNormalization", "RMSNormalization"]
)
def test_a_shared_layer_of_which_a_relu_reads_one_call(layer, tmp_path):
    """The converter fuses the relu into that call, and not into the others."""

    def build():
        image = keras.Input(models.SHAPE)
        arguments = {"Conv2D": (3, 1), "Dense": (3,)}.get(layer, ())
        shared = getattr(keras.layers, layer)(*arguments)
        first = keras.layers.ReLU()(shared(image))
        second = shared(keras.layers.DepthwiseConv2D(1)(image))
        outputs = [keras.layers.DepthwiseConv2D(1)(x) for x in (first, second)]
        return keras.Model(image, outputs)

    model, x = quantized(build)
    assert_equal_to_file(model, x, tmp_path)


def test_a_relu_reads_one_reshaped_call_of_a_shared_layer(tmp_path):
    """The converter kept the layer's range before it, and rounded a second time."""

    def build():
        image = keras.Input(models.SHAPE)
        vector = keras.layers.Dense(5)(keras.layers.Flatten()(image))
        normalization = keras.layers.BatchNormalization()
        x = normalization(vector)
        return keras.Model(image, [x, keras.layers.ReLU()(normalization(x))])

    model, x = quantized(build)
    assert_equal_to_file(model, x, tmp_path)


def joined_before_a_reshape():
    image = keras.Input(models.SHAPE)
    x = keras.layers.DepthwiseConv2D(1)(image)
    y = keras.layers.Rescaling(4.0)(x)
    joined = keras.layers.Concatenate()([x, y])
    return keras.Model(image, [x, keras.ops.square(keras.ops.repeat(joined, 2, -1))])


def test_a_concatenation_before_a_reshape_keeps_its_range(tmp_path):
    """The converter would give it that of an input that others read too."""
    model, x = quantized(joined_before_a_reshape)
    assert_equal_to_file(model, x, tmp_path)
