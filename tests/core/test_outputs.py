import keras
import pytest
from keras import layers, ops

from kacc.core.outputs import kinds_of


def model(*last):
    return keras.Sequential([keras.Input((4,)), *last])


@pytest.mark.parametrize(
    ("last", "kind"),
    [
        ([layers.Dense(2, activation="softmax")], "probabilities"),
        ([layers.Dense(2), layers.Softmax()], "probabilities"),
        ([layers.Dense(2), layers.Activation("softmax")], "probabilities"),
        (
            [
                layers.Dense(2, activation="softmax"),
                layers.Activation("linear", dtype="float32"),
            ],
            "probabilities",
        ),
        ([layers.Dense(2, activation="sigmoid")], "sigmoid"),
        ([layers.Dense(2)], "values"),
        ([layers.Dense(2, activation="relu")], "values"),
    ],
)
def test_by_the_last_layer(last, kind):
    assert kinds_of(model(*last)) == kind


@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        (keras.losses.SparseCategoricalCrossentropy(from_logits=True), "logits"),
        (keras.losses.CategoricalCrossentropy(from_logits=True), "logits"),
        (keras.losses.BinaryCrossentropy(from_logits=True), "binary logits"),
        (keras.losses.SparseCategoricalCrossentropy(), "values"),
        ("mse", "values"),
    ],
)
def test_by_the_loss(loss, kind):
    one = model(layers.Dense(2))
    one.compile("sgd", loss)
    assert kinds_of(one) == kind


def test_each_output_by_its_own_loss():
    """Values beside logits are no logits: of one alone they would teach nothing."""
    logits = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    inputs = keras.Input((4,))
    a = layers.Dense(2, name="a")(inputs)
    b = layers.Dense(1, name="b")(inputs)
    for outputs, loss in (
        ({"a": a, "b": b}, {"a": logits, "b": "mse"}),
        ([a, b], {"a": logits, "b": "mse"}),
        ([a, b], [logits, "mse"]),
        ([a, b], [logits, None]),
        ([a, b], {"a": logits}),
    ):
        one = keras.Model(inputs, outputs)
        one.compile("sgd", loss)
        assert keras.tree.flatten(kinds_of(one)) == ["logits", "values"]
    one = keras.Model(inputs, [a, b])
    one.compile("sgd", logits)
    assert kinds_of(one) == ["logits", "logits"]


def test_operators_and_structures():
    inputs = keras.Input((4,))
    outputs = {"a": ops.softmax(layers.Dense(2)(inputs)), "b": [ops.sigmoid(inputs)]}
    found = kinds_of(keras.Model(inputs, outputs))
    assert found == {"a": "probabilities", "b": ["sigmoid"]}
