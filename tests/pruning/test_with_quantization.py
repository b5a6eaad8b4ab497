"""Pruning and quantization in one fit: the same zeros in the model and in its file."""

import keras
import numpy as np
import pytest
from keras import layers

import kacc
from kacc.callbacks import Pruning, QuantizationAwareTraining
from kacc.converters.stored import stored_weights
from kacc.core import attach
from kacc.core.transform import QUANTIZE
from kacc.pruning.masks import pruned_layers
from kacc.pruning.transform import prune_of
from kacc.quantization import scheme_of
from kacc.quantization.transform import quantize_of

X = np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype("float32")
Y = np.random.default_rng(1).integers(0, 4, 64)


def network():
    keras.utils.set_random_seed(6)
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, use_bias=False, padding="same", name="stem")(image)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    y = layers.Conv2D(8, 3, padding="same", use_bias=False, name="one")(x)
    y = layers.ReLU()(layers.BatchNormalization()(y))
    y = layers.Conv2D(8, 1, name="two")(y)
    x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.SeparableConv2D(6, 3, activation="relu", name="separable")(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(16, activation="relu", name="dense")(x)
    model = keras.Model(image, layers.Dense(4, activation="softmax", name="head")(x))
    model.compile(
        keras.optimizers.Adam(0.01),
        "sparse_categorical_crossentropy",
        jit_compile=False,
    )
    return model


def fit(model, *callbacks, epochs=3):
    return model.fit(
        X, Y, batch_size=16, epochs=epochs, verbose=0, callbacks=list(callbacks)
    ).history


def masked(model):
    """layer -> how many weights its masks make zero, and of how many."""
    return {
        layer.name: (
            sum(int(one.zeros.sum()) for one in transform.pruned.values()),
            sum(one.zeros.size for one in transform.pruned.values()),
        )
        for layer, transform in pruned_layers(model)
    }


@pytest.mark.sampled(5)
@pytest.mark.parametrize("order", [1, pytest.param(-1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("scheme", ["int8", "w4a8", "int16x8"])
def test_one_fit_with_both_callbacks(order, scheme, tmp_path):
    model = network()
    pruning = Pruning(0.75, frequency=1, end_step=6)
    quantization = QuantizationAwareTraining(scheme, start_epoch=1)
    history = fit(model, *[pruning, quantization][::order])
    assert history["sparsity"][-1] == pytest.approx(0.75, abs=1e-3)
    one = model.get_layer("one")
    assert [type(t).__name__ for t in attach.transforms_of(one)] == [
        "Prune",
        "Quantize",
    ]
    artifact = kacc.convert(model, tmp_path / "m.tflite", f"tflite-{scheme}")
    for kernels in ("xnnpack", "reference") if scheme == "int8" else ("xnnpack",):
        assert kacc.parity(model, artifact, X, kernels=kernels).equal == 1.0
    for layer, transform in pruned_layers(model):
        for pruned in transform.pruned.values():
            integers = quantize_of(layer).weight(
                pruned.weight.attribute,
                attach.weight_before(layer, pruned.weight.attribute, QUANTIZE),
            )
            assert (np.asarray(integers)[pruned.zeros] == 0).all()
    got, want = np.sort(list(file_zeros(artifact))), np.sort(list(mask_zeros(model)))
    # Small weights round to zero as well.
    assert (got >= want).all()
    loaded = save_and_load(model, tmp_path)
    np.testing.assert_array_equal(
        loaded.predict(X, verbose=0), model.predict(X, verbose=0)
    )


# The shapes of the kernels in a file; no two are the same.
ONE_TWO_DENSE = (8, 3, 3, 8), (8, 1, 1, 8), (16, 6)
POINTWISE = (6, 1, 1, 8)


def file_zeros(artifact):
    """Of the layers between the ends; a pointwise kernel has a depthwise before it."""
    for weight in stored_weights(artifact.read()):
        if weight.shape in ONE_TWO_DENSE or weight.shape == POINTWISE:
            yield weight.zeros


def mask_zeros(model):
    for _, transform in pruned_layers(model):
        for one in transform.pruned.values():
            yield int(one.zeros.sum())


def save_and_load(model, folder):
    model.save(folder / "model.keras")
    loaded = keras.models.load_model(folder / "model.keras")
    assert scheme_of(loaded) == scheme_of(model)
    assert masked(loaded) == masked(model)
    return loaded


def test_exactly_the_masked_weights_are_zero_in_the_file(tmp_path):
    """With kept weights so large that none of them rounds to zero."""
    model = network()
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            values = np.random.default_rng(2).uniform(0.5, 1, layer.kernel.shape)
            signs = np.random.default_rng(3).choice([-1, 1], layer.kernel.shape)
            layer.kernel.assign(values * signs)
    rule = kacc.Rule("separable", skip=True)
    kacc.prune(kacc.quantize(model), 0.75, rules=[rule])
    artifact = kacc.convert(model, tmp_path / "m.tflite", "tflite-int8", X)
    assert kacc.parity(model, artifact, X).equal == 1.0
    names = ("one", "two", "dense")
    want = {s: masked(model)[n][0] for s, n in zip(ONE_TWO_DENSE, names, strict=True)}
    got = {w.shape: w.zeros for w in stored_weights(artifact.read())}
    assert {shape: got[shape] for shape in want} == want
    assert sum(want.values()) == 0.75 * (8 * 9 * 8 + 8 * 8 + 16 * 6)


def test_the_simulation_and_the_file_see_masks_of_dense_variables(tmp_path):
    """While weights regrow, the zeros are in the masks alone."""
    model = network()
    fit(
        model,
        Pruning(0.5, frequency=1, end_step=4, regrow=True),
        QuantizationAwareTraining(),
        epochs=2,
    )
    one = model.get_layer("one")
    mask = prune_of(one).pruned["kernel"].zeros
    assert (one.kernel.numpy()[mask] != 0).any()
    artifact = kacc.convert(model, tmp_path / "m.tflite", "tflite-int8")
    assert kacc.parity(model, artifact, X).equal == 1.0
    simulated = kacc.simulate(model).predict(X, verbose=0)
    np.testing.assert_array_equal(simulated, model.predict(X, verbose=0))
    stored = {w.shape: w.values for w in stored_weights(artifact.read())}
    kernel = stored[(8, 3, 3, 8)].transpose(1, 2, 3, 0)
    assert (kernel[mask] == 0).all()
    kacc.strip(model)
    assert (one.kernel.numpy()[mask] == 0).all()


def test_variables_that_were_moved_behind_the_masks_do_not_reach_the_file(tmp_path):
    model = kacc.quantize(kacc.prune(network(), 0.5))
    one = model.get_layer("one")
    one.kernel.assign(np.random.default_rng(4).normal(size=one.kernel.shape))
    mask = prune_of(one).pruned["kernel"].zeros
    artifact = kacc.convert(model, tmp_path / "m.tflite", "tflite-int8", X)
    assert kacc.parity(model, artifact, X).equal == 1.0
    stored = {w.shape: w.values for w in stored_weights(artifact.read())}
    assert (stored[(8, 3, 3, 8)].transpose(1, 2, 3, 0)[mask] == 0).all()


@pytest.mark.parametrize("first", ["prune", "quantize"])
def test_taking_one_technique_off_leaves_the_other(first):
    model = network()
    steps = [kacc.quantize, lambda m: kacc.prune(m, 0.5)]
    for step in steps if first == "quantize" else steps[::-1]:
        step(model)
    before = masked(model)
    skip = [kacc.Rule("one", skip=True)]
    with pytest.warns(UserWarning, match="leaves in float"):
        kacc.quantize(model, rules=skip)
    assert masked(model) == before
    assert quantize_of(model.get_layer("one")) is None
    kacc.prune(model, 0.5, rules=[kacc.Rule("two", skip=True)])
    assert quantize_of(model.get_layer("two")) is not None
    assert prune_of(model.get_layer("two")) is None
    assert "one" in masked(model)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize(
    "target", ["tflite-float32", "tflite-float16", "tflite-dynamic"]
)
def test_float_files_have_just_the_zeros(target, attached, tmp_path):
    model = kacc.prune(network(), 0.75)
    want = sorted(mask_zeros(model))
    if not attached:
        kacc.strip(model)
    artifact = kacc.convert(model, tmp_path / "m.tflite", target)
    got = sorted(file_zeros(artifact))
    if target == "tflite-dynamic":  # where small weights round to zero
        assert (np.array(got) >= want).all()
    else:
        assert got == want


@pytest.mark.sampled(2)
@pytest.mark.parametrize("backend", ["tflite", "ai-edge", "kacc"])
def test_calibrated_files_have_the_zeros(backend, tmp_path):
    model = kacc.prune(network(), 0.75, rules=[kacc.Rule("separable", skip=True)])
    mask = prune_of(model.get_layer("one")).pruned["kernel"].zeros
    path = tmp_path / "m.tflite"
    artifact = kacc.convert(model, path, "tflite-int8", X, backend=backend)
    stored = {w.shape: w.values for w in stored_weights(artifact.read())}
    assert (stored[(8, 3, 3, 8)].transpose(1, 2, 3, 0)[mask] == 0).all()


# Channels that are all zero


def with_dead_channels(normalized):
    """Every layer with weights has an output channel of zeros."""
    keras.utils.set_random_seed(7)
    image = keras.Input((8, 8, 3))
    x = image
    for index in range(2):
        x = layers.Conv2D(
            8, 3, padding="same", use_bias=not normalized, name=f"conv{index}"
        )(x)
        if normalized:
            x = layers.BatchNormalization(name=f"norm{index}")(x)
        x = layers.ReLU()(x)
    x = layers.Conv2DTranspose(4, 2, strides=2, name="up")(x)
    x = layers.SeparableConv2D(4, 3, activation="relu", name="separable")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, layers.Dense(4, name="head")(x))
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            size = layer.gamma.shape
            for variable in layer.variables:
                low = 0.5 if "variance" in variable.name else -1.0
                values = np.random.default_rng(8).uniform(low, 1.0, size)
                variable.assign(values)
        if getattr(layer, "use_bias", False):
            layer.bias.assign(np.random.default_rng(9).normal(size=layer.bias.shape))
    for name, attribute, channel in (
        ("conv0", "kernel", np.s_[..., 0]),
        ("conv1", "kernel", np.s_[..., 3]),
        ("up", "kernel", np.s_[..., 1, :]),
        ("separable", "pointwise_kernel", np.s_[..., 2]),
        ("head", "kernel", np.s_[..., 1]),
    ):
        variable = getattr(model.get_layer(name), attribute)
        value = variable.numpy()
        value[channel] = 0
        variable.assign(value)
    return model


def scales_of(artifact):
    from ai_edge_litert.interpreter import Interpreter

    details = Interpreter(model_path=str(artifact.path)).get_tensor_details()
    return np.concatenate([d["quantization_parameters"]["scales"] for d in details])


@pytest.mark.sampled(3)
@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("scheme", ["int8", "w4a8"])
def test_channels_of_zeros_have_a_scale(normalized, scheme, tmp_path):
    model = kacc.quantize(with_dead_channels(normalized), scheme)
    kacc.prune(model, 0.25, keep_ends=False, scope="layer")
    artifact = kacc.convert(model, tmp_path / "m.tflite", f"tflite-{scheme}", X)
    scales = scales_of(artifact)
    assert np.isfinite(scales).all()
    assert (scales > 0).all()
    assert kacc.parity(model, artifact, X).equal == 1.0
    x = 5 * np.random.default_rng(11).normal(size=(32, 8, 8, 3)).astype("float32")
    assert kacc.parity(model, artifact, x).equal == 1.0


@pytest.mark.sampled(2)
@pytest.mark.parametrize("backend", ["tflite", "ai-edge", "kacc"])
def test_calibrated_channels_of_zeros_have_a_scale(backend, tmp_path):
    model = with_dead_channels(True)
    path = tmp_path / "m.tflite"
    # ai-edge-quantizer leaves SHAPE in float, which a fixed size does without.
    artifact = kacc.convert(model, path, "tflite-int8", X, backend=backend, batch=1)
    scales = scales_of(artifact)
    assert np.isfinite(scales).all()
    assert (scales > 0).all()
    want, got = model.predict(X, verbose=0), artifact.predict(X)
    assert np.isfinite(got).all()
    assert np.abs(got - want).max() < 0.1 * np.abs(want).max()


def test_training_a_layer_whose_channels_are_all_pruned():
    """Its scale is 1, not 0, and its gradients are finite."""
    model = network()
    kernel = model.get_layer("two").kernel
    value = kernel.numpy()
    value[..., :6] *= 1e-6
    kernel.assign(value)
    pruning = Pruning(0.75, "soft", scope="layer", end_step=0)
    fit(model, pruning, QuantizationAwareTraining(), epochs=2)
    assert (kernel.numpy()[0, 0][:, :6] == 0).all()
    assert all(np.isfinite(v.numpy()).all() for v in model.variables)
    assert np.isfinite(model.predict(X, verbose=0)).all()
