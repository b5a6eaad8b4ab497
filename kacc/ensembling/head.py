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
_SURE = 8.0


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
    batches: list[Any] = [data]
    if isinstance(data, tf.data.Dataset):
        batches = list(data)
    if not all(isinstance(b, tuple | list) and len(b) in (2, 3) for b in batches):
        raise UsageError(
            "`data` must be (x, y) arrays, or a tf.data.Dataset of batches of (x, y)",
            received=type(data).__name__,
        )
    if not batches:
        raise UsageError("`data` must hold samples", received="none")
    answers = [
        np.concatenate([np.asarray(m.predict(x, verbose=0)) for x, *_ in batches])
        for m in models
    ]
    labels = np.concatenate([np.asarray(y) for _, y, *_ in batches])
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
        numbers = labels.reshape(shape).astype(int)
        if np.any(numbers != labels.reshape(shape)) or not (
            numbers.min() >= 0 and numbers.max() < classes
        ):
            raise UsageError(
                f"The labels of {classes} classes must be whole numbers from 0 to "
                f"{classes - 1}, or one-hot",
                received=f"labels from {labels.min()} to {labels.max()}",
            )
        return numbers
    ones = labels.shape == answers.shape and np.all((labels == 0) | (labels == 1))
    if classes > 1 and ones and np.all(labels.sum(-1) == 1):
        return labels.argmax(-1)
    if labels.size != answers.size:
        raise UsageError(
            f"`data` must have labels for outputs of the shape {answers.shape}",
            received=f"labels of the shape {labels.shape}",
        )
    return None


def are_binary(answers: Sequence[np.ndarray], labels: np.ndarray) -> bool:
    """Whether answers are probabilities of labels that are 0 or 1.

    Example:
        >>> import numpy as np
        >>> are_binary([np.array([[0.2], [0.9]])], np.array([0, 1]))
        True
    """
    likely = all(np.all((p >= 0) & (p <= 1)) for p in answers)
    return likely and bool(np.all((labels == 0) | (labels == 1)))


def as_probabilities(answers: np.ndarray) -> np.ndarray:
    """Answers of a classifier as probabilities: logits after a softmax.

    Example:
        >>> import numpy as np
        >>> as_probabilities(np.array([[0.0, 0.0]])).tolist()
        [[0.5, 0.5]]
    """
    if _are_probabilities(answers):
        return answers
    powers = np.exp(answers - answers.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def _are_probabilities(answers: np.ndarray) -> bool:
    return bool(np.all(answers >= 0) and np.allclose(answers.sum(-1), 1, atol=0.02))


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
    classes = answers[0].shape[-1]
    activation, loss, scale, offset = None, "mse", 1.0, 0.0
    numbers = class_numbers(answers[0], labels)
    if numbers is not None:
        activation, loss = "softmax", "sparse_categorical_crossentropy"
        labels = numbers
        # Of probabilities it needs differences of several units to be as sure.
        scale = _SURE if all(map(_are_probabilities, answers)) else 1.0
    else:
        labels = labels.reshape(answers[0].shape)
        if are_binary(answers, labels):
            activation, loss = "sigmoid", "binary_crossentropy"
            scale, offset = _SURE, -_SURE / 2
    head = layers.Dense(classes, activation, name="stacked")
    joined = keras.Input((*answers[0].shape[1:-1], len(models) * classes))
    trainer = keras.Model(joined, head(joined))
    start = np.tile(np.eye(classes), (len(models), 1)) * scale / len(models)
    head.set_weights([start.astype("float32"), np.full(classes, offset, "float32")])
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
