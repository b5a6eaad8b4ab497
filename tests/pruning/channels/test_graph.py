"""Which channels go together, and what is left alone."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kacc
from kacc.core.channels.graph import dependencies
from kacc.pruning.channels.rebuild import Rebuild
from tests.core import models as small_models


def _image(channels=3, size=8):
    return keras.Input((size, size, channels))


def _conv(width, name, **options):
    return layers.Conv2D(width, 3, padding="same", name=name, **options)


def _groups(*outputs, inputs):
    found = dependencies(keras.Model(inputs, list(outputs)))
    return {group.layers: len(group.classes) for group in found.groups}, found


def _head(x):
    return layers.Dense(2, name="head")(layers.GlobalAveragePooling2D()(x))


def _add(x, y):
    return layers.Add()([x, y])


@pytest.mark.parametrize("join", [_add, lambda x, y: x + y, ops.maximum])
def test_a_residual_sum_ties_its_branches(join):
    image = _image()
    x = _conv(8, "a")(image)
    groups, _ = _groups(_head(join(x, _conv(8, "b")(x))), inputs=image)
    assert groups == {("a", "b"): 8}


def test_what_is_concatenated_stays_independent():
    image = _image()
    x = ops.concatenate([_conv(8, "a")(image), _conv(4, "b")(image)], axis=-1)
    groups, _ = _groups(_head(_conv(6, "c")(x)), inputs=image)
    assert groups == {("a",): 8, ("b",): 4, ("c",): 6}


def test_a_sum_of_a_concatenation_ties_part_by_part():
    image = _image()
    x = layers.Concatenate()([_conv(8, "a")(image), _conv(4, "b")(image)])
    groups, _ = _groups(_head(x + _conv(12, "c")(image)), inputs=image)
    assert groups == {("a", "c"): 8, ("b", "c"): 4}


def test_a_gate_is_tied_to_what_it_multiplies():
    image = _image()
    x = _conv(8, "a")(image)
    y = layers.Dense(4, name="squeeze")(layers.GlobalAveragePooling2D()(x))
    y = layers.Dense(8, activation="sigmoid", name="excite")(y)
    y = layers.Reshape((1, 1, 8))(y)
    groups, _ = _groups(_head(layers.Multiply()([x, y])), inputs=image)
    assert groups == {("a", "excite"): 8, ("squeeze",): 4}


def test_many_small_groups_go_whole_and_few_large_ones_in_part():
    image = _image()
    x = _conv(16, "a")(image)
    small = _conv(16, "small", groups=8)(x)
    groups, _ = _groups(_head(small), inputs=image)
    assert groups == {("a", "small"): 8}  # each of two channels of both
    large = _conv(24, "large", groups=2)(_conv(16, "b")(image))
    groups, found = _groups(_head(large), inputs=image)
    assert groups == {("b",): 8, ("large",): 12}
    assert [group.copies for group in found.groups] == [(2,), (2,)]
    assert [group.step(8) for group in found.groups] == [4, 4]


def test_flattened_channels_stand_at_every_position():
    image = _image()
    x = layers.Flatten()(_conv(8, "a")(image))
    groups, found = _groups(layers.Dense(2, name="head")(x), inputs=image)
    assert groups == {("a",): 8}
    remaining = found.everything()
    remaining[found.groups[0].classes[2:]] = False
    smaller = Rebuild(found, remaining).model()
    assert smaller.get_layer("head").kernel.shape == (8 * 8 * 2, 2)


def test_a_shared_layer_is_cut_once():
    image, other = _image(), _image()
    conv, last = _conv(8, "shared"), _conv(4, "last")
    x, y = last(conv(image)), last(conv(other))
    model = keras.Model([image, other], [_head(x), layers.Flatten()(y)])
    found = dependencies(model)
    assert {g.layers: len(g.classes) for g in found.groups} == {("shared",): 8}
    smaller = kacc.prune_channels(model, macs=0.5, round_to=4)
    assert smaller.get_layer("shared").filters == 4
    assert len(smaller.layers) == len(model.layers)


def test_outputs_and_inputs_keep_their_channels():
    image = _image(8)
    x = _conv(8, "a")(image)
    groups, _ = _groups(x, _head(image + x), inputs=image)
    assert groups == {}


@pytest.mark.parametrize(
    "layer",
    [
        layers.LayerNormalization(name="mixing"),
        layers.GroupNormalization(2, name="mixing"),
        layers.Softmax(name="mixing"),
        layers.Activation("softmax", name="mixing"),
        layers.Permute((3, 1, 2), name="mixing"),
        layers.Reshape((8, 8, 4, 2), name="mixing"),
        layers.TimeDistributed(layers.Dense(8), name="mixing"),
        layers.BatchNormalization(axis=1, name="mixing"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_what_cannot_be_followed_is_left_alone_and_reported(layer):
    image = _image()
    x = layer(_conv(8, "a")(image))
    x = layers.Flatten()(layers.Activation("relu")(x))
    x = layers.Dense(8, name="b")(x)
    model = keras.Model(image, layers.Dense(2, name="head")(x))
    found = dependencies(model)
    assert [group.layers for group in found.groups] == [("b",)]
    assert list(found.reasons) == ["mixing"]
    with pytest.warns(UserWarning, match=r"keeps all channels that reach: mixing \("):
        kacc.prune_channels(model, params=0.99, round_to=1)


def test_a_softmax_at_the_end_is_no_news():
    image = _image()
    x = _conv(8, "a")(image)
    x = layers.Activation("softmax")(_head(x))
    found = dependencies(keras.Model(image, x))
    assert len(found.groups) == 1
    assert found.reasons == {}


class Scaled(layers.Layer):
    """A layer of somebody else, without weights: it adds."""

    def call(self, inputs):
        return inputs[0] + 0.5 * ops.relu(inputs[1])


class Summed(layers.Layer):
    def call(self, inputs):
        return ops.sum(inputs, axis=-1, keepdims=True) * inputs


def test_layers_without_weights_are_looked_into():
    image = _image()
    x = _conv(8, "a")(image)
    x = Scaled(name="scaled")([x, _conv(8, "b")(x)])
    groups, found = _groups(_head(x), inputs=image)
    assert groups == {("a", "b"): 8}
    assert found.reasons == {}
    x = Summed(name="summed")(_conv(8, "c")(image))
    groups, found = _groups(_head(x), inputs=image)
    assert groups == {}
    assert "summed" in found.reasons


class Doubled(layers.Dense):
    def call(self, inputs):
        return super().call(inputs) + super().call(inputs)[..., ::-1]


def test_a_layer_that_computes_anew_is_not_taken_for_its_parent():
    vector = keras.Input((4,))
    x = Doubled(8, name="doubled")(layers.Dense(8, name="a")(vector))
    found = dependencies(keras.Model(vector, layers.Dense(2)(x)))
    assert found.groups == ()
    assert list(found.reasons) == ["doubled"]


def test_rules_keep_the_channels_of_layers():
    model = small_models.functional()
    assert len(dependencies(model).groups) == 1
    rules = [kacc.Rule("stem", skip=True)]
    assert dependencies(model, rules).groups == ()
    with pytest.raises(kacc.UsageError, match="must match a layer"):
        dependencies(model, [kacc.Rule("nowhere", skip=True)])


@pytest.mark.parametrize(
    ("apply", "width"),
    [
        (lambda x: x[:, 0], 8),
        (lambda x: x[..., 2:6], 4),
        (lambda x: x[:, :, :, None], 8),
        (lambda x: x[..., None], None),
        (lambda x: x[:, :, :, :, None], None),
        (lambda x: x[..., ::2], None),
        (lambda x: ops.split(x, 2, axis=-1)[1], 4),
        (lambda x: ops.split(x, 2, axis=1)[0], 8),
        (lambda x: ops.transpose(x, (0, 2, 1, 3)), 8),
        (lambda x: ops.transpose(x, (0, 3, 1, 2)), None),
        (lambda x: ops.squeeze(ops.mean(x, axis=(1, 2), keepdims=True), (1, 2)), 8),
        (lambda x: ops.mean(x, axis=-1, keepdims=True), None),
        (lambda x: ops.expand_dims(x, 1), 8),
        (lambda x: ops.expand_dims(x, -1), None),
        (lambda x: ops.reshape(x, (-1, 64, 8)), 8),
        (lambda x: ops.reshape(x, (-1, 8, 64)), 8),
        (lambda x: ops.reshape(x, (-1, 128, 4)), None),
        (lambda x: ops.clip(x, 0.0, 1.0) ** 2, 8),
        (lambda x: x + np.ones(8, "float32"), 8),
        (lambda x: ops.softmax(x), None),
    ],
)
def test_operators(apply, width):
    """Cut to channels 2, 3 and 5; `width`: how many of eight can be seen behind."""
    image = _image()
    y = apply(_conv(8, "a")(image))
    model = keras.Model(image, layers.Dense(2, name="head")(layers.Flatten()(y)))
    found = dependencies(model)
    if width is None:
        assert found.groups == ()
        assert found.reasons
        return
    made = next(a for a in found.axes if a.layer.name == "a" and a.produces)
    seen = next(a for a in found.axes if a.layer.name == "head" and not a.produces)
    assert len(set(seen.channels.tolist())) == width
    remaining = found.everything()
    gone = np.delete(made.channels, [2, 3, 5])
    remaining[gone] = False
    kernel = model.get_layer("head").kernel.numpy()
    kernel[~remaining[seen.channels]] = 0.0
    model.get_layer("head").kernel.assign(kernel)
    smaller = Rebuild(found, remaining).model()
    x = small_models.images(4)
    assert smaller.get_layer("a").filters == 3
    np.testing.assert_allclose(smaller(x), model(x), atol=1e-5)
