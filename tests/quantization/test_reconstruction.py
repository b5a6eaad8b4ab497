"""Fitting a quantized copy to the float model: roundings, biases, whole files."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import kacc
from kacc.converters.convert import convert
from kacc.converters.parity import parity
from kacc.quantization import AdaRound, calibrate
from kacc.quantization.copies import quantized_copy
from kacc.quantization.reconstruction import reconstruct
from kacc.quantization.transform import quantize_of
from tests.core import models

FOUR_BITS = [kacc.Rule(".*", bits=4)]
BRIEF = AdaRound(steps=20)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("build", [models.nested, models.shared, models.subclassed])
@pytest.mark.parametrize(
    ("scheme", "options"),
    [
        ("int8", {"rounding": BRIEF}),
        ("int8", {"correct_bias": True}),
        ("w4a8", {"rounding": BRIEF, "correct_bias": True}),
    ],
)
def test_files_of_fitted_copies_equal_them(build, scheme, options, tmp_path):
    model, x = build(), models.images(48)
    rules = FOUR_BITS if scheme == "w4a8" else []
    learned = True if "rounding" in options else None
    copy = quantized_copy(model, scheme, rules, learned)
    calibrate(copy, [x])
    before = models.variables(model)
    reconstruct(copy, [x], **options)
    artifact = convert(copy, tmp_path / "m.tflite", f"tflite-{scheme}")
    assert parity(copy, artifact, x).equal == 1
    for path, value in models.variables(model).items():
        np.testing.assert_array_equal(value, before[path])


def test_fitted_weights_are_a_step_from_where_they_were():
    model, x = models.functional(), models.images(32)
    copy = quantized_copy(model, "w4a8", FOUR_BITS, True)
    calibrate(copy, [x])
    reconstruct(copy, [x], BRIEF)
    moved = 0
    for double in copy.operations:
        transform = quantize_of(double)
        if transform is None or not hasattr(double, "kernel"):
            continue
        old = model.get_layer(double.name).kernel.numpy()
        step = transform.weight_step("kernel", tf.constant(old)).numpy()
        whole = double.kernel.numpy() / step
        np.testing.assert_allclose(whole, np.round(whole), atol=1e-4)
        inside = np.abs(old) <= 7 * step
        assert (np.abs(double.kernel.numpy() - old) <= 1.001 * step)[inside].all()
        moved += int((np.round(whole) != np.clip(np.round(old / step), -7, 7)).sum())
    assert moved > 0


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("norm", [True, False])
def test_the_mean_of_each_channel_is_corrected(use_bias, norm):
    """With or without a bias to correct, and before a normalization that folds."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, use_bias=use_bias, name="conv"),
            *([layers.BatchNormalization(name="norm")] if norm else []),
        ]
    )
    x = np.abs(models.images(64))
    want = np.mean(model(x), (0, 1, 2))
    off = {}
    for correct in (False, True):
        copy = quantized_copy(model, "w4a8", FOUR_BITS)
        calibrate(copy, [x])
        reconstruct(copy, [x], correct_bias=correct)
        off[correct] = np.abs(np.mean(copy(x), (0, 1, 2)) - want)
    # What is left is the rounding of the bias and of the outputs.
    assert off[True].max() < 0.003
    assert off[False].max() > 0.02
    assert model.get_layer("conv").use_bias is use_bias


@pytest.fixture(scope="module")
def correlated():
    """A model of correlated inputs, which nearest rounding to 4 bits harms."""
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(2)
    x = rng.normal(size=(400, 1, 1, 3)) + 0.3 * rng.normal(size=(400, 8, 8, 3))
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(8, 3, activation="relu", name="first"),
            layers.SeparableConv2D(8, 3, activation="relu", name="second"),
            layers.Conv2D(8, 3, use_bias=False, name="third"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.Flatten(name="flat"),
            layers.Dense(4, name="head"),
        ]
    )
    return model, x.astype("float32")


@pytest.mark.parametrize(
    ("options", "share"),
    [
        ({"rounding": AdaRound(steps=150)}, 0.7),
        ({"bias_correction": True}, 0.9),
    ],
)
def test_outputs_of_files_come_nearer(correlated, tmp_path, options, share):
    model, x = correlated
    want = np.asarray(model(x[200:]))
    errors = []
    for given in ({"bias_correction": False}, options):
        artifact = convert(
            model, tmp_path / "m.tflite", "tflite-w4a8", x[:200], **given
        )
        errors.append(np.square(artifact.predict(x[200:]) - want).mean())
    assert errors[1] < share * errors[0]
    kept = artifact.manifest.options
    if "rounding" in options:
        assert kept["rounding"]["method"] == "adaround"
        assert kept["rounding"]["steps"] == 150
    else:
        assert kept["bias_correction"] is True
