"""Activations swapped for cheaper ones, wherever a model has them."""

import keras
import numpy as np
import pytest
from keras import activations, layers, ops

import kacc
from kacc.restructuring import CHEAPER, CheaperActivations, plan
from kacc.restructuring.activations import ALONE, activation_of
from tests.restructuring import models


def _outputs(model, x):
    return np.asarray(model(x))


PLACES = [
    (kind, name)
    for kind in ("in a layer", "alone", "operator")
    for name in CHEAPER
    # keras.activations.mish makes three operators of it.
    if (kind, name) != ("operator", "mish")
]


@pytest.mark.parametrize(("kind", "name"), PLACES)
def test_each_activation_of_the_table_is_swapped_in_each_place(name, kind):
    old, new = activations.get(name), activations.get(CHEAPER[name])
    inputs = keras.Input((4,))
    last = layers.Dense(3, kernel_initializer="ones", name="last")
    if kind == "in a layer":
        x = layers.Dense(4, activation=name, kernel_initializer="identity")(inputs)
    elif kind == "alone":
        x = layers.Activation(name)(inputs)
    else:
        x = old(inputs)
    model = keras.Model(inputs, last(x))
    found = plan(model, "cheaper_activations")
    (row,) = found.layers
    assert row.done == f"{name} -> {CHEAPER[name]}"
    x = np.linspace(-7, 7, 40, dtype="float32").reshape(10, 4)
    wanted = np.asarray(new(x)).sum(axis=1, keepdims=True).repeat(3, axis=1)
    np.testing.assert_allclose(_outputs(found.build(), x), wanted, rtol=1e-5, atol=1e-5)
    assert np.abs(_outputs(model, x) - wanted).max() > 1e-3


@pytest.mark.parametrize("cls", ALONE, ids=lambda cls: cls.__name__)
def test_operators_are_known_by_the_names_of_their_activations(cls):
    """What the operator computes is what keras.activations has under that name."""
    operator = cls()
    x = np.linspace(-3, 3, 13, dtype="float32")
    name = activation_of(operator)
    options = {
        setting: getattr(operator, setting)
        for setting in ("negative_slope", "approximate")
        if hasattr(operator, setting)
    }
    wanted = getattr(activations, name)(x, **options)
    np.testing.assert_allclose(operator(x), wanted, rtol=1e-5, atol=1e-6)


def test_elu_layers_are_swapped():
    inputs = keras.Input((4,))
    x = layers.ELU(name="elu")(layers.Dense(4)(inputs))
    new = kacc.restructure(
        keras.Model(inputs, layers.Dense(2)(x)), CheaperActivations()
    )
    assert new.get_layer("elu").activation is activations.relu


def test_the_table_is_the_users():
    table = {"swish": "relu", "gelu": "gelu", "exponential": "softplus"}
    inputs = keras.Input((4,))
    x = layers.Dense(4, activation="silu", name="a")(inputs)
    x = layers.Dense(4, activation="gelu", name="b")(x)
    x = layers.Dense(4, activation="tanh", name="c")(ops.exp(x))
    model = keras.Model(inputs, layers.Dense(2)(x))
    found = plan(model, CheaperActivations(table))
    done = [row.done for row in found.layers]
    assert done == ["silu -> relu", "exponential -> softplus", "tanh -> hard_tanh"]


def test_outputs_and_what_recurrent_layers_remember_stay():
    inputs = keras.Input((6, 4))
    x = layers.LSTM(5, name="lstm")(inputs)
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid", name="p")(x))
    found = plan(model, "cheaper_activations")
    assert {row.path: row.reason for row in found.layers} == {
        "lstm": "what recurrent layers remember depends on it (tanh)",
        "p": "it makes an output of the model (sigmoid)",
    }
    x = np.random.default_rng(0).normal(size=(3, 6, 4)).astype("float32")
    models.require_equal(model, found.build(), x, 0)


@keras.saving.register_keras_serializable("kacc_tests")
class OwnDense(layers.Layer):
    def __init__(self, activation=None, **kwargs):
        super().__init__(**kwargs)
        self.activation = activations.get(activation)

    def call(self, x):
        return self.activation(x)

    def get_config(self):
        name = activations.serialize(self.activation)
        return {**super().get_config(), "activation": name}


def test_layers_of_others_are_left_alone():
    inputs = keras.Input((4,))
    x = OwnDense("tanh", name="own")(inputs)
    (row,) = plan(keras.Model(inputs, layers.Dense(2)(x)), "cheaper_activations").layers
    assert row.reason == "it is no layer of Keras's own (tanh)"
