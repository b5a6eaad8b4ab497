"""Keras's monitors, when quantization starts in the middle of what they watch.

A float epoch and a quantized one are not alike: the best of both kinds is most often a
float one, whose weights were never trained for an integer file.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable

from keras.callbacks import (
    Callback,
    CallbackList,
    EarlyStopping,
    ModelCheckpoint,
    ReduceLROnPlateau,
)


def siblings(callback: Callback) -> list[Callback]:
    """The callbacks of a fit, `callback` among them, while it is given its model.

    Keras tells a callback nothing of the others, so their list is looked for among the
    callers. tests/core/test_keras_private.py fails if it is not there any more.

    Args:
        callback: whose `set_model` is running.

    Returns:
        All of them in their order; none if `set_model` was called by hand.
    """
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, CallbackList) and callback in caller.callbacks:
            return list(caller.callbacks)
        frame = frame.f_back
    return []


def compares_epochs(callback: Callback, start_epoch: int) -> bool:
    """Whether a callback holds epochs from `start_epoch` on against earlier ones."""
    if isinstance(callback, ModelCheckpoint):
        return callback.save_best_only
    if isinstance(callback, EarlyStopping):
        return callback.start_from_epoch < start_epoch
    return isinstance(callback, ReduceLROnPlateau)


def warn_of_span(callbacks: Iterable[Callback], start_epoch: int) -> None:
    """Warns of the monitors that would compare float epochs with quantized ones.

    Args:
        callbacks: those of the fit.
        start_epoch: the first quantized epoch, with float ones before it.
    """
    spanning = [c for c in callbacks if compares_epochs(c, start_epoch)]
    if not spanning:
        return
    names = ", ".join(f"{type(c).__name__} of {c.monitor!r}" for c in spanning)
    ways = ["train the float epochs in a `fit` of their own, then with start_epoch=0"]
    if any(isinstance(c, ModelCheckpoint) for c in spanning):
        ways[0] += (
            " and a new ModelCheckpoint (its initial_value_threshold is what the "
            "quantized epochs have to reach)"
        )
    if any(isinstance(c, EarlyStopping) for c in spanning):
        ways.append(f"pass EarlyStopping(start_from_epoch={start_epoch})")
    warnings.warn(
        "A monitor should compare epochs of one kind, but quantization starts in the "
        f"middle, at start_epoch={start_epoch}. Received: {names}. The best epoch may "
        f"be a float one; {', or '.join(ways)}.",
        stacklevel=2,
    )
