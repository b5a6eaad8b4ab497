"""Small models and data that the tests of the pieces share."""

import keras
import numpy as np
import pytest

layers = keras.layers
SHAPE = (8, 8, 16)


@pytest.fixture
def make():
    """Makes the same compiled model again: convolutions, dropout, a nested model."""

    def made(optimizer="adam", dropout=0.2, **options):
        keras.utils.clear_session()
        keras.utils.set_random_seed(0)
        inner_in = keras.Input((8, 8, 8))
        x = layers.Conv2D(8, 3, padding="same", activation="gelu")(inner_in)
        inner = keras.Model(inner_in, x, name="inner")
        inputs = keras.Input(SHAPE)
        x = layers.Rescaling(0.5)(inputs)
        x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv")(x)
        x = layers.ReLU()(layers.BatchNormalization(name="bn")(x))
        x = layers.Dropout(dropout)(x + inner(x))
        x = layers.GlobalAveragePooling2D()(x)
        model = keras.Model(inputs, layers.Dense(3, "softmax", name="head")(x))
        model.compile(
            optimizer,
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
            **options,
        )
        return model

    return made


@pytest.fixture
def data():
    random = np.random.default_rng(0)
    x = random.normal(1, 2, (32, *SHAPE)).astype("float32")
    return x, random.integers(0, 3, 32)


def fit(model, data, **options):
    return model.fit(*data, batch_size=8, shuffle=False, verbose=0, **options)


def state(model):
    """All that a model knows, as arrays: weights, seeds, metrics, optimizer's slots."""
    optimizer = model.optimizer.variables if model.optimizer.built else []
    variables = [*model.variables, *model.metrics_variables, *optimizer]
    return [np.array(v.value) for v in variables]


def assert_same_state(got, wanted):
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
