"""Batch normalizations folded into layers, or put behind them, outputs equal."""

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from keras import layers

import kacc
from kacc.restructuring import InsertBatchNormalization, plan
from tests.pruning.channels import graphs
from tests.restructuring import models

SOME = settings(
    max_examples=5, suppress_health_check=[HealthCheck.too_slow], deadline=None
)
IMAGE, ROWS, VECTOR = (8, 8, 4), (9, 4), (4,)

MAKERS = {
    "Dense": (lambda **o: layers.Dense(6, **o), VECTOR),
    "Dense of rows": (lambda **o: layers.Dense(6, **o), ROWS),
    "Conv1D": (lambda **o: layers.Conv1D(6, 3, **o), ROWS),
    "Conv2D": (lambda **o: layers.Conv2D(6, 3, strides=2, **o), IMAGE),
    "grouped": (lambda **o: layers.Conv2D(6, 3, groups=2, **o), IMAGE),
    "1x1": (lambda **o: layers.Conv2D(6, 1, padding="same", **o), IMAGE),
    "DepthwiseConv2D": (
        lambda **o: layers.DepthwiseConv2D(3, depth_multiplier=2, **o),
        IMAGE,
    ),
    "DepthwiseConv1D": (lambda **o: layers.DepthwiseConv1D(3, **o), ROWS),
    "SeparableConv2D": (lambda **o: layers.SeparableConv2D(6, 3, **o), IMAGE),
    "Conv2DTranspose": (lambda **o: layers.Conv2DTranspose(6, 3, **o), IMAGE),
    "Conv1DTranspose": (lambda **o: layers.Conv1DTranspose(6, 3, **o), ROWS),
}


def _data(model, samples=8):
    shape = model.input_shape[1:]
    random = np.random.default_rng(0)
    return random.normal(1.0, 2.0, size=(samples, *shape)).astype("float32")


def _norms(model):
    return [
        layer.name
        for layer in model._flatten_layers()
        if isinstance(layer, layers.BatchNormalization)
    ]


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("use_bias", [True, False])
def test_behind_a_layer_of_each_type_a_normalization_goes(kind, use_bias):
    make, shape = MAKERS[kind]
    norm = layers.BatchNormalization(scale=use_bias, center=not use_bias, name="norm")
    model = keras.Sequential(
        [keras.Input(shape), make(use_bias=use_bias, name="layer"), norm]
    )
    graphs.randomize(model)
    new = kacc.restructure(model, "fold_normalization")
    assert len(new.layers) == 1
    models.require_equal(model, new, _data(model))


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("use_bias", [True, False])
def test_in_front_of_a_layer_of_each_type_a_normalization_goes(kind, use_bias):
    make, shape = MAKERS[kind]
    model = keras.Sequential(
        [
            keras.Input(shape),
            layers.BatchNormalization(name="norm"),
            make(use_bias=use_bias, activation="tanh", name="layer"),
        ]
    )
    graphs.randomize(model)
    found = plan(model, "fold_normalization")
    new = found.build()
    fails = kind in (
        *("grouped", "SeparableConv2D", "Conv2DTranspose", "Conv1DTranspose"),
    )
    assert len(new.layers) == (2 if fails else 1)
    assert bool(found.layers[0].reason) == fails
    models.require_equal(model, new, _data(model))


@pytest.mark.parametrize("center", [True, False])
def test_in_front_of_padding_only_a_factor_goes(center):
    norm = layers.BatchNormalization(center=center, name="norm")
    conv = layers.Conv2D(6, 3, padding="same", name="conv")
    model = keras.Sequential([keras.Input(IMAGE), norm, conv])
    graphs.randomize(model)
    if not center:
        norm.moving_mean.assign(np.zeros(4))
    found = plan(model, "fold_normalization")
    assert len(found.build().layers) == (2 if center else 1)
    assert ("pads with zeros" in found.layers[0].reason) == center
    models.require_equal(model, found.build(), _data(model))


def test_one_layer_takes_in_those_on_both_sides_and_chains():
    norm = layers.BatchNormalization
    model = keras.Sequential(
        [
            keras.Input(IMAGE),
            norm(name="a"),
            layers.Conv2D(6, 3, name="conv"),
            norm(name="b"),
            norm(name="c"),
            layers.ReLU(),
            norm(name="d"),
            layers.Dense(3, name="dense"),
        ]
    )
    graphs.randomize(model)
    found = plan(model, "fold_normalization")
    new = found.build()
    assert [layer.name for layer in new.layers][::2] == ["conv", "dense"]
    models.require_equal(model, new, _data(model))
    done = {row.path: row.done for row in found.layers if row.path in "abcd"}
    assert done == {
        "a": "folded into conv",
        "b": "folded into conv",
        "c": "folded into conv",
        "d": "folded into dense",
    }


