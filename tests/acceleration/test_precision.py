"""Mixed precision of a model that is there already, and the way back."""

import keras
import numpy as np
import pytest

import kacc
from kacc.acceleration import mixed_precision, restore
from kacc.acceleration.layer import FusedBatchNormalization
from kacc.core.errors import UsageError
from tests.acceleration.conftest import assert_same_state, fit, state

LossScale = keras.optimizers.LossScaleOptimizer


def policies(model):
    return {layer.name: layer.dtype_policy.name for layer in model._flatten_layers()}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_layers_change_and_come_back(make, dtype):
    model = make()
    before = policies(model)
    done = mixed_precision(model, dtype)
    now = policies(model)
    assert {"conv", "bn", "inner"} <= {n for n, p in now.items() if p != "float32"}
    assert model.get_layer("conv").compute_dtype == dtype
    assert all(v.dtype == "float32" for v in model.weights)
    assert done.kept["head"] == "it makes an output of the model"
    assert done.kept["rescaling"] == "it prepares inputs"
    assert now["head"] == "float32"
    back = mixed_precision(model, "float32")
    assert set(back.changed) == set(done.changed)
    assert policies(model) == before
    assert not isinstance(model.optimizer, LossScale)


def test_training_is_that_of_a_model_made_in_half_precision(make, data):
    changed = make()
    fit(changed, data)
    mixed_precision(changed)
    history = fit(changed, data).history["loss"]
    twin = make()
    for layer in twin._flatten_layers():
        if layer.dtype_policy.name != policies(changed)[layer.name]:
            layer.dtype_policy = "mixed_bfloat16"
    fit(twin, data)
    # The first fit of the twin is in half precision too, so it is near and not equal.
    np.testing.assert_allclose(history, fit(twin, data).history["loss"], rtol=0.05)


def test_functions_are_traced_anew(make, data):
    model = make()
    fit(model, data)
    before = model.predict(data[0], verbose=0)
    mixed_precision(model)
    half = model.predict(data[0], verbose=0)
    assert 0 < np.abs(half - before).max() < 0.05
    restore(model)
    np.testing.assert_array_equal(model.predict(data[0], verbose=0), before)


def test_float16_scales_the_loss_and_keeps_the_slots(make, data):
    model = make()
    fit(model, data)
    optimizer, known = model.optimizer, state(model)
    mixed_precision(model, "float16")
    assert isinstance(model.optimizer, LossScale)
    assert model.optimizer.inner_optimizer is optimizer
    restore(model)
    assert model.optimizer is optimizer
    assert_same_state(state(model), known)
    mixed_precision(model, "float16")
    fit(model, data)
    assert int(optimizer.iterations) == 8
    assert all(np.isfinite(w).all() for w in model.get_weights())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_saved_models_are_plain_and_train_on(make, data, dtype, tmp_path):
    model = make(dropout=0.0)
    mixed_precision(model, dtype)
    fit(model, data)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is type(model.optimizer)
    for layer in loaded.layers:
        if not isinstance(layer, keras.layers.InputLayer | keras.Model):
            assert layer.dtype_policy.name == policies(model)[layer.name]
    assert_same_state(loaded.get_weights(), model.get_weights())
    wanted, got = (fit(m, data).history["loss"] for m in (model, loaded))
    np.testing.assert_allclose(got, wanted, rtol=1e-5)
    mixed_precision(loaded, "float32")
    assert set(policies(loaded).values()) == {"float32"}
    assert not isinstance(loaded.optimizer, LossScale)


def test_other_policies_are_left_alone():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(4, dtype="float64", name="double"),
            keras.layers.Dense(4, dtype="mixed_float16", name="half"),
            keras.layers.Dense(4, name="plain"),
            keras.layers.Dense(4, name="last"),
        ]
    )
    done = mixed_precision(model)
    assert "its dtype policy is float64" in done.kept.values()
    assert model.get_layer("half").compute_dtype == "bfloat16"
    restore(model)
    assert policies(model)["half"] == "mixed_float16"
    assert policies(model)["plain"] == "float32"


def test_probabilities_of_subclassed_models_stay_in_float32():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.first = keras.layers.Dense(4, "relu")
            self.last = keras.layers.Dense(4, "softmax")

        def call(self, x):
            return self.last(self.first(x))

    model = Model()
    mixed_precision(model)
    assert model.first.compute_dtype == "bfloat16"
    assert model.last.compute_dtype == "float32"
    assert model(np.ones((1, 4))).dtype == "float32"


@pytest.mark.parametrize("first", ["precision", "quantization"])
def test_together_with_quantization(make, data, first, tmp_path):
    model = make(dropout=0.0)
    steps = [mixed_precision, kacc.quantize]
    for step in steps if first == "precision" else steps[::-1]:
        step(model)
    kacc.accelerate(model)
    losses = fit(model, data, epochs=3).history["loss"]
    plain = make(dropout=0.0)
    kacc.quantize(plain)
    np.testing.assert_allclose(
        losses, fit(plain, data, epochs=3).history["loss"], rtol=0.05
    )
    restore(model)
    artifact = kacc.convert(model, tmp_path / "model.tflite", "tflite-int8")
    assert kacc.parity(model, artifact, data[0]).equal == 1.0


def test_the_fused_kernel_reads_halves(make):
    import tensorflow as tf

    model = make()
    mixed_precision(model)
    kacc.accelerate(model)
    layer = model.get_layer("bn")
    assert type(layer) is FusedBatchNormalization
    step = tf.function(lambda x: layer(x, training=True)).get_concrete_function(
        tf.TensorSpec((4, 16, 16, 8), tf.bfloat16)
    )
    kernels = [o for o in step.graph.get_operations() if "FusedBatch" in o.type]
    assert [o.inputs[0].dtype for o in kernels] == [tf.bfloat16]


@pytest.mark.parametrize("bad", ["half", "float64", None, 16])
def test_unknown_types_are_refused(make, bad):
    with pytest.raises(UsageError, match="must be one of bfloat16, float16, float32"):
        mixed_precision(make(), bad)


def test_only_models():
    with pytest.raises(UsageError, match="Only a Keras 3 model"):
        mixed_precision("model")
