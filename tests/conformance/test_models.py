"""Whole models of every kind: what Keras predicts is what the file computes."""

import keras
import numpy as np
import pytest

import kacc
from kacc.converters.convert import convert
from kacc.quantization import calibrate
from tests.core import models


def quantized(build):
    """A model with random biases, its data, and wider data beyond the ranges."""
    keras.utils.set_random_seed(2)
    model = build()
    rng = np.random.default_rng(3)
    for variable in model.trainable_variables:
        variable.assign(rng.uniform(-0.7, 0.7, variable.shape))
    x = models.inputs_for(model, 64)
    kacc.quantize(model)
    calibrate(model, [x])
    return model, keras.tree.map_structure(lambda v: 1.3 * v, x)


def assert_equal_to_file(model, x, path):
    artifact = convert(model, path / "model.tflite", "tflite-int8")
    want = keras.tree.flatten(model.predict(x, batch_size=16, verbose=0))
    got = keras.tree.flatten(artifact.predict(x))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)
        assert len(np.unique(a)) > 10


@pytest.mark.parametrize("build", models.MODELS, ids=lambda b: b.__name__)
def test_predict_equals_the_file(build, tmp_path):
    model, x = quantized(build)
    assert_equal_to_file(model, x, tmp_path)


@pytest.mark.parametrize("build", [models.sequential, models.plain])
def test_models_of_bfloat16_predict_as_their_float32_file(build, tmp_path):
    """Keras rounds weights, and the inputs of a subclassed model, before its call."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model, x = quantized(build)
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.compute_dtype == "bfloat16"
    assert_equal_to_file(model, x, tmp_path)


def test_equality_holds_while_training_goes_on(tmp_path):
    model, x = quantized(models.sequential)
    model.compile("sgd", "mse", run_eagerly=True)
    before = model.predict(x, verbose=0)
    model.fit(x, models.targets_for(model, 64), verbose=0)
    assert not np.array_equal(model.predict(x, verbose=0), before)
    assert_equal_to_file(model, x, tmp_path)
