"""Small models and their files, made once: a conversion costs a second."""

import keras
import numpy as np
import pytest

from kacc.converters.convert import convert

layers = keras.layers


@pytest.fixture(scope="session")
def images():
    return np.random.default_rng(7).normal(size=(80, 8, 8, 3)).astype("float32")


def unchanged(model):
    """A model that tests share, and a failure if one of them changed its weights."""
    before = model.get_weights()
    yield model
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


@pytest.fixture(scope="session")
def model():
    """A nested model whose layer names are traps: conv, conv_1, and one in upper case.

    Its batch normalization has statistics that folding must take into account.
    """
    keras.utils.set_random_seed(3)
    block = keras.Sequential(
        [
            layers.Conv2D(6, 3, padding="same", use_bias=False, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
        ],
        name="block",
    )
    image = keras.Input((8, 8, 3), name="image")
    x = block(image)
    x = layers.Conv2D(6, 3, padding="same", name="conv")(x)
    x = layers.Conv2D(6, 3, strides=2, name="conv_1", activation="relu")(x)
    x = layers.Flatten(name="Flat")(x)
    x = layers.Dense(5, name="logits")(x)
    result = keras.Model(image, layers.Softmax(name="classes")(x), name="net")
    norm = block.get_layer("norm")
    values = np.random.default_rng(5).uniform(0.5, 1.5, (4, 6))
    norm.set_weights(list(values))
    yield from unchanged(result)


@pytest.fixture(scope="session")
def two_by_two():
    """Two inputs and two outputs, with names, in dictionaries."""
    keras.utils.set_random_seed(4)
    image = keras.Input((8, 8, 3), name="image")
    extra = keras.Input((4,), name="extra")
    x = layers.Conv2D(4, 3, name="conv")(image)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    y = layers.Dense(4, name="dense")(extra)
    x = layers.Add(name="sum")([x, y])
    outputs = {
        "probability": layers.Dense(3, activation="softmax", name="head")(x),
        "amount": layers.Dense(1, name="tail")(x),
    }
    yield from unchanged(keras.Model([image, extra], outputs, name="two"))


@pytest.fixture(scope="session")
def extras():
    return np.random.default_rng(8).normal(size=(80, 4)).astype("float32")


@pytest.fixture(scope="session")
def float_file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("float") / "model.tflite"
    return convert(model, path, "tflite-float32")


@pytest.fixture(scope="session")
def int8_file(model, images, tmp_path_factory):
    path = tmp_path_factory.mktemp("int8") / "model.tflite"
    return convert(model, path, "tflite-int8", images)


@pytest.fixture(scope="session")
def two_file(two_by_two, images, extras, tmp_path_factory):
    path = tmp_path_factory.mktemp("two") / "model.tflite"
    return convert(two_by_two, path, "tflite-int8", [images, extras], io="float32")
