"""Classification accuracy from whatever form labels and outputs have."""

from __future__ import annotations

import numpy as np

from kacc.core.errors import UsageError


def accuracy(outputs: np.ndarray, labels: np.ndarray) -> float | None:
    """Share of samples whose largest output is the labelled class.

    Args:
        outputs: scores of shape (samples, ..., classes), or of shape (samples, 1) for
            two classes, a probability.
        labels: class numbers, or one-hot rows as wide as the outputs.

    Returns:
        The share, or None if the labels are no classes (a regression).

    Raises:
        UsageError: if there are not as many labels as samples.

    Example:
        >>> accuracy(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1]))
        0.5
        >>> accuracy(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([[0, 1], [1, 0]]))
        1.0
    """
    if len(outputs) != len(labels):
        raise UsageError(
            "There must be a label for each sample",
            received=f"{len(outputs)} samples, {len(labels)} labels",
        )
    if outputs.ndim < 2:
        return None
    classes = _classes(outputs, labels)
    if classes is None:
        return None
    binary = outputs.shape[-1] == 1
    found = outputs[..., 0] > 0.5 if binary else outputs.argmax(-1)
    return float((found == classes).mean())


def _classes(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
    """Class numbers from labels, or None if they are none."""
    width = outputs.shape[-1]
    if width > 1 and labels.shape == outputs.shape:
        one_hot = np.isin(labels, (0, 1)).all() and (labels.sum(-1) == 1).all()
        return labels.argmax(-1) if one_hot else None
    if labels.shape == (*outputs.shape[:-1], 1):
        labels = labels[..., 0]
    if labels.shape != outputs.shape[:-1]:
        return None
    if labels.dtype.kind not in "biuf" or (labels != np.rint(labels)).any():
        return None
    if labels.min() < 0 or labels.max() >= max(width, 2):
        return None
    return labels
