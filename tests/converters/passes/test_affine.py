"""Folding of factors and summands: the operations are gone, the outputs the same."""

import keras
import numpy as np
import pytest

from kacc.converters.passes import applied, optimized
from kacc.converters.trace import freeze
from tests.converters.passes.graphs import count, equal, randomized, run

layers = keras.layers
LINEAR = {
    "conv": lambda **k: layers.Conv2D(6, 3, **k),
    "pointwise": lambda **k: layers.Conv2D(6, 1, **k),
    "depthwise": lambda **k: layers.DepthwiseConv2D(3, depth_multiplier=2, **k),
    "separable": lambda **k: layers.SeparableConv2D(6, 3, **k),
    "grouped": lambda **k: layers.Conv2D(6, 3, groups=2, **k),
    "transposed": lambda **k: layers.Conv2DTranspose(6, 3, strides=2, **k),
    "strided": lambda **k: layers.Conv2D(6, 3, strides=2, **k),
    "dilated": lambda **k: layers.Conv2D(6, 3, dilation_rate=2, **k),
    "dilated depthwise": lambda **k: layers.DepthwiseConv2D(3, dilation_rate=2, **k),
}
ALONG = {
    "conv1d": ((9, 4), lambda: layers.Conv1D(6, 3)),
    "dilated conv1d": ((9, 4), lambda: layers.Conv1D(6, 3, dilation_rate=2)),
    "separable conv1d": ((9, 4), lambda: layers.SeparableConv1D(6, 3)),
    "transposed conv1d": ((9, 4), lambda: layers.Conv1DTranspose(6, 3)),
    "conv3d": ((5, 5, 5, 4), lambda: layers.Conv3D(6, 3)),
    "transposed conv3d": ((3, 3, 3, 4), lambda: layers.Conv3DTranspose(6, 3)),
    "dense": ((4,), lambda: layers.Dense(6)),
    "dense on a sequence": ((5, 4), lambda: layers.Dense(6)),
    "dense on images": ((3, 3, 4), lambda: layers.Dense(6)),
    "einsum": (
        (5, 4),
        lambda: layers.EinsumDense(
            "abc,cd->abd", output_shape=(None, 6), bias_axes="d"
        ),
    ),
}


@pytest.mark.sampled(5)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kind", LINEAR)
def test_batch_normalization_behind_a_convolution(kind, padding, bias):
    model = randomized(
        (9, 9, 4),
        LINEAR[kind](padding=padding, use_bias=bias),
        layers.BatchNormalization(),
        layers.ReLU(),
    )
    graph = equal(model)
    assert count(graph, "Mul", "AddV2", "Sub", "Rsqrt") == 0
    assert count(graph, "BiasAdd") == 1


@pytest.mark.parametrize("kind", ALONG)
def test_batch_normalization_behind_other_layers(kind):
    shape, make = ALONG[kind]
    graph = equal(randomized(shape, make(), layers.BatchNormalization(), layers.ReLU()))
    assert count(graph, "Mul", "AddV2", "Sub", "Rsqrt") == 0
    assert count(graph, "BiasAdd") == 1


def test_the_bias_stands_right_behind_the_product():
    """There it can be computed with it, reshaped or not."""
    graph = applied_nodes(randomized((5, 4), layers.Dense(6, activation="relu")))
    (bias,) = [node for node in graph.values() if node.op == "BiasAdd"]
    assert graph[bias.input[0]].op == "MatMul"


def applied_nodes(model):
    return {node.name: node for node in equal(model).graph_def.node}


@pytest.mark.parametrize("kind", ["conv", "grouped", "depthwise", "dilated"])
def test_batch_normalization_before_a_convolution_of_valid_padding(kind):
    model = randomized(
        (9, 9, 4),
        layers.BatchNormalization(),
        LINEAR[kind](padding="valid"),
        zeros=kind != "dilated",
    )
    graph = equal(model)
    assert count(graph, "Mul") == 0
    # TensorFlow computes dilation by rearranged images, whose size may need padding.
    assert count(graph, "AddV2") == (1 if kind == "dilated" else 0)


@pytest.mark.parametrize(
    "kind", ["conv", "grouped", "depthwise", "dilated", "transposed", "strided"]
)
def test_only_the_factor_goes_where_zeros_are_put_between(kind):
    model = randomized(
        (9, 9, 4),
        layers.BatchNormalization(),
        LINEAR[kind](padding="same"),
        zeros=False,
    )
    graph = equal(model)
    assert count(graph, "Mul") == 0
    assert count(graph, "AddV2") == 1


def test_a_factor_of_zero_before_padding_stays():
    model = randomized(
        (9, 9, 4), layers.BatchNormalization(), layers.Conv2D(3, 3, padding="same")
    )
    assert count(equal(model), "Mul", "AddV2") == 2


@pytest.mark.parametrize("shape", [(4,), (5, 4), (3, 3, 4)])
def test_batch_normalization_before_a_dense_layer(shape):
    model = randomized(shape, layers.BatchNormalization(), layers.Dense(6))
    assert count(equal(model), "Mul", "AddV2") == 0