@SOME
@given(graphs.models())
def test_folding_leaves_the_outputs_of_any_model_equal(model):
    new = kacc.restructure(model, "fold_normalization")
    models.require_equal(model, new, graphs.data())


@SOME
@given(graphs.models())
def test_inserting_leaves_the_outputs_of_any_model_equal(model):
    x = graphs.data()
    for calibration in (None, x):
        new = kacc.restructure(
            model, "insert_batch_normalization", calibration=calibration
        )
        models.require_equal(model, new, x)


def _shared():
    image = keras.Input((6, 6, 4))
    conv = layers.Conv2D(4, 3, padding="same", name="conv")
    norm = layers.BatchNormalization(name="norm")
    x = layers.ReLU()(norm(conv(image)))
    return image, conv, norm, x


def test_pairs_that_are_shared_fold_and_others_do_not():
    image, conv, norm, x = _shared()
    model = keras.Model(image, norm(conv(x)))
    graphs.randomize(model)
    new = kacc.restructure(model, "fold_normalization")
    assert not _norms(new)
    models.require_equal(model, new, _data(model))
    image, conv, norm, x = _shared()
    model = keras.Model(image, conv(x))  # once without the normalization
    graphs.randomize(model)
    found = plan(model, "fold_normalization")
    assert _norms(found.build()) == ["norm"]
    models.require_equal(model, found.build(), _data(model))


def _left(kind):
    image = keras.Input(IMAGE)
    norm = layers.BatchNormalization(name="norm")
    conv = layers.Conv2D(4, 3, name="conv")
    if kind == "read by others":
        x = conv(image)
        return keras.Model(image, [norm(x), layers.ReLU()(x)])
    if kind == "activation":
        conv = layers.Conv2D(4, 3, activation="relu", name="conv")
        return keras.Model(image, norm(conv(image)))
    if kind == "constraint":
        conv = layers.Conv2D(4, 3, kernel_constraint="max_norm", name="conv")
        return keras.Model(image, norm(conv(image)))
    if kind == "alone":
        return keras.Model(image, layers.ReLU()(norm(image)))
    norm = layers.BatchNormalization(axis=1, name="norm")
    return keras.Model(image, norm(conv(image)))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("read by others", "beside it alone"),
        ("activation", "an activation between it and conv"),
        ("constraint", "constraint of conv"),
        ("alone", "beside it alone"),
        ("axis", "not normalize the last axis"),
    ],
)
def test_normalizations_that_cannot_go_say_why(kind, reason):
    model = _left(kind)
    graphs.randomize(model)
    found = plan(model, "fold_normalization")
    (row,) = found.layers
    assert reason in row.reason
    models.require_equal(model, found.build(), _data(model))


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("calibrated", [True, False])
def test_behind_a_layer_of_each_type_a_normalization_is_put(kind, calibrated):
    make, shape = MAKERS[kind]
    inputs = keras.Input(shape)
    x = make(activation="tanh", name="layer")(inputs)
    x = layers.Flatten()(x)
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    graphs.randomize(model)
    x = _data(model, 32)
    new = kacc.restructure(
        model,
        InsertBatchNormalization(momentum=0.9),
        calibration=x if calibrated else None,
    )
    models.require_equal(model, new, x)
    assert _norms(new) == ["layer_norm"]
    assert [layer.name for layer in new.layers][1:4] == [
        "layer",
        "layer_norm",
        "layer_activation",
    ]
    norm = new.get_layer("layer_norm")
    assert norm.momentum == 0.9
    assert not new.get_layer("layer").use_bias
    if calibrated:  # the statistics that training would find
        inner = keras.Model(new.input, new.get_layer("layer").output)
        values = np.asarray(inner(x)).reshape(-1, norm.gamma.shape[0])
        np.testing.assert_allclose(norm.moving_mean, values.mean(0), atol=1e-4)
        np.testing.assert_allclose(norm.moving_variance, values.var(0), rtol=1e-3)


def test_folding_what_was_inserted_gives_the_model_back():
    model = models.convolutional()
    wide = kacc.restructure(
        model, "insert_batch_normalization", calibration=models.images()
    )
    assert len(_norms(wide)) == 3
    back = kacc.restructure(wide, "fold_normalization")
    assert not _norms(back)
    models.require_equal(model, back, models.images())


def test_outputs_and_layers_with_a_normalization_get_none():
    found = plan(models.convolutional(), "insert_batch_normalization")
    reasons = {row.path: row.reason for row in found.layers if row.reason}
    assert reasons == {
        "stem": "a normalization follows",
        "head": "it makes an output of the model",
    }


def test_the_old_model_keeps_its_activations_while_statistics_are_measured():
    model = models.convolutional()
    kacc.restructure(model, "insert_batch_normalization", calibration=models.images())
    assert model.get_layer("conv").activation is keras.activations.tanh
