"""Models with learned steps or weights of 4 bits: training, files, and being equal."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers

import kacc
from kacc.converters import flatbuffer
from kacc.core.errors import UsageError
from kacc.quantization import calibrate
from kacc.quantization.model import quantized
from kacc.quantization.transform import quantize_of
from tests.core import models
from tests.quantization.blocks import SHAPE

KERNELS = ("xnnpack", "builtin", "reference")


def every_kind():
    """All operators that take 4 bits, between a first and a last layer."""
    image = keras.Input(SHAPE)
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="first")(image)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(10, 3, dilation_rate=2, activation="relu", name="conv")(x)
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="dw")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.SeparableConv2D(6, 3, activation="swish", name="separable")(x)
    y = layers.Conv2DTranspose(6, 1, name="transposed")(x)
    x = layers.Add()([x, y])
    x = layers.Reshape((4, 6))(x)
    x = layers.Conv1D(5, 2, name="conv1d")(x)
    x = layers.EinsumDense("abc,cd->abd", (3, 4), bias_axes="d", name="einsum")(x)
    x = layers.Dense(6, activation="relu", name="rows")(x)
    x = layers.Dense(7, name="dense")(layers.Flatten()(x))
    shared = layers.Dense(7, activation="tanh", name="shared")
    x = shared(shared(x))
    return keras.Model(image, layers.Dense(3, name="last")(x))


def filled(model, seed=3):
    """Weights, biases and statistics that are not what they start as."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        low = 0.5 if "variance" in variable.path else -1.0
        variable.assign(rng.uniform(low, 1.0, variable.shape))
    return model


def data(samples=64, seed=0):
    x = np.random.default_rng(seed).normal(size=(samples, *SHAPE))
    return x.astype("float32")


def train(model, epochs=1):
    model.compile("adam", "mse", run_eagerly=True)  # a trace takes longer
    x = data()
    model.fit(x, np.ones((len(x), 3)), batch_size=16, epochs=epochs, verbose=0)


@pytest.fixture(scope="module", params=["w4a8", "w4a8-average", "int8-learned"])
def trained(request, tmp_path_factory):
    scheme, _, steps = request.param.partition("-")
    model = filled(every_kind())
    learned = {"": None, "average": False, "learned": True}[steps]
    kacc.quantize(model, scheme, learned_steps=learned)
    train(model)
    path = tmp_path_factory.mktemp("steps") / "model.tflite"
    return model, kacc.convert(model, path, f"tflite-{scheme}")


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kernels", KERNELS)
def test_the_file_is_what_was_trained(trained, kernels):
    model, artifact = trained
    x = data(128, seed=1)
    want = np.asarray(kacc.simulate(model, kernels)(x))
    got = artifact.predict(x, kernels=kernels)
    np.testing.assert_allclose(got, want, rtol=0, atol=artifact_step(artifact) / 4)
    assert len(np.unique(got)) > 20
    if kernels == "xnnpack":
        np.testing.assert_array_equal(model.predict(x, verbose=0), want)


def artifact_step(artifact):
    return artifact.manifest.outputs[0].scale


def test_a_loaded_model_computes_the_same(trained, tmp_path):
    model, _ = trained
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = data(16, seed=2)
    np.testing.assert_array_equal(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0)
    )


def widths(model):
    return {
        operation.name: transform.weight_bits
        for operation, transform in quantized(model)
        if transform._channels
    }


def test_first_and_last_layers_keep_8_bits():
    model = kacc.quantize(every_kind(), "w4a8")
    got = widths(model)
    eight = {name for name, bits in got.items() if bits == 8}
    assert eight == {"first", "last", "transposed"}


def test_rules_give_widths():
    rules = [kacc.Rule("first|dense", bits=4), kacc.Rule("conv.*", bits=8)]
    got = widths(kacc.quantize(every_kind(), "w4a8", rules=rules))
    assert (got["first"], got["dense"], got["conv"], got["conv1d"]) == (4, 4, 8, 8)
    got = widths(kacc.quantize(every_kind(), "int8", rules=[kacc.Rule("dw", bits=4)]))
    assert {name for name, bits in got.items() if bits == 4} == {"dw"}


def test_a_width_that_no_operator_takes_is_refused_before_anything_changes():
    model = every_kind()
    with pytest.raises(UsageError, match="takes no 4 bit weights"):
        kacc.quantize(model, rules=[kacc.Rule("transposed", bits=4)])
    assert quantize_of(model.get_layer("conv")) is None


def test_files_shrink_with_the_bits(tmp_path):
    sizes = {}
    for scheme in ("int8", "w4a8"):
        model = keras.Sequential(
            [keras.Input((64,))]
            + [layers.Dense(256, activation="relu") for _ in range(4)]
            + [layers.Dense(2)]
        )
        kacc.quantize(model, scheme)
        calibrate(model, [np.ones((4, 64), "float32")])
        path = tmp_path / f"{scheme}.tflite"
        sizes[scheme] = kacc.convert(model, path, f"tflite-{scheme}").size_bytes
    assert sizes["w4a8"] < 0.62 * sizes["int8"]