def test_batch_normalization_before_flattening():
    model = randomized(
        (3, 5, 4), layers.BatchNormalization(), layers.Flatten(), layers.Dense(6)
    )
    assert count(equal(model), "Mul", "AddV2") == 0


def test_batch_normalization_behind_a_reshape():
    model = randomized(
        (7,), layers.Dense(24), layers.Reshape((2, 3, 4)), layers.BatchNormalization()
    )
    assert count(equal(model), "Mul", "AddV2") == 0


def test_batch_normalization_between_two_layers_goes_to_the_first():
    model = randomized(
        (9, 9, 4),
        layers.DepthwiseConv2D(3, name="first"),
        layers.BatchNormalization(),
        layers.Conv2D(5, 1, use_bias=False, name="second"),
    )
    graph = equal(model)
    assert count(graph, "Mul", "AddV2") == 0
    names = {node.name for node in graph.graph_def.node}
    assert {"net/first/depthwise", "net/first/depthwise/kernel"} <= names
    assert "net/second/convolution/kernel" not in names
    assert graph.layer_of("net/first/depthwise/kernel") == "first"


def test_a_layer_between_two_normalizations():
    model = randomized(
        (9, 9, 4),
        layers.BatchNormalization(),
        layers.Conv2D(5, 3),
        layers.BatchNormalization(),
    )
    assert count(equal(model), "Mul", "AddV2") == 0


def test_channels_are_followed_through_transposes():
    model = randomized(
        (3, 4, 5),
        layers.BatchNormalization(),
        layers.Permute((3, 1, 2)),
        layers.Flatten(),
        layers.Dense(24),
        layers.Reshape((2, 3, 4)),
        layers.Permute((3, 1, 2)),
        layers.BatchNormalization(axis=1),
    )
    assert count(equal(model), "Mul", "AddV2") == 0


def test_constants_from_which_is_subtracted():
    import tensorflow as tf

    from tests.converters.passes.graphs import frozen, same

    rng = np.random.default_rng(2)
    kernel = rng.normal(size=(4, 3)).astype("float32")
    ones, twos = np.arange(1, 5, dtype="float32"), np.float32(2)
    source = frozen(lambda x: twos - tf.matmul(ones - x, kernel) / 4, (None, 4))
    graph = optimized(source)
    assert count(graph, "Sub", "RealDiv", "Mul") == 0
    same(source, graph, [rng.normal(size=(5, 4)).astype("float32")])


def test_before_an_activation_it_stays_as_two_operations():
    model = randomized(
        (9, 9, 4), layers.BatchNormalization(), layers.ReLU(), layers.Conv2D(3, 3)
    )
    graph = equal(model)
    assert count(graph, "Mul") == count(graph, "AddV2") == 1
    assert count(graph, "Sub", "Rsqrt") == 0


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_preprocessing_becomes_part_of_the_first_layer(padding):
    model = randomized(
        (9, 9, 3),
        layers.Rescaling(1 / 127.5, offset=-1),
        layers.Normalization(mean=[0.1, -0.2, 0.3], variance=[0.5, 0.4, 0.3]),
        layers.Conv2D(4, 3, padding=padding),
    )
    x = np.random.default_rng(0).integers(0, 256, (4, 9, 9, 3)).astype("float32")
    graph = equal(model, x)
    assert count(graph, "Mul", "Sub", "RealDiv") == 0
    assert count(graph, "AddV2") == (padding == "same")


def test_preprocessing_on_its_own_is_two_operations():
    model = randomized(
        (9, 9, 3),
        layers.Rescaling(1 / 127.5, offset=-1),
        layers.Normalization(mean=[0.1, -0.2, 0.3], variance=[0.5, 0.4, 0.3]),
        layers.ReLU(),
    )
    x = np.random.default_rng(0).integers(0, 256, (4, 9, 9, 3)).astype("float32")
    graph = equal(model, x)
    assert count(graph, "Mul") == count(graph, "AddV2") == 1
    assert count(graph, "Sub", "RealDiv") == 0


def test_factors_pass_zero_padding_and_summands_do_not():
    model = randomized(
        (9, 9, 3),
        layers.Rescaling(1 / 255, offset=-1),
        layers.ZeroPadding2D(2),
        layers.Conv2D(4, 3),
    )
    graph = equal(model)
    assert count(graph, "Mul") == 0
    assert count(graph, "AddV2") == 1


def test_a_shift_of_many_deviations_stays():
    """Else the digits that the subtraction leaves would be lost."""
    model = randomized(
        (3,),
        layers.Normalization(mean=[1e5, 2e5, 3e5], variance=[1.0, 4.0, 1.0]),
        layers.Dense(4),
    )
    x = np.random.default_rng(0).normal((1e5, 2e5, 3e5), 2.0, (8, 3))
    graph = equal(model, x.astype("float32"))
    assert count(graph, "Sub") == 1
    assert count(graph, "RealDiv") == 0


