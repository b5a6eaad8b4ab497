"""Scores of channels, and refitting."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers

import kacc
from kacc.core.channels.graph import dependencies
from kacc.pruning.channels import features, importance
from kacc.pruning.channels.pruner import plan_channels
from kacc.pruning.channels.reconstruction import reconstruction
from tests.core import models as small_models
from tests.pruning.channels import graphs

SIZE = 6


def _two_convs(width=8, **options):
    image = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(width, 3, padding="same", name="a", **options)(image)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU()(x)
    x = layers.Conv2D(5, 3, padding="same", name="b")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(3, name="head")(x))


def _data(samples=64, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(samples, SIZE, SIZE, 3)).astype("float32")
    return x, rng.integers(0, 3, samples)


def _score_of(model, name, scores):
    found = dependencies(model)
    return next(
        s
        for g, s in zip(found.groups, scores(found), strict=True)
        if g.layers == (name,)
    )


def test_magnitudes_are_norms_of_all_layers_of_the_group():
    model = _two_convs()
    a, b = model.get_layer("a").kernel.numpy(), model.get_layer("b").kernel.numpy()
    made = np.sqrt((a**2).sum((0, 1, 2)))
    read = np.sqrt((b**2).sum((0, 1, 3)))
    wanted = made / made.mean() + read / read.mean()
    got = _score_of(model, "a", lambda found: importance.magnitude(found, 2))
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_a_channel_of_zeros_matters_least_to_every_importance():
    model = _two_convs()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
    for name, axis in (("a", -1), ("b", -2)):
        kernel = model.get_layer(name).kernel
        values = kernel.numpy()
        values[(..., 5, *[slice(None)] * (-axis - 1))] = 0
        kernel.assign(values)
    norm = model.get_layer("norm")
    norm.gamma.assign(np.where(np.arange(8) == 5, 0.0, 1.0))
    x, y = _data()
    batches = [(x, y)]
    for scores in (
        lambda found: importance.magnitude(found, 1),
        lambda found: importance.magnitude(found, 2),
        importance.batch_norm_scale,
        lambda found: importance.taylor(found, batches),
        lambda found: reconstruction(found, batches),
    ):
        got = _score_of(model, "a", scores)
        assert got.argmin() == 5
        assert (np.delete(got, 5) > got[5]).all()


def test_batch_norm_scales_are_those_of_the_layer():
    model = _two_convs()
    factors = np.linspace(-1, 1, 8)
    model.get_layer("norm").gamma.assign(factors)
    got = _score_of(model, "a", importance.batch_norm_scale)
    np.testing.assert_allclose(got, np.abs(factors), rtol=1e-6)


def test_taylor_is_the_change_of_the_loss_to_first_order():
    """Of a linear model: the loss without a channel is known."""
    inputs = keras.Input((4,))
    x = layers.Dense(6, use_bias=False, name="a")(inputs)
    model = keras.Model(inputs, layers.Dense(1, use_bias=False, name="b")(x))
    model.compile(
        "sgd", lambda y, p: keras.ops.sum(p, axis=-1)
    )  # linear in the weights
    x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
    got = _score_of(
        model, "a", lambda found: importance.taylor(found, [(x, np.zeros((32, 1)))])
    )
    hidden = x @ model.get_layer("a").kernel.numpy()
    change = (hidden * model.get_layer("b").kernel.numpy()[:, 0]).mean(0)
    np.testing.assert_allclose(got, change**2, rtol=1e-3)


def test_taylor_needs_a_loss_and_labels():
    model = _two_convs()
    x, y = _data()
    with pytest.raises(kacc.UsageError, match="compiled model"):
        kacc.prune_channels(model, macs=0.5, importance="taylor", data=(x, y))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
    with pytest.raises(kacc.UsageError, match="needs labels"):
        kacc.prune_channels(model, macs=0.5, importance="taylor", data=x)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (layers.Conv2D(4, 3, strides=2, padding="same"), (7, 6, 3)),
        (layers.Conv2D(4, (3, 2), padding="valid"), (7, 6, 3)),
        (layers.Conv2D(4, 3, dilation_rate=2, padding="same"), (7, 6, 3)),
        (layers.Conv2D(4, 1, strides=2), (7, 6, 3)),
        (layers.Conv1D(4, 3, padding="causal", dilation_rate=2), (9, 3)),
        (layers.Conv1D(4, 3, strides=2, padding="same"), (9, 3)),
        (layers.Dense(4), (7, 3)),
        (layers.SeparableConv2D(4, 3, depth_multiplier=2, padding="same"), (7, 6, 3)),
        (layers.SeparableConv1D(4, 3, strides=2), (9, 3)),
    ],
)
def test_rows_times_the_matrix_are_the_layers_outputs(layer, shape):
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    wanted = np.asarray(layer(x))
    got = np.asarray(features.rows(layer, x)) @ features.matrix(layer)
    np.testing.assert_allclose(got, wanted.reshape(got.shape), atol=1e-5)


def test_reconstruction_finds_channels_that_others_can_replace():
    """Channels 4 to 7 copy 0 to 3: half of them can go, and nothing is lost."""
    model = _two_convs(kernel_initializer="glorot_normal")
    a = model.get_layer("a")
    kernel = a.kernel.numpy()
    kernel[..., 4:] = kernel[..., :4] * np.array([1.0, 2.0, 0.5, 3.0], "float32")
    a.kernel.assign(kernel)
    x, _ = _data(128)
    smaller = kacc.prune_channels(
        model,
        params=0.55,
        importance="reconstruction",
        data=x,
        round_to=4,
        rules=[kacc.Rule("b", skip=True)],
    )
    assert smaller.get_layer("a").filters == 4
    wanted, got = np.asarray(model(x)), np.asarray(smaller(x))
    assert np.abs(wanted - got).max() < 0.02 * np.abs(wanted).max()
    plain = kacc.prune_channels(
        model, params=0.55, round_to=4, rules=[kacc.Rule("b", skip=True)]
    )
    assert np.abs(wanted - np.asarray(plain(x))).max() > 0.1 * np.abs(wanted).max()


@pytest.mark.parametrize("norm", [False, True])
def test_the_refit_gives_constants_to_the_bias_or_the_statistics(norm):
    """A channel that is constant is lost, and nothing else changes."""
    image = keras.Input((SIZE, SIZE, 3))
    a = layers.Conv2D(8, 1, activation="relu", name="a")
    x = layers.Conv2D(8, 1, use_bias=not norm, name="b")(a(image))
    x = layers.BatchNormalization()(x) if norm else x
    model = keras.Model(image, layers.Flatten()(x))
    kernel, bias = a.kernel.numpy(), a.bias.numpy()
    kernel[..., 4:], bias[4:] = 0, 2.0
    a.kernel.assign(kernel)
    a.bias.assign(bias)
    x, _ = _data(128)
    smaller = kacc.prune_channels(
        model, params=0.6, importance="reconstruction", data=x, round_to=4
    )
    assert smaller.get_layer("a").filters == 4
    np.testing.assert_allclose(smaller(x), model(x), atol=2e-3)


def test_scores_of_ones_own():
    model = _two_convs()

    def last_first(found):
        return [np.arange(len(group.classes)) for group in found.groups]

    smaller = kacc.prune_channels(
        model, params=0.5, importance=last_first, round_to=1, scope="local"
    )
    width = smaller.get_layer("a").filters
    np.testing.assert_array_equal(
        smaller.get_layer("a").kernel.numpy(),
        model.get_layer("a").kernel.numpy()[..., -width:],
    )
    with pytest.raises(kacc.UsageError, match="an array for each group"):
        kacc.prune_channels(model, params=0.5, importance=lambda found: [np.ones(3)])


def test_the_refit_runs_a_part_that_is_copied_as_a_whole_with_its_own_weights():
    image = keras.Input((8, 8, 3))
    x = small_models.Residual(name="block")(image)
    x = layers.Conv2D(8, 3, name="conv")(x)
    model = keras.Model(image, layers.Conv2D(4, 3, name="last")(x))
    graphs.randomize(model)
    data, rule = small_models.images(64), kacc.Rule("block/.*", skip=True)
    found = plan_channels(
        model,
        macs=0.8,
        importance="reconstruction",
        round_to=2,
        data=data,
        rules=[rule],
    )
    refitted = found.build().predict(data, verbose=0)
    alone = dataclasses.replace(found, batches=()).build().predict(data, verbose=0)
    wanted = model.predict(data, verbose=0)
    assert np.square(refitted - wanted).mean() < np.square(alone - wanted).mean()
