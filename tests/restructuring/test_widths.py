"""Numbers of channels: rounded up with equal outputs, or multiplied."""

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from keras import layers, ops

import kacc
from kacc.core.channels.graph import dependencies
from kacc.core.channels.resize import Resized, places
from kacc.core.cost import cost
from kacc.restructuring import RoundChannels, Width, plan
from kacc.restructuring.widths import divisible
from tests.core import models as small
from tests.pruning.channels import graphs
from tests.restructuring import models

SOME = settings(
    max_examples=5, suppress_health_check=[HealthCheck.too_slow], deadline=None
)


@SOME
@given(graphs.models(), st.sampled_from((3, 5, 8)))
def test_rounding_up_leaves_the_outputs_of_any_model_equal(model, to):
    found = plan(model, RoundChannels(to))
    new = found.build()
    models.require_equal(model, new, graphs.data())
    # Each layer has a multiple now, or a row that says why not.
    left = {row.path for row in found.layers if not row.done}
    graph = dependencies(new)
    paths = {id(call.operation): call.path for call in graph.graph.calls}
    for axis in graph.axes:
        if axis.produces and axis.variable.shape[axis.axis] % to:
            assert paths[id(axis.layer)] in left


@SOME
@given(graphs.models(), st.sampled_from((0.5, 0.75, 1.5)))
def test_a_wider_or_narrower_model_runs_and_widening_changes_nothing(model, share):
    new = kacc.restructure(model, Width(share, round_to=1, weights="leading"))
    x = graphs.data()
    for wanted, got in zip(small.outputs(model, x), small.outputs(new, x), strict=True):
        assert wanted.shape == got.shape
    if share > 1:
        models.require_equal(model, new, x)


def test_widths_are_multiples_and_costs_grow():
    model = models.convolutional()
    found = plan(model, RoundChannels(16))
    new = found.build()
    assert [new.get_layer(n).filters for n in ("stem", "conv", "down")] == [16] * 3
    assert found.macs[1] > found.macs[0]
    rows = {row.path: row for row in found.layers}
    assert rows["stem"].done == "channels 12 -> 16"
    assert rows["head"].done == ""
    assert "the model's outputs" in rows["head"].reason
    assert rows["stem_norm"].params == (48, 64)


def test_added_channels_are_finite_differ_and_can_be_trained():
    """Where zeros would give a logarithm of zero, and gradients of zero for good."""
    inputs = keras.Input((4,))
    x = layers.Dense(5, activation="softplus", name="a")(inputs)
    x = ops.log(x)
    model = keras.Model(inputs, layers.Dense(2, name="b")(x))
    graphs.randomize(model)
    new = kacc.restructure(model, RoundChannels(8))
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    models.require_equal(model, new, x)
    kernel = new.get_layer("a").kernel.numpy()
    assert len(np.unique(kernel, axis=1).T) == 8
    assert not new.get_layer("b").kernel.numpy()[5:].any()
    new.compile(keras.optimizers.SGD(0.1), "mse")
    new.fit(x, x[:, :2] ** 2, epochs=3, verbose=0)
    assert (np.abs(new.get_layer("b").kernel.numpy()[5:]) > 0).all()
    assert (new.get_layer("a").kernel.numpy()[:, 5:] != kernel[:, 5:]).all()


def test_ranges_of_activations_stay_what_they_are():
    """So that the scales of quantized tensors are no coarser than before."""
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(5, name="a"), layers.Dense(2, name="b")]
    )
    graphs.randomize(model)
    model.get_layer("a").bias.assign(np.zeros(5))
    new = kacc.restructure(model, RoundChannels(8))
    x = np.random.default_rng(0).normal(size=(512, 4)).astype("float32")
    before, after = (m.get_layer("a")(x).numpy() for m in (model, new))
    assert np.abs(after).max() <= 1.25 * np.abs(before).max()


def _join(kind):
    image = keras.Input((4, 4, 3))
    a = layers.Conv2D(6, 3, padding="same", name="a")(image)
    if kind == "halves that go different ways":
        b = layers.Conv2D(2, 1, name="b")(a[..., :3])
        return keras.Model(image, [b, layers.Conv2D(2, 1, name="c")(a[..., 3:])])
    if kind == "an array of a value for each channel":
        x = a * np.arange(1, 7, dtype="float32") + 1.0
        return keras.Model(image, layers.Conv2D(2, 1, name="b")(x))
    if kind == "depthwise with a multiplier, then an array":
        x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="d")(a)
        x = x * np.arange(1, 13, dtype="float32")
        return keras.Model(image, layers.Conv2D(2, 1, name="b")(x))
    if kind == "parts of repeated channels":
        x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="d")(a)
        x = ops.concatenate([x[..., 11:], x[..., :11]], axis=-1)
        return keras.Model(image, layers.Conv2D(2, 1, name="b")(x))
    if kind == "fixed":
        return keras.Model(image, layers.LayerNormalization(name="n")(a))
    raise ValueError(kind)


