"""What random graphs found: each bug as the smallest graph that shows it."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kacc
from kacc.converters.parity import simulated_outputs
from kacc.converters.samples import Samples
from kacc.quantization import calibrate, unseen_ranges

SHAPE = (6, 6, 3)


def quantized(outputs, inputs, change=lambda model: None):
    """A calibrated model with random weights, and data beyond its ranges."""
    model = keras.Model(inputs, outputs)
    rng = np.random.default_rng(0)
    for variable in model.weights:
        low = 0.5 if "variance" in variable.path else -1.0
        variable.assign(rng.uniform(low, 1.0, variable.shape))
    change(model)
    kacc.quantize(model)
    x = rng.normal(size=(32, *inputs.shape[1:])).astype("float32")
    calibrate(model, [x])
    return model, 1.3 * x


def assert_equals_file(model, x, path, kernels=("xnnpack", "builtin", "reference")):
    artifact = kacc.convert(model, path / "model.tflite", "tflite-int8")
    for name in kernels:
        got = keras.tree.flatten(artifact.predict(x, kernels=name))
        want = simulated_outputs(model, name, Samples([x]))
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)


def clip_beside_another_reader(image):
    x = layers.Conv2D(3, 1)(image)
    return [layers.Conv2D(2, 1)(x), layers.ReLU(max_value=1.5)(x)]


def clip_alone(image):
    return layers.ReLU(max_value=1.5)(layers.Conv2D(3, 1)(image))


def hard_tanh_in_a_layer(image):
    return layers.Conv2D(2, 1, activation="hard_tanh")(layers.Conv2D(3, 1)(image))


def clip_after_what_moves_values(image):
    x = layers.Concatenate()([layers.Conv2D(3, 1)(image), image])
    return [layers.ReLU(max_value=0.7)(x), ops.clip(layers.MaxPooling2D()(x), -1, 0.5)]


def activation_that_is_none(image):
    x = layers.Activation("linear")(layers.Conv2D(3, 1)(image))
    return layers.Conv2D(2, 1)(x)


def input_behind_identities(image):
    """One is read by a layer, the other is an output."""
    drop = layers.Dropout(0.1)
    return [drop(image), layers.Conv2D(2, 1)(drop(image))]


def transposed_convolution_of_an_output(image):
    """It reads the shape of a tensor of which the converter takes the floats."""
    x = layers.Conv2D(3, 1)(image)
    return [x, layers.Conv2DTranspose(2, 3, strides=2)(x)]


def transposed_convolution_of_a_sequence(image):
    x = layers.Conv1D(3, 1)(layers.Reshape((-1, 3))(image))
    return [x, layers.Conv1DTranspose(2, 3)(x)]


def pooled_for_a_concatenation_and_others(image):
    """The converter must not change the scale of the pooling for all its readers."""
    x = layers.Conv2D(4, 3, activation="relu")(image)
    x = layers.MaxPooling2D(2)(x)
    y = layers.Conv2D(4, 3, padding="same")(layers.Dropout(0.1)(x))
    x = layers.Concatenate()([layers.Dropout(0.1)(x), y])
    x = layers.AveragePooling2D(2)(layers.ZeroPadding2D(1)(x))
    y = layers.Conv2D(8, 1)(x)
    return layers.Maximum()([x, y])


def pooled_for_a_concatenation_and_as_an_output(image):
    x = layers.Conv2D(4, 3, activation="relu")(image)
    pooled = layers.MaxPooling2D(2)(x)
    return [pooled, layers.Concatenate()([pooled, layers.Conv2D(2, 2, strides=2)(x)])]


def transposed_convolution_of_many_channels(image):
    """Vector instructions take the first eight, and round halves up."""
    gelu = layers.Conv2DTranspose(8, 2, activation="gelu")
    return [layers.Conv2DTranspose(12, 3)(image), gelu(image)]


def prelu_after_a_permutation(image):
    """The converter must not tear it apart, which leaves floats."""
    return layers.PReLU()(layers.Permute((2, 1, 3))(layers.Conv2D(3, 1)(image)))


GRAPHS = [
    clip_beside_another_reader,
    clip_alone,
    hard_tanh_in_a_layer,
    clip_after_what_moves_values,
    activation_that_is_none,
    input_behind_identities,
    transposed_convolution_of_an_output,
    transposed_convolution_of_a_sequence,
    pooled_for_a_concatenation_and_others,
    pooled_for_a_concatenation_and_as_an_output,
    transposed_convolution_of_many_channels,
    prelu_after_a_permutation,
]


@pytest.mark.parametrize("build", GRAPHS, ids=lambda b: b.__name__)
def test_graphs_equal_their_file(build, tmp_path):
    image = keras.Input(SHAPE)
    assert_equals_file(*quantized(build(image), image), tmp_path)


def averaged_sequence(x):
    return layers.AveragePooling1D(2)(layers.Reshape((-1, x.shape[-1]))(x))


def shared_pooling(x):
    """Of whose calls one is read by a relu."""
    pool = layers.MaxPooling2D(2)
    return layers.ReLU()(pool(x)), pool(layers.Conv2D(4, 1)(x))


MOVES = {
    "max": lambda x: layers.MaxPooling2D(2)(x),
    "average": lambda x: layers.AveragePooling2D(2)(x),
    "max of a sequence": lambda x: layers.MaxPooling1D(2)(layers.Reshape((-1, 4))(x)),
    "average of a sequence": averaged_sequence,
    "largest": lambda x: layers.GlobalMaxPooling2D()(x),
    "flatten": lambda x: layers.Flatten()(x),
    "reshape": lambda x: layers.Reshape((4, 9, -1))(x),
    "permute": lambda x: layers.Permute((2, 1, 3))(x),
    "pad": lambda x: layers.ZeroPadding2D(1)(x),
    "crop": lambda x: layers.Cropping2D(1)(x),
    "nearest": lambda x: layers.UpSampling2D(2)(x),
    "bilinear": lambda x: layers.UpSampling2D(2, interpolation="bilinear")(x),
    "max and flatten": lambda x: layers.Flatten()(layers.MaxPooling2D(2)(x)),
    "max and dropout": lambda x: layers.Dropout(0.1)(layers.MaxPooling2D(2)(x)),
    "concatenation": lambda x: layers.Concatenate()([x, layers.Conv2D(2, 1)(x)]),
}

BEFORE = {
    "conv": lambda x: layers.Conv2D(4, 3, padding="same")(x),
    "dense": lambda x: layers.Dense(4)(x),
    "input": lambda x: x,
    "sum": lambda x: layers.Add()([layers.Conv2D(4, 1)(x), layers.Dense(4)(x)]),
}


def relu_after(before, move, relu):
    """What a relu makes of moved values, and two readers of it."""

    def build(image):
        y = relu(MOVES[move](BEFORE[before](image)))
        return [layers.Dense(3)(y), layers.Dense(2)(y)]

    return build


def beside_another_reader(image):
    x = layers.AveragePooling2D(2)(layers.Conv2D(4, 3)(image))
    return [layers.Dense(2)(layers.ReLU()(x)), layers.Dense(2)(x)]


def of_a_shared_pooling(image):
    y, z = shared_pooling(layers.Conv2D(4, 3)(image))
    return [layers.Dense(2)(y), layers.Dense(2)(z)]


RELUS = {
    **{
        f"{before}, {move}": relu_after(before, move, relu)
        for before, moves, relu in [
            ("conv", MOVES, lambda x: layers.Activation("relu")(x)),
            ("dense", ["max", "average", "permute"], lambda x: layers.ReLU(6.0)(x)),
            ("input", ["max", "average", "permute"], lambda x: layers.ReLU()(x)),
            ("sum", ["max", "average of a sequence", "permute"], ops.relu),
        ]
        for move in moves
    },
    "beside another reader": beside_another_reader,
    "of a shared pooling": of_a_shared_pooling,
}


@pytest.fixture(scope="module")
def rectified(tmp_path_factory):
    """What the file makes of all of them, and what the model simulates."""
    images = [keras.Input(SHAPE, name=f"image_{i}") for i in range(len(RELUS))]
    outputs = {
        f"{i}_{n}": y
        for i, build in enumerate(RELUS.values())
        for n, y in enumerate(build(images[i]))
    }
    model = keras.Model(images, outputs)
    rng = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(rng.uniform(-1.0, 1.0, variable.shape))
    x = [rng.normal(size=(48, *SHAPE)).astype("float32") for _ in images]
    calibrate(kacc.quantize(model), [x])
    path = tmp_path_factory.mktemp("rectified") / "model.tflite"
    artifact = kacc.convert(model, path, "tflite-int8")
    wider = [1.3 * array for array in x]
    return artifact.predict(wider), kacc.simulate(model)(wider)


@pytest.mark.parametrize("name", RELUS)
def test_relus_after_what_moves_values_stay_there(name, rectified):
    """The converter would take them before it, and fuse them, with their range."""
    number = list(RELUS).index(name)
    for n in range(2):
        file, model = (outputs[f"{number}_{n}"] for outputs in rectified)
        np.testing.assert_array_equal(file, model)
        assert len(np.unique(file)) > 30


def test_shapes_of_outputs_are_read_from_integers(tmp_path):
    """No float operator is left in a file whose inputs and outputs are float."""
    image = keras.Input(SHAPE)
    model, x = quantized(transposed_convolution_of_an_output(image), image)
    path = tmp_path / "model.tflite"
    artifact = kacc.convert(model, path, "tflite-int8", io="float32")
    assert kacc.parity(model, artifact, x).equal == 1


@pytest.mark.parametrize("bias", [0.0, 0.0017, 0.5])
@pytest.mark.parametrize(
    ("layer", "weight"),
    [
        (lambda: layers.Conv2D(4, 3), "kernel"),
        (lambda: layers.SeparableConv2D(4, 3), "pointwise_kernel"),
        (lambda: layers.Dense(4), "kernel"),
    ],
    ids=["conv", "separable", "dense"],
)
def test_channels_without_weights_keep_their_bias(layer, weight, bias, tmp_path):
    """The converter widens the scale of a channel until the bias fits."""
    image, layer = keras.Input(SHAPE), layer()

    def empty_channels(model):
        kernel = getattr(layer, weight).numpy()
        kernel[..., 1] = 0.0
        kernel[..., 2] *= 1e-8
        getattr(layer, weight).assign(kernel)
        layer.bias.assign([0.3, bias, bias, -0.2])

    assert_equals_file(*quantized(layer(image), image, empty_channels), tmp_path)


def test_channels_that_a_normalization_zeroes(tmp_path):
    image, norm = keras.Input(SHAPE), layers.BatchNormalization()
    outputs = layers.Conv2D(2, 1)(norm(image))
    model, x = quantized(
        outputs, image, lambda model: norm.gamma.assign([1.0, 0.0, -0.5])
    )
    assert_equals_file(model, x, tmp_path)


def test_a_tensor_of_zeros_has_been_seen(tmp_path):
    image, conv = keras.Input(SHAPE), layers.Conv2D(3, 1, use_bias=False)
    outputs = layers.Conv2D(2, 1)(conv(image))
    model, x = quantized(
        outputs, image, lambda model: conv.kernel.assign(np.zeros((1, 1, 3, 3)))
    )
    assert unseen_ranges(model) == []
    assert_equals_file(model, x, tmp_path)


@pytest.mark.parametrize("size", [7, 16, 24])
def test_means_of_rectified_images(size, tmp_path):
    """Sums far from zero: XNNPACK rounds the product and the offset apart."""
    image = keras.Input((size, size, 16))
    x = layers.ReLU()(layers.DepthwiseConv2D(1)(image))
    model, x = quantized(layers.GlobalAveragePooling2D()(x), image)
    assert_equals_file(model, x, tmp_path, ["xnnpack"])


class SumThatIsReshaped(keras.Model):
    """An operator that keeps no range, read through one that moves its values."""

    def __init__(self):
        super().__init__()
        self.first = layers.Dense(8, activation="relu")
        self.second = layers.Dense(8)
        self.last = layers.Dense(3)

    def call(self, inputs):
        y = self.first(inputs)
        return self.last(ops.reshape(self.second(y) + y, (-1, 4)))


def test_a_sum_in_a_call_has_the_range_that_its_reader_reads_behind_a_reshape(tmp_path):
    keras.utils.set_random_seed(0)
    model = SumThatIsReshaped()
    x = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
    model(x)
    calibrate(kacc.quantize(model), [x])
    assert_equals_file(model, 1.3 * x, tmp_path)
