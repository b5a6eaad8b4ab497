"""Monitors that see float epochs and quantized ones: a warning, and only then."""

import warnings

import keras
import numpy as np
import pytest

from kacc.callbacks import QuantizationAwareTraining
from tests.quantization.test_callback import fit, small

EarlyStopping = keras.callbacks.EarlyStopping
ReduceLROnPlateau = keras.callbacks.ReduceLROnPlateau


def checkpoint(tmp_path, best=True, **options):
    return keras.callbacks.ModelCheckpoint(
        tmp_path / "m.weights.h5",
        monitor="loss",
        save_best_only=best,
        save_weights_only=True,
        **options,
    )


def warned(*callbacks, **options):
    """What a fit of three epochs warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(small(), *callbacks, **options)
    return [
        str(w.message) for w in caught if "monitor should compare" in str(w.message)
    ]


@pytest.mark.parametrize("qat_first", [True, False])
def test_all_monitors_are_named_in_one_warning(tmp_path, qat_first):
    callbacks = [
        checkpoint(tmp_path),
        EarlyStopping("loss", patience=9, restore_best_weights=True),
        ReduceLROnPlateau("loss"),
    ]
    qat = QuantizationAwareTraining(start_epoch=1)
    ordered = [qat, *callbacks] if qat_first else [*callbacks, qat]
    (message,) = warned(*ordered)
    assert "\n" not in message
    assert (
        "start_epoch=1. Received: ModelCheckpoint of 'loss', EarlyStopping of 'loss', "
        "ReduceLROnPlateau of 'loss'." in message
    )
    assert "start_epoch=0" in message
    assert "initial_value_threshold" in message
    assert "EarlyStopping(start_from_epoch=1)" in message


def test_the_ways_out_are_those_of_the_monitors_there(tmp_path):
    (message,) = warned(QuantizationAwareTraining(start_epoch=2), checkpoint(tmp_path))
    assert "EarlyStopping" not in message
    (message,) = warned(EarlyStopping("loss"), QuantizationAwareTraining(start_epoch=2))
    assert "ModelCheckpoint" not in message
    assert "start_from_epoch=2" in message


@pytest.mark.parametrize("qat_first", [True, False])
@pytest.mark.parametrize(
    "others",
    [
        lambda path: [checkpoint(path, best=False)],
        lambda path: [EarlyStopping("loss", start_from_epoch=1, patience=9)],
        lambda path: [keras.callbacks.TerminateOnNaN(), keras.callbacks.History()],
        lambda path: [],
    ],
)
def test_no_warning_where_nothing_spans(tmp_path, others, qat_first):
    qat = QuantizationAwareTraining(start_epoch=1)
    callbacks = others(tmp_path)
    assert warned(*([qat, *callbacks] if qat_first else [*callbacks, qat])) == []


@pytest.mark.parametrize(
    ("start", "options"),
    [
        (0, {}),  # all epochs are quantized
        (3, {}),  # all are float
        (5, {}),
        (1, {"epochs": 3, "initial_epoch": 1}),  # resumed behind the start
        (2, {"epochs": 2}),
    ],
)
def test_no_warning_where_the_epochs_are_of_one_kind(tmp_path, start, options):
    qat = QuantizationAwareTraining(start_epoch=start)
    assert warned(checkpoint(tmp_path), qat, **options) == []


def test_a_warning_for_each_fit(tmp_path):
    qat = QuantizationAwareTraining(start_epoch=1)
    assert len(warned(qat, checkpoint(tmp_path))) == 1
    assert len(warned(qat, checkpoint(tmp_path))) == 1
    assert warned(qat) == []  # the callbacks of the fit before are forgotten


def test_a_list_of_callbacks_made_by_hand(tmp_path):
    model, qat = small(), QuantizationAwareTraining(start_epoch=1)
    made = keras.callbacks.CallbackList(
        [checkpoint(tmp_path), qat], add_history=True, model=model, epochs=3
    )
    with pytest.warns(UserWarning, match="ModelCheckpoint of 'loss'"):
        model.fit(
            *(np.ones((8, 6), "float32"), np.ones((8, 2), "float32")),
            epochs=3,
            callbacks=made,
            verbose=0,
        )


def test_what_the_warning_is_about(tmp_path):
    """The float epoch is the best, and its weights are what is kept."""

    class Worse(keras.callbacks.Callback):
        """Makes quantized epochs look worse, as they often are."""

        def on_epoch_end(self, epoch, logs=None):
            logs["kind"] = float(epoch >= 1)

    stopping = EarlyStopping("kind", mode="min", patience=9, restore_best_weights=True)
    qat = QuantizationAwareTraining(start_epoch=1)
    assert len(warned(Worse(), qat, stopping)) == 1
    assert stopping.best_epoch == 0
    later = EarlyStopping(
        "kind", mode="min", patience=9, restore_best_weights=True, start_from_epoch=1
    )
    assert warned(Worse(), qat, later) == []
    assert later.best_epoch == 1
