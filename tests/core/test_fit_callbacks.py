"""Keras's own callbacks beside kacc's: checkpoints, early stopping, resuming."""

import keras
import numpy as np
import pytest

from kacc.callbacks import QuantizationAwareTraining
from kacc.quantization import scheme_of, unseen_ranges
from kacc.quantization.transform import quantize_of
from tests.core import models

X = models.vectors(16)
Y = np.ones((16, 3), "float32")


def compiled(learning_rate=0.05):
    keras.utils.set_random_seed(4)
    model = models.small()
    model.compile(keras.optimizers.Adam(learning_rate), "mse", jit_compile=False)
    return model


def fit(model, callbacks, epochs=4):
    return model.fit(
        X,
        Y,
        batch_size=8,
        epochs=epochs,
        shuffle=False,
        validation_data=(X, Y),
        callbacks=callbacks,
        verbose=0,
    )


def numbers(model):
    return [v.numpy() for v in [*model.variables, *model.optimizer.variables]]


def assert_equal(got, want):
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def assert_quantized(model):
    assert scheme_of(model) == "int8"
    assert unseen_ranges(model) == []


class Record(keras.callbacks.Callback):
    """Keeps all the model's numbers at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append([v.numpy() for v in self.model.variables])


@pytest.mark.parametrize("first", ["kacc", "keras"])
def test_model_checkpoints_hold_the_model_of_their_epoch(first, tmp_path):
    model, record = compiled(), Record()
    callbacks = [
        QuantizationAwareTraining(start_epoch=1),
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras"),
        keras.callbacks.ModelCheckpoint(
            tmp_path / "{epoch}.weights.h5", save_weights_only=True
        ),
        record,
    ]
    fit(model, callbacks if first == "kacc" else callbacks[::-1], epochs=3)
    for epoch in range(3):
        loaded = keras.models.load_model(tmp_path / f"{epoch + 1}.keras")
        assert scheme_of(loaded) == "int8"
        assert_equal([v.numpy() for v in loaded.variables], record.epochs[epoch])
        # The first epoch computed in float, and so does its checkpoint.
        assert quantize_of(loaded.layers[0]).enabled == (epoch >= 1)
    loaded.load_weights(tmp_path / "2.weights.h5")
    assert_equal([v.numpy() for v in loaded.variables], record.epochs[1])


@pytest.mark.parametrize("first", ["kacc", "keras"])
def test_early_stopping_restores_weights_and_ranges(first):
    model, record = compiled(learning_rate=1.0), Record()  # it gets worse at once
    stop = keras.callbacks.EarlyStopping(
        "val_loss", mode="min", patience=1, restore_best_weights=True
    )
    callbacks = [QuantizationAwareTraining(), stop, record]
    history = fit(model, callbacks if first == "kacc" else callbacks[::-1], epochs=6)
    losses = history.history["val_loss"]
    best = int(np.argmin(losses))
    assert best < len(losses) - 1, "the last epoch must not be the best one"
    assert_quantized(model)
    assert_equal([v.numpy() for v in model.variables], record.epochs[best])


class KilledError(Exception):
    pass


class Kill(keras.callbacks.Callback):
    """Ends the fit as a crash does: `on_train_end` is never called."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KilledError


@pytest.mark.parametrize(("first", "killed_at"), [("kacc", 1), ("keras", 3)])
def test_a_killed_fit_resumes_where_it_was(first, killed_at, tmp_path, whole_fit):
    """With quantization from epoch 1 on and ranges frozen from epoch 3 on."""

    def callbacks(*more):
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        qat = QuantizationAwareTraining(start_epoch=1, freeze_epoch=3)
        return [*([qat, backup] if first == "kacc" else [backup, qat]), *more]

    with pytest.raises(KilledError):
        fit(compiled(), callbacks(Kill(killed_at)))
    keras.utils.set_random_seed(77)
    model = models.small()  # a new process starts from other numbers
    model.compile(keras.optimizers.Adam(0.05), "mse", jit_compile=False)
    history = fit(model, callbacks())
    assert len(history.epoch) == 4 - killed_at
    assert_quantized(model)
    assert_equal(numbers(model), whole_fit)


@pytest.fixture(scope="module")
def whole_fit():
    model = compiled()
    fit(model, [QuantizationAwareTraining(start_epoch=1, freeze_epoch=3)])
    return numbers(model)
