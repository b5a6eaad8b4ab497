"""A small model and its files."""

import keras
import numpy as np
import pytest

from kacc.converters.convert import convert

layers = keras.layers


@pytest.fixture(scope="session")
def images():
    return np.random.default_rng(1).normal(size=(60, 8, 8, 3)).astype("float32")


@pytest.fixture(scope="session")
def model():
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((8, 8, 3), name="image"),
            layers.Conv2D(4, 3, name="conv", activation="relu"),
            layers.Flatten(name="flat"),
            layers.Dense(3, name="classes"),
        ],
        name="small",
    )


@pytest.fixture(scope="session")
def float_file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("float") / "m.tflite"
    return convert(model, path, "tflite-float32")


@pytest.fixture(scope="session")
def int8_file(model, images, tmp_path_factory):
    path = tmp_path_factory.mktemp("int8") / "m.tflite"
    return convert(model, path, "tflite-int8", images)