@pytest.mark.parametrize(
    ("kind", "filters"),
    [
        ("halves that go different ways", 6),
        ("an array of a value for each channel", 8),
        ("depthwise with a multiplier, then an array", 8),
        ("parts of repeated channels", 6),
        ("fixed", 6),
    ],
)
def test_joins_that_are_hard_to_follow_stay_right(kind, filters):
    model = _join(kind)
    graphs.randomize(model)
    found = plan(model, RoundChannels(8))
    new = found.build()
    assert new.get_layer("a").filters == filters
    reasons = {row.path: row.reason for row in found.layers if row.reason}
    assert ("a" in reasons) == (filters == 6)
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype("float32")
    models.require_equal(model, new, x)


def test_a_flattened_single_channel_is_left_alone():
    """Whether its copies stand beside it or after all positions cannot be told."""
    model = keras.Sequential(
        [
            keras.Input((4, 4, 3)),
            layers.Conv2D(1, 3, name="a"),
            layers.Flatten(),
            layers.Dense(8),
        ]
    )
    found = plan(model, RoundChannels(8))
    assert found.build().get_layer("a").filters == 1
    assert "single channel" in {r.path: r.reason for r in found.layers}["a"]


def test_rules_keep_the_channels_of_a_layer():
    model = models.convolutional()
    new = kacc.restructure(
        model, RoundChannels(8), rules=[kacc.Rule("down", skip=True)]
    )
    assert new.get_layer("down").filters == 10
    assert new.get_layer("stem").filters == 16


def test_fresh_weights_are_new_but_statistics_of_inputs_stay():
    image = keras.Input((4, 4, 3))
    norm = layers.Normalization(name="inputs")
    x = layers.Conv2D(32, 3, name="a")(norm(image))
    x = layers.BatchNormalization(name="n")(x)
    model = keras.Model(image, layers.Conv2D(2, 1, name="b")(x))
    graphs.randomize(model)
    norm.adapt(np.random.default_rng(0).normal(2.0, 3.0, size=(50, 4, 4, 3)))
    mean = norm.mean.numpy()
    new = kacc.restructure(model, Width(0.5))
    assert new.get_layer("a").filters == 16
    np.testing.assert_array_equal(new.get_layer("n").gamma.numpy(), np.ones(16))
    assert not np.isin(
        new.get_layer("a").kernel.numpy(), model.get_layer("a").kernel.numpy()
    ).any()
    np.testing.assert_array_equal(new.get_layer("inputs").mean.numpy(), mean)
    leading = kacc.restructure(model, Width(0.5, weights="leading"))
    np.testing.assert_array_equal(
        leading.get_layer("a").kernel.numpy(),
        model.get_layer("a").kernel.numpy()[..., :16],
    )


def test_half_the_width_of_a_real_network_is_a_quarter_of_its_macs():
    model = models.convolutional()
    wide = kacc.restructure(model, Width(4, round_to=8))
    half = kacc.restructure(wide, Width(0.5, round_to=8))
    assert half.get_layer("conv").filters == 24
    assert cost(half).layers[3].macs * 4 == cost(wide).layers[3].macs or (
        cost(half).macs < 0.3 * cost(wide).macs
    )


@given(st.floats(1, 500), st.integers(1, 32))
def test_multiples_are_near_and_never_a_tenth_below(value, step):
    found = divisible(value, step)
    assert found % step == 0
    assert found >= step
    assert found >= 0.9 * value
    assert found - value <= step


@given(st.data())
def test_places_are_those_of_tiles_and_of_repeats(data):
    """By construction: an axis is made of its classes first, then resized."""
    classes = data.draw(st.integers(2, 6))
    copies = np.array(data.draw(st.lists(st.integers(0, 3), min_size=6, max_size=6)))
    new = np.repeat(np.arange(classes), copies[:classes])
    assume(len(new))
    tiles, repeats = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    axis = np.tile(np.repeat(np.arange(classes), repeats), tiles)
    source, is_new = places(axis, copies)
    np.testing.assert_array_equal(axis[source], np.tile(np.repeat(new, repeats), tiles))
    assert len(is_new) - is_new.sum() == (copies[axis] > 0).sum()


def test_a_resized_copy_with_one_of_each_is_the_model():
    model = models.convolutional()
    found = dependencies(model)
    copy = Resized(found, found.everything()).model()
    models.require_equal(model, copy, models.images(), 0)
