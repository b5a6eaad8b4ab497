"""Making a whole model faster to train, and taking it back."""

from __future__ import annotations

from typing import Any

import keras

from kacc.acceleration.changes import check_model, notes, take
from kacc.acceleration.execution import undo_execution
from kacc.acceleration.fusion import fuse_batch_normalization, undo_fusion
from kacc.acceleration.learning import undo_averaging
from kacc.acceleration.memory import undo_accumulation, undo_rematerialization
from kacc.acceleration.precision import mixed_precision
from kacc.core import attach


def accelerate(
    model: keras.Model, data: Any = None, *, batch_size: int = 32, verbose: bool = True
) -> keras.Model:
    """Makes a model faster to train, in place.

    Without data it does what is right on any machine: it fuses the batch
    normalizations (`fuse_batch_normalization`), and what is computed stays the same.
    With data it measures on this machine what else is faster (`plan`): mixed
    precision, XLA, several steps in a call; and switches that on. `restore` is the way
    back. The model is saved as plain Keras either way.

    Args:
        model: any Keras 3 model on the TensorFlow backend; with data, built and
            compiled.
        data: what `fit` takes: a Dataset or PyDataset of batches, or arrays (x, y).
        batch_size: of arrays.
        verbose: whether the plan is shown as it is measured.

    Returns:
        The same model.

    Raises:
        UsageError: for anything but such a model and data.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.layers.BatchNormalization()])
        >>> accelerate(model) is model
        True
    """
    check_model(model, compiled=data is not None)
    if data is None:
        fuse_batch_normalization(model)
        return model
    from kacc.acceleration.planning import plan

    return plan(model, data, batch_size=batch_size, verbose=verbose).apply(model)


def restore(model: keras.Model) -> keras.Model:
    """Undoes all that acceleration changed in a model, in place.

    Weights and what the optimizer knows stay; a schedule stays too. A model that was
    saved and loaded is plain Keras already, but for the dtype policies:
    `mixed_precision(model, "float32")` takes those back.

    Args:
        model: accelerated or not.

    Returns:
        The same model.

    Raises:
        UsageError: for anything but a Keras 3 model.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.layers.BatchNormalization()])
        >>> type(restore(accelerate(model)).layers[0]).__module__.split(".")[0]
        'keras'
    """
    check_model(model)
    if not notes(model):
        return model
    undo_execution(model)
    undo_rematerialization(model)
    undo_accumulation(model)
    undo_averaging(model)
    if any(what.startswith("policy ") for what in notes(model)):
        mixed_precision(model, "float32")
    undo_fusion(model)
    take(model, "")
    attach.refresh_functions(model)
    return model
