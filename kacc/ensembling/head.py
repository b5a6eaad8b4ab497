"""The head of a stacked ensemble: a dense layer on the answers of all members."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from kacc.core.errors import UsageError
from kacc.core.graph import Graph

_HELD_OUT = 0.2  # the share of the data that tells when to stop
_PATIENCE = 3


def answers_of(
    models: Sequence[keras.Model], data: Any
) -> tuple[list[np.ndarray], np.ndarray]:
    """What each model says to data, and the labels.

    Args:
        models: of one output.
        data: (x, y) arrays, or a tf.data.Dataset of batches of (x, y).

    Raises:
        UsageError: for data in another form.
    """
    if isinstance(data, tf.data.Dataset):
        batches = [(x, y) for x, y, *_ in data]
    elif isinstance(data, tuple | list) and len(data) == 2:
        batches = [(data[0], data[1])]
    else:
        raise UsageError(
            "`data` must be (x, y) arrays, or a tf.data.Dataset of batches of (x, y)",
            received=type(data).__name__,
        )
    answers = [
        np.concatenate([np.asarray(m.predict(x, verbose=0)) for x, _ in batches])
        for m in models
    ]
    labels = np.concatenate([np.asarray(y) for _, y in batches])
    if len(labels) != len(answers[0]) or not len(labels):
        raise UsageError(
            "`data` must have a label for each example",
            received=f"{len(answers[0])} examples, {len(labels)} labels",
        )
    return answers, labels


def class_numbers(answers: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
    """Labels as class numbers, or None if they are values and no classes.

    Args:
        answers: of one model, (examples, ..., classes).
        labels: class numbers, with an axis of 1 at the end or without, or one-hot.

    Example:
        >>> import numpy as np
        >>> class_numbers(np.ones((2, 3)), np.array([[0, 1, 0], [1, 0, 0]])).tolist()
        [1, 0]
    """
    shape, classes = answers.shape[:-1], answers.shape[-1]
    if classes > 1 and labels.shape in (shape, (*shape, 1)):
        return labels.reshape(shape).astype(int)
    ones = labels.shape == answers.shape and np.all((labels == 0) | (labels == 1))
    if classes > 1 and ones and np.all(labels.sum(-1) == 1):
        return labels.argmax(-1)
    return None


def train_head(
    models: Sequence[keras.Model], graph: Graph, data: Any, epochs: int
) -> layers.Layer:
    """A dense layer that makes the outputs of one model of those of all.

    It starts as their mean (for classes, of log-likelihoods near it) and is kept as it
    was at its best on a fifth of the data.

    Args:
        models: the members.
        graph: of the first one.
        data: as for `answers_of`.
        epochs: at most.
    """
    answers, labels = answers_of(models, data)
    numbers = class_numbers(answers[0], labels)
    if numbers is not None:
        labels = numbers
    classes = answers[0].shape[-1]
    head = layers.Dense(classes, None if numbers is None else "softmax", name="stacked")
    joined = keras.Input((*answers[0].shape[1:-1], len(models) * classes))
    trainer = keras.Model(joined, head(joined))
    # Of probabilities the softmax needs differences of several units to be as sure.
    scale = 1.0 if numbers is None else 8.0
    start = np.tile(np.eye(classes), (len(models), 1)) * scale / len(models)
    head.set_weights([start.astype("float32"), np.zeros(classes, "float32")])
    loss = "mse" if numbers is None else "sparse_categorical_crossentropy"
    trainer.compile(keras.optimizers.Adam(1e-2), loss)
    x = np.concatenate(answers, axis=-1)
    order = np.random.default_rng(0).permutation(len(x))
    held = max(1, int(len(x) * _HELD_OUT))
    stop = keras.callbacks.EarlyStopping(
        patience=_PATIENCE, restore_best_weights=True, start_from_epoch=0
    )
    trainer.fit(
        x[order[held:]],
        labels[order[held:]],
        validation_data=(x[order[:held]], labels[order[:held]]),
        batch_size=128,
        epochs=epochs,
        verbose=0,
        callbacks=[stop],
    )
    return head
