"""Last factors refitted to the outputs of the whole model."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers

import kacc
from kacc.core import samples
from kacc.factorization import plan
from tests.core import models as small_models
from tests.factorization.kernels import randomize


def _deep():
    image = keras.Input((8, 8, 3))
    x = image
    for number in range(3):
        x = layers.Conv2D(12, 3, padding="same", activation="relu", name=f"c{number}")(
            x
        )
    x = layers.Conv2D(12, 3, name="last")(x)
    return randomize(keras.Model(image, x))


def _error(model, smaller, x):
    wanted = model.predict(x, verbose=0)
    return np.square(smaller.predict(x, verbose=0) - wanted).mean() / wanted.var()


@pytest.mark.parametrize("method", ["channel", "spatial", "tucker"])
def test_errors_of_the_layers_before_are_made_up_for(method):
    """At the last layer that is least squares: nothing else can be better there."""
    model, x = _deep(), small_models.images(128)
    found = plan(model, macs=0.5, method=method, calibration=x)
    assert len(found.chosen) > 2
    alone = dataclasses.replace(found, batches=()).build()
    refitted = found.build()
    assert _error(model, refitted, x) < 0.99 * _error(model, alone, x)
    kernel = refitted.get_layer("last").kernel
    least = _error(model, refitted, x)
    for seed in range(3):
        noise = np.random.default_rng(seed).normal(size=kernel.shape) * 0.05
        kernel.assign_add(noise)
        assert _error(model, refitted, x) > least
        kernel.assign_sub(noise)


@pytest.mark.slow
def test_resnet8_is_right_more_often(data, load):
    """Without tuning, at half of the MACs: by data, and by refitting once more."""
    model = keras.models.load_model(
        data / "models/mlperf_tiny_resnet8.keras", compile=False
    )
    images, labels = load.cifar10("val")
    images, labels = images[:1000].astype("float32"), labels[:1000]
    calibration = load.cifar10("train", 1)[0][:512].astype("float32")
    found = plan(model, macs=0.5, calibration=calibration)
    models = (
        kacc.factorize(model, macs=0.5),
        dataclasses.replace(found, batches=()).build(),
        found.build(),
    )
    plain, alone, refitted = (
        (m.predict(images, verbose=0).argmax(-1) == labels).mean() for m in models
    )
    assert plain < 0.3 < 0.6 < alone < refitted


def test_what_is_refitted_is_the_layer_as_it_was_measured(monkeypatch):
    """One layer, whose inputs are the same: the regression is at its end already."""
    monkeypatch.setattr(samples, "ROWS", 10**6)
    monkeypatch.setattr("kacc.factorization.inputs.RIDGE", 1e-6)
    image = keras.Input((8, 8, 3))
    conv = layers.Conv2D(8, 3, strides=2, padding="same", name="conv")
    model = randomize(keras.Model(image, conv(image)))
    found = plan(model, ranks=5, calibration=small_models.images(64))
    alone, refitted = dataclasses.replace(found, batches=()).build(), found.build()
    for before, after in zip(alone.variables, refitted.variables, strict=True):
        np.testing.assert_allclose(after.numpy(), before.numpy(), atol=5e-3)


def test_embeddings_with_masks_shared_layers_and_containers_are_refitted_or_left():
    words = keras.Input((6,), dtype="int32")
    x = layers.Embedding(30, 12, mask_zero=True, name="table")(words)
    twice = layers.Dense(12, activation="tanh", name="twice")
    x = layers.LayerNormalization()(twice(twice(x)))
    x = layers.EinsumDense("abc,cd->abd", (6, 10), bias_axes="d", name="mix")(x)
    x = layers.GlobalAveragePooling1D()(x)
    model = randomize(keras.Model(words, layers.Dense(3, name="head")(x)))
    data = np.random.default_rng(0).integers(0, 30, (200, 6)).astype("int32")
    data[::3, 4:] = 0
    ranks = {"table": 6, "twice": 6, "mix": 5, "head": 2}
    found = plan(model, ranks=ranks, calibration=data)
    alone = dataclasses.replace(found, batches=()).build()
    assert _error(model, found.build(), data) < _error(model, alone, data)


def test_a_part_that_is_copied_as_a_whole_runs_with_its_own_weights():
    image = keras.Input((8, 8, 3))
    x = small_models.Residual(name="block")(image)
    x = layers.Conv2D(8, 3, name="conv")(x)
    model = randomize(keras.Model(image, layers.Conv2D(6, 3, name="last")(x)))
    rules = [kacc.Rule("block/.*", skip=True)]
    data = small_models.images(64)
    full = kacc.factorize(model, ranks=1.0, calibration=data, rules=rules)
    assert isinstance(full.get_layer("block"), small_models.Residual)
    assert _error(model, full, data) < 1e-8


def test_refitting_at_full_rank_changes_nothing():
    model = _deep()
    data = small_models.images(64)
    full = kacc.factorize(model, ranks=1.0, calibration=data)
    np.testing.assert_allclose(
        full.predict(data, verbose=0),
        model.predict(data, verbose=0),
        rtol=1e-3,
        atol=1e-3,
    )