def test_steps_are_learned_and_ranges_stay_where_they_began():
    model = filled(every_kind())
    kacc.quantize(model, learned_steps=True)
    train(model)
    gains = [v for v in model.trainable_variables if v.name.endswith("_gain")]
    kernels = [v for v in gains if v.name == "kernel_gain"]
    assert kernels
    assert all((v.numpy() != 0).any() for v in kernels)
    assert any((v.numpy() != 0).any() for v in gains if v.name == "output_gain")


def learned_numbers(model):
    """All ends of ranges and steps of weights."""
    numbers = []
    for operation, transform in quantized(model):
        numbers += [end for name in transform.ranges for end in transform.ends(name)]
        for attribute in transform.step_shapes:
            weight = getattr(operation, attribute).value
            numbers += transform.weight_step(attribute, weight).numpy().ravel().tolist()
    return numbers


@pytest.mark.sampled(2)
@pytest.mark.filterwarnings("error:Gradients do not exist")
@pytest.mark.parametrize("kind", ["nested", "subclassed", "operators"])
def test_every_kind_of_model_learns_steps_from_an_epoch_on(kind, tmp_path):
    model = getattr(models, kind)()
    model.compile("adam", "mse", jit_compile=False)
    x = models.images()
    y = np.zeros((len(x), *model.output_shape[1:]) if kind != "subclassed" else (16, 3))
    model.fit(x, y, epochs=1, verbose=0)  # the optimizer is built without the steps
    momentum = model.optimizer._momentums[0].numpy()
    qat = kacc.callbacks.QuantizationAwareTraining(
        "int8", start_epoch=1, freeze_epoch=3, learned_steps=True
    )
    steps = {}

    def note(epoch, logs):
        steps[epoch] = learned_numbers(model)

    first = keras.callbacks.LambdaCallback(on_epoch_end=note)
    start = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: np.testing.assert_array_equal(
            model.optimizer._momentums[0].numpy(), momentum
        )
    )
    model.fit(x, y, epochs=4, verbose=0, callbacks=[qat, first, start])
    assert not np.array_equal(steps[1], steps[2])
    np.testing.assert_allclose(steps[2], steps[3], rtol=1e-6)
    artifact = kacc.convert(model, tmp_path / "model.tflite", "tflite-int8")
    assert kacc.parity(model, artifact, x).equal == 1


def test_resuming_goes_on_with_the_steps(tmp_path):
    """An interrupted fit ends where one that was not interrupted does."""

    def fit(model, epochs, folder):
        qat = kacc.callbacks.QuantizationAwareTraining("w4a8", start_epoch=1)
        backup = keras.callbacks.BackupAndRestore(folder, delete_checkpoint=False)
        model.fit(
            models.vectors(32),
            np.ones((32, 3)),
            batch_size=8,
            shuffle=False,
            epochs=epochs,
            verbose=0,
            callbacks=[backup, qat],
        )

    def compiled():
        keras.utils.set_random_seed(2)
        model = models.small()
        model.add(layers.Dense(3))  # so that one in the middle has 4 bits
        model.compile("adam", "mse", run_eagerly=True)
        return model

    whole, first, second = compiled(), compiled(), compiled()
    fit(whole, 4, tmp_path / "whole")
    fit(first, 3, tmp_path / "part")
    fit(second, 4, tmp_path / "part")
    for a, b in zip(whole.trainable_variables, second.trainable_variables, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-4, atol=1e-5)


def test_stripping_leaves_plain_variables():
    model = filled(every_kind())
    before = len(model.trainable_variables)
    kacc.quantize(model, "w4a8")
    assert len(model.trainable_variables) > before
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        kacc.strip(model)
    assert len(model.trainable_variables) == before


def test_the_wrapper_needs_a_built_layer_to_learn_steps():
    with pytest.raises(UsageError, match="must be built"):
        kacc.layers.QuantizeWrapper(layers.Dense(2), "w4a8")
    layer = layers.Dense(2)
    layer.build((None, 4))
    wrapped = kacc.layers.QuantizeWrapper(layer, "w4a8")
    assert quantize_of(wrapped).weight_bits == 4


def test_plain_models_are_quantized_after_training(tmp_path):
    plain = filled(every_kind())
    artifact = kacc.convert(plain, tmp_path / "m.tflite", "tflite-w4a8", data())
    assert artifact.manifest.backend == "kacc"
    assert quantize_of(plain.get_layer("conv")) is None
    tensors = flatbuffer.subgraphs(artifact.path.read_bytes())[0].tensors
    assert sum(tensor.type == "INT4" for tensor in tensors) == 9
    assert len(np.unique(artifact.predict(data(32, seed=4)))) > 20
