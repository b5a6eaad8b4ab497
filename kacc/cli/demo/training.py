"""The trainings of the demo: plain, and with quantization by callback."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np

import kacc
from kacc.cli.images import Dataset, scale
from kacc.report.progress import Stages, TrainingProgress

BATCH = 32
SEED = 0
VALIDATION_SHARE = 0.25


@dataclass(frozen=True)
class Split:
    """Images and labels to train on and to validate with; pixels are floats."""

    x: np.ndarray
    y: np.ndarray
    x_validation: np.ndarray
    y_validation: np.ndarray

    @property
    def steps(self) -> int:
        """Training steps of an epoch."""
        return -(-len(self.x) // BATCH)


def split(dataset: Dataset, pixels: str) -> Split:
    """Set a quarter of each class apart for validation, at random and repeatably.

    Args:
        dataset: at least two images of each class.
        pixels: the range of the model's pixels, such as "0..255".

    Returns:
        The two parts, shuffled.
    """
    random = np.random.default_rng(SEED)
    train, validation = [], []
    for label in range(len(dataset.classes)):
        members = random.permutation(np.flatnonzero(dataset.y == label))
        count = max(1, round(len(members) * VALIDATION_SHARE))
        validation.append(members[:count])
        train.append(members[count:])
    chosen = random.permutation(np.concatenate(train))
    held = random.permutation(np.concatenate(validation))
    x = scale(dataset.x, pixels)
    return Split(x[chosen], dataset.y[chosen], x[held], dataset.y[held])


def train(model: keras.Model, data: Split, epochs: int, stages: Stages) -> None:
    """Train as ever."""
    _fit(model, data, epochs, [TrainingProgress(stages, "training in float")])


def train_quantized(
    model: keras.Model, data: Split, epochs: int, start: int, stages: Stages
) -> None:
    """Train the same way with one callback more.

    Args:
        model: a compiled model.
        data: what to train on.
        epochs: the number of epochs in all.
        start: the first epoch with quantization.
        stages: the progress bar.
    """
    quantization = kacc.callbacks.QuantizationAwareTraining("int8", start_epoch=start)
    progress = TrainingProgress(stages, "training for int8")
    _fit(model, data, epochs, [quantization, progress])


def _fit(
    model: keras.Model,
    data: Split,
    epochs: int,
    callbacks: list[keras.callbacks.Callback],
) -> None:
    # The same seed for both trainings: they see the same batches in the same order.
    keras.utils.set_random_seed(SEED)
    model.fit(
        data.x,
        data.y,
        batch_size=BATCH,
        epochs=epochs,
        verbose=0,
        callbacks=callbacks,
    )
