"""Flatten and Dense heads into global pooling."""

import keras
import numpy as np
import pytest
from keras import layers

import kacc
from kacc.restructuring import GlobalPoolingHead, plan
from tests.pruning.channels import graphs
from tests.restructuring import models


def _head(shape, flatten=None, between=(), use_bias=True):
    inputs = keras.Input(shape)
    x = (flatten or layers.Flatten(name="flat"))(inputs)
    for layer in between:
        x = layer(x)
    model = keras.Model(inputs, layers.Dense(3, use_bias=use_bias, name="head")(x))
    graphs.randomize(model)
    return model


@pytest.mark.parametrize("shape", [(6, 4), (3, 5, 4), (2, 3, 2, 4)])
@pytest.mark.parametrize("use_bias", [True, False])
def test_of_maps_that_are_constant_outputs_are_equal(shape, use_bias):
    model = _head(shape, between=[layers.Dropout(0.5)], use_bias=use_bias)
    new = kacc.restructure(model, GlobalPoolingHead())
    constant = np.random.default_rng(0).normal(size=(8, *(1,) * len(shape[1:]), 4))
    x = np.broadcast_to(constant, (8, *shape)).astype("float32")
    models.require_equal(model, new, x)
    assert new.get_layer("head").kernel.shape == (4, 3)


def test_a_reshape_that_joins_everything_counts_as_flatten():
    model = _head((3, 5, 4), layers.Reshape((-1,), name="flat"))
    new = kacc.restructure(model, "global_pooling_head")
    assert new.get_layer("head").kernel.shape == (4, 3)


@pytest.mark.parametrize("use_bias", [True, False])
def test_with_calibration_outputs_are_nearer_on_other_samples_too(use_bias):
    model = _head((4, 4, 6), use_bias=use_bias)
    random = np.random.default_rng(0)
    # Brighter in the middle, as images are: the sum over positions is off.
    shade = random.uniform(0, 2, size=(4, 4, 1))
    x = (random.normal(1, 1, size=(200, 1, 1, 6)) * shade).astype("float32")
    plain = kacc.restructure(model, GlobalPoolingHead())
    fitted = kacc.restructure(model, GlobalPoolingHead(), calibration=x[:100])
    wanted = model(x[100:])
    errors = [float(np.mean((m(x[100:]) - wanted) ** 2)) for m in (plain, fitted)]
    assert errors[1] < 0.01 * errors[0]


def test_two_dense_layers_may_read_what_is_flattened():
    inputs = keras.Input((3, 3, 4))
    x = layers.Flatten(name="flat")(inputs)
    model = keras.Model(inputs, [layers.Dense(2)(x), layers.Dense(5)(x)])
    new = kacc.restructure(model, "global_pooling_head")
    assert [layer.kernel.shape for layer in new.layers[-2:]] == [(4, 2), (4, 5)]


@pytest.mark.parametrize("passes", [True, False])
def test_heads_on_masked_words_are_left_alone(passes):
    """Pooling would leave the masked positions out, which Flatten takes as they are."""
    inputs = keras.Input((6,))
    x = layers.Embedding(9, 4, mask_zero=True)(inputs)
    x = layers.Dropout(0.1)(x) if passes else layers.Conv1D(4, 1)(x)
    outputs = layers.Dense(2)(layers.Flatten()(x))
    (row, *_) = plan(keras.Model(inputs, outputs), "global_pooling_head").layers
    assert ("have a mask" in row.reason) == passes
    assert bool(row.done) != passes


def _several(kind):
    inputs = keras.Input((3, 3, 4))
    flat = layers.Flatten(name="flat")
    if kind == "output":
        return keras.Model(inputs, flat(inputs))
    if kind == "softmax":
        return keras.Model(
            inputs, layers.Dense(2)(layers.Softmax(name="s")(flat(inputs)))
        )
    if kind == "twice":
        dense = layers.Dense(2, name="head")
        other = layers.Flatten(name="other")(inputs)
        return keras.Model(inputs, [dense(flat(inputs)), dense(other)])
    if kind == "constraint":
        return keras.Model(
            inputs, layers.Dense(2, kernel_constraint="non_neg")(flat(inputs))
        )
    pooled = layers.MaxPooling2D(3)(inputs)
    return keras.Model(inputs, layers.Dense(2)(flat(pooled)))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("output", "makes an output"),
        ("softmax", "s reads it, which is no Dense"),
        ("twice", "called several times"),
        ("constraint", "constraint"),
        ("one position", "one position only"),
    ],
)
def test_heads_that_cannot_pool_are_left_alone(kind, reason):
    rows = plan(_several(kind), "global_pooling_head").layers
    assert rows
    assert all(not row.done and reason in row.reason for row in rows)