def test_results_that_others_see_are_not_scaled():
    image = keras.Input((9, 9, 4))
    conv = layers.Conv2D(6, 3)(image)
    norm = layers.BatchNormalization()(conv)
    for outputs in ([conv, norm], [norm, layers.ReLU()(conv)]):
        graph = equal(run(keras.Model(image, outputs)))
        assert count(graph, "Mul") == count(graph, "AddV2") == 1
    outputs = [norm, layers.Conv2D(3, 1)(norm)]
    graph = equal(run(keras.Model(image, outputs)))
    assert count(graph, "Mul", "AddV2") == 0
    assert len(set(graph.output_tensors)) == 2


def test_normalizations_that_several_read_stay():
    image = keras.Input((9, 9, 4))
    norm = layers.BatchNormalization()(image)
    outputs = [layers.Conv2D(3, 3)(norm), layers.Conv2D(3, 1)(norm)]
    graph = equal(run(keras.Model(image, outputs)))
    assert count(graph, "Mul") == count(graph, "AddV2") == 1


def test_kernels_of_shared_layers_are_folded_one_by_one():
    image = keras.Input((9, 9, 4))
    conv = layers.Conv2D(4, 3, padding="same")
    x = layers.BatchNormalization()(conv(image))
    y = layers.BatchNormalization()(conv(x))
    graph = equal(run(keras.Model(image, [y, layers.ReLU()(conv(y))])))
    assert count(graph, "Mul", "AddV2") == 0
    assert count(graph, "Conv2D") == count(graph, "BiasAdd") == 3


def test_nested_models_and_residuals():
    block = keras.Sequential(
        [
            layers.Conv2D(4, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dropout(0.5),
            layers.Conv2D(4, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
        ]
    )
    image = keras.Input((8, 8, 4))
    x = layers.ReLU()(layers.Add()([image, block(image)]))
    x = layers.GlobalAveragePooling2D()(x)
    graph = equal(run(keras.Model(image, layers.Dense(3)(x))))
    assert count(graph, "Mul", "Sub") == 0
    assert count(graph, "AddV2") == 1
    assert count(graph, "BiasAdd") == 3


def test_attention_has_its_biases_behind_its_products():
    x = keras.Input((5, 8))
    y = layers.MultiHeadAttention(2, 4)(x, x)
    graph = equal(run(keras.Model(x, layers.LayerNormalization()(y))))
    assert count(graph, "BiasAdd") == 4


@pytest.mark.parametrize("training", ["fused", "first"])
def test_other_forms_of_batch_normalization(training):
    """Fused ones, and those of channels that come first."""
    import tensorflow as tf

    from tests.converters.passes.graphs import frozen, same

    rng = np.random.default_rng(1)
    vectors = [rng.uniform(0.5, 1.5, 6).astype("float32") for _ in range(4)]
    kernel = rng.normal(size=(3, 3, 4, 6)).astype("float32")

    def fused(x):
        y = tf.nn.conv2d(x, kernel, 1, "SAME")
        return tf.compat.v1.nn.fused_batch_norm(
            y, *vectors[:2], vectors[2], vectors[3], is_training=False
        )[0]

    def first(x):
        y = tf.nn.conv2d(tf.transpose(x, (0, 3, 1, 2)), kernel, 1, "SAME", "NCHW")
        y = tf.nn.bias_add(y, vectors[0], data_format="NCHW")
        y = y * vectors[1][:, None, None] + vectors[2][None, :, None, None]
        return tf.transpose(y, (0, 2, 3, 1))

    source = frozen({"fused": fused, "first": first}[training], (2, 7, 7, 4))
    graph = optimized(source)
    assert count(graph, "FusedBatchNormV3", "Mul", "AddV2") == 0
    assert count(graph, "BiasAdd") == 1
    form = "NHWC" if training == "fused" else "NCHW"
    (bias,) = [node for node in graph.graph_def.node if node.op == "BiasAdd"]
    assert bias.attr["data_format"].s.decode() == form
    if training == "fused":  # the other one does not run on every CPU
        same(source, graph, [rng.normal(size=(2, 7, 7, 4)).astype("float32")])


def test_quantized_models_keep_their_numbers():
    model = randomized((9, 9, 4), layers.Conv2D(4, 3), layers.BatchNormalization())
    graph = optimized(freeze(model), quantized=True)
    kernel = model.layers[0].kernel.numpy().tobytes()
    kernels = [n.attr["value"].tensor.tensor_content for n in graph.graph_def.node]
    assert count(graph, "Mul") == count(graph, "AddV2") == 1
    assert kernel in kernels
    equal(model)


def test_the_given_graph_is_never_changed():
    model = randomized((9, 9, 4), layers.Conv2D(4, 3), layers.BatchNormalization())
    source = freeze(model)
    before = source.graph_def.SerializeToString(deterministic=True)
    optimized(source)
    applied(source)
    assert source.graph_def.SerializeToString(deterministic=True) == before


def test_a_second_time_changes_nothing():
    model = randomized(
        (9, 9, 4), layers.Conv2D(4, 3, padding="same"), layers.BatchNormalization()
    )
    once = optimized(freeze(model))
    assert optimized(once).graph_def == once.graph_def
