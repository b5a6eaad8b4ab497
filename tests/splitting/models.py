"""Small models whose parts are compared with them."""

import keras
import numpy as np
from keras import layers, ops

SHAPE = (8, 8, 3)


def residual(name="net"):
    """A convolutional network with skip connections over most places for a cut."""
    x = inputs = keras.Input(SHAPE, name="image")
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU(name="relu")(x)
    y = layers.Conv2D(8, 3, padding="same", activation="relu", name="first")(x)
    y = layers.Conv2D(8, 3, padding="same", name="second")(y)
    x = layers.ReLU(name="joined")(layers.Add(name="add")([x, y]))
    x = layers.MaxPooling2D(name="pool")(x)
    x = layers.Conv2D(16, 3, activation="relu", name="last")(x)
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    x = layers.Dense(5, activation="softmax", name="head")(x)
    return keras.Model(inputs, x, name=name)


def sequential():
    dense = layers.Dense
    return keras.Sequential(
        [
            keras.Input((6,)),
            dense(8, activation="relu", name="a"),
            dense(8, name="b"),
            layers.BatchNormalization(name="c"),
            dense(3, name="d"),
        ],
        name="stack",
    )


def nested():
    x = inputs = keras.Input((6,))
    inner = keras.Sequential(
        [keras.Input((6,)), layers.Dense(6, name="a"), layers.ReLU(name="b")],
        name="inner",
    )
    x = layers.Dense(6, name="a")(x)
    x = x + inner(x)
    return keras.Model(inputs, layers.Dense(2, name="end")(x))


class Subclassed(keras.Model):
    """With operators and a weight of its own in its `call`."""

    def __init__(self):
        super().__init__()
        self.first, self.second = layers.Dense(6), layers.Dense(6)
        self.gate = self.add_weight(shape=(6,), initializer="random_normal")
        self.drop = layers.Dropout(0.5)

    def call(self, x, training=False):
        y = ops.relu(self.first(x))
        return self.drop(self.second(y) + x * self.gate, training=training)


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 6)))
    return model


def shared():
    """A layer that is called twice, between layers that are called once."""
    x = inputs = keras.Input((6,))
    twice = layers.Dense(6, activation="tanh", name="twice")
    x = layers.Dense(6, name="before")(x)
    x = layers.Dense(6, name="between")(twice(x))
    x = layers.Dense(6, name="after")(twice(x))
    return keras.Model(inputs, x)


def several():
    """Two inputs, the second of which is read late, and outputs in a dictionary."""
    a, b = keras.Input((6,), name="a"), keras.Input((4,), name="b")
    x = layers.Dense(6, name="one")(a)
    early = layers.Dense(2, name="early")(x)
    y = layers.Concatenate(name="both")([layers.Dense(6, name="two")(x), b])
    late = layers.Dense(3, name="late")(y)
    return keras.Model([a, b], {"z": early, "y": late})


def masked():
    x = inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(9, 4, mask_zero=True, name="words")(x)
    x = layers.LSTM(4, return_sequences=True, name="up")(x)
    x = layers.LSTM(3, name="down")(x)
    return keras.Model(inputs, layers.Dense(2, name="end")(x))


KINDS = (residual, sequential, nested, subclassed, shared, several, masked)


def data(model, samples=16, seed=0):
    """Inputs of a model, in the structure that it takes."""
    rng = np.random.default_rng(seed)
    if isinstance(model, Subclassed):
        return rng.normal(size=(samples, 6)).astype("float32")

    def values(symbol):
        shape = (samples, *symbol.shape[1:])
        if symbol.dtype == "int32":
            return rng.integers(0, 9, shape).astype("int32")
        return rng.normal(size=shape).astype("float32")

    found = [values(x) for x in model.inputs]
    return found if len(found) > 1 else found[0]
