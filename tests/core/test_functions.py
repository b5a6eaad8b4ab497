"""The compiled functions after something changed: stale ones run the old graph."""

import keras
import numpy as np
import pytest

import kacc
from kacc.callbacks import QuantizationAwareTraining
from kacc.quantization import calibrate
from tests.core import models


@pytest.fixture
def model():
    keras.utils.set_random_seed(3)
    model = models.small()
    model.compile("sgd", "mse", jit_compile=False)
    return model


X = models.vectors(16)
Y = np.ones((16, 3), "float32")


def mse(values):
    return float(np.mean((values - Y) ** 2))


def test_predict_and_evaluate_run_the_quantized_graph_at_once(model):
    plain = model.predict(X, verbose=0)
    loss = model.evaluate(X, Y, verbose=0)
    kacc.quantize(model)
    calibrate(model, [X])
    want = models.outputs(model, X)[0]
    assert not np.allclose(plain, want, atol=1e-6)
    np.testing.assert_array_equal(model.predict(X, verbose=0), want)
    np.testing.assert_allclose(model.evaluate(X, Y, verbose=0), mse(want), rtol=1e-5)
    assert not np.isclose(mse(want), loss, rtol=1e-5)


def test_train_step_runs_the_quantized_graph_at_once(model):
    model.fit(X, Y, verbose=0)  # its train function is traced
    kacc.quantize(model)
    model.fit(X, Y, verbose=0)
    (ends,) = (v.numpy() for v in model.variables if v.name == "input_0_range")
    np.testing.assert_allclose(ends, [X.min(), X.max()], rtol=1e-6)


def test_predict_runs_the_plain_graph_after_strip(model):
    kacc.quantize(model)
    calibrate(model, [X])
    quantized = model.predict(X, verbose=0)
    kacc.strip(model)
    want = models.outputs(model, X)[0]
    assert not np.allclose(quantized, want, atol=1e-6)
    np.testing.assert_allclose(model.predict(X, verbose=0), want, rtol=1e-5)


def test_new_ranges_reach_predict_without_a_new_graph(model):
    """The simulation reads ranges and weights when it runs, not when it is traced."""
    kacc.quantize(model)
    calibrate(model, [X])
    first = model.predict(X, verbose=0)
    for variable in model.variables:
        if variable.name == "output_range":
            variable.assign(2 * variable.numpy())
    second = model.predict(X, verbose=0)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(second, models.outputs(model, X)[0])
    model.layers[0].kernel.assign(0 * model.layers[0].kernel)
    third = model.predict(X, verbose=0)
    assert len(np.unique(third, axis=0)) == 1


class Watch(keras.callbacks.Callback):
    """Notes each epoch's validation loss beside the one that is computed anew."""

    def __init__(self):
        super().__init__()
        self.logged, self.fresh, self.ranges = [], [], []

    def on_epoch_end(self, epoch, logs=None):
        self.logged.append(logs["val_loss"])
        self.fresh.append(mse(models.outputs(self.model, X)[0]))
        self.ranges.append(
            [v.numpy() for v in self.model.variables if v.name.endswith("_range")]
        )


@pytest.mark.parametrize("eagerly", [False, True])
def test_validation_inside_a_running_fit_follows_the_phases(model, eagerly):
    """Float, then quantized from epoch 1, then with frozen ranges from epoch 2."""
    model.compile("sgd", "mse", jit_compile=False, run_eagerly=eagerly)
    plain, watch = models.small(), Watch()
    plain.set_weights(model.get_weights())
    qat = QuantizationAwareTraining(start_epoch=1, freeze_epoch=2)
    model.fit(
        X,
        Y,
        batch_size=8,
        epochs=4,
        shuffle=False,
        validation_data=(X, Y),
        callbacks=[qat, watch],
        verbose=0,
    )
    np.testing.assert_allclose(watch.logged, watch.fresh, rtol=1e-5)

    plain.compile("sgd", "mse", jit_compile=False)
    plain.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
    float_loss = mse(models.outputs(plain, X)[0])
    np.testing.assert_allclose(watch.logged[0], float_loss, rtol=1e-5)

    first, second, third, fourth = watch.ranges
    assert all((ends == 0).all() for ends in first)
    assert all((ends != 0).any() for ends in second)
    assert all(np.array_equal(a, b) for a, b in zip(second, third, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(second, fourth, strict=True))


def test_phases_of_a_later_fit_start_from_its_own_epochs(model):
    qat = QuantizationAwareTraining(start_epoch=2)
    model.fit(X, Y, epochs=1, callbacks=[qat], verbose=0)
    np.testing.assert_allclose(
        model.predict(X, verbose=0), _plain_outputs(model), rtol=1e-5
    )
    model.fit(X, Y, initial_epoch=2, epochs=3, callbacks=[qat], verbose=0)
    assert not np.allclose(
        model.predict(X, verbose=0), _plain_outputs(model), atol=1e-6
    )


def _plain_outputs(model):
    plain = models.small()
    for layer, own in zip(plain.layers, model.layers, strict=True):
        layer.set_weights([own.kernel.numpy(), own.bias.numpy()])
    return models.outputs(plain, X)[0]
