"""How much each channel matters: one score for each class of channels.

A score is comparable between groups only after `normalized`, except for those of
`taylor` and of the reconstruction, which are shares of a loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kacc.core.channels.follow import Axis
from kacc.core.channels.graph import DependencyGraph
from kacc.core.errors import UsageError

Scores = list[np.ndarray]  # for each group a score for each of its channels


def magnitude(dependencies: DependencyGraph, order: int = 2) -> Scores:
    """The norm of all weights that go with a channel, in kernels.

    The norm of a filter (Li et al. 2017, arXiv:1608.08710), over all layers of the
    group and the inputs of the layers behind it as well (Fang et al. 2023,
    arXiv:2301.12900). Every axis counts the same: its norms are divided by their mean.

    Args:
        dependencies: of the model.
        order: 1 or 2, for the L1 or L2 norm.

    Returns:
        Scores of each group.
    """
    totals = np.zeros(len(dependencies.everything()))
    for axis in dependencies.axes:
        if len(axis.variable.shape) > 1:
            norms = _per_position(axis, lambda values: np.abs(values) ** order)
            norms = norms ** (1 / order)
            share = norms / (norms.mean() or 1.0)
            np.add.at(totals, axis.channels, share / _copies(axis))
    return [totals[group.classes] for group in dependencies.groups]


def batch_norm_scale(dependencies: DependencyGraph) -> Scores:
    """The size of the factors of batch normalizations (Liu et al. 2017, 1708.06519).

    Groups without one are scored by magnitude.

    Args:
        dependencies: of the model.

    Returns:
        Scores of each group.
    """
    totals = np.zeros(len(dependencies.everything()))
    counts = np.zeros_like(totals)
    for axis in dependencies.axes:
        is_norm = isinstance(axis.layer, keras.layers.BatchNormalization)
        if is_norm and axis.attribute == "gamma":
            np.add.at(totals, axis.channels, np.abs(_numbers(axis.variable)))
            np.add.at(counts, axis.channels, 1)
    others = magnitude(dependencies)
    return [
        totals[group.classes] / counts[group.classes]
        if counts[group.classes].all()
        else other
        for group, other in zip(dependencies.groups, others, strict=True)
    ]


def taylor(dependencies: DependencyGraph, batches: Iterable[Any]) -> Scores:
    """What the loss would change by, to first order (Molchanov et al. 2019).

    The square of the sum of weight times gradient over the weights that make a channel,
    added up over batches (arXiv:1906.10771, equation 8).

    Args:
        dependencies: of a compiled model, whose loss is taken.
        batches: of (inputs, labels) or (inputs, labels, sample weights).

    Returns:
        Scores of each group.

    Raises:
        UsageError: if the model is not compiled, or the batches have no labels.
    """
    model = dependencies.model
    if not model.compiled:
        raise UsageError(
            "importance='taylor' needs the loss of a compiled model",
            received=f"{model.name!r}, which is not compiled",
            fix="Call model.compile(loss=...) first, or choose another importance",
        )
    axes = [axis for axis in dependencies.axes if axis.produces]
    totals = np.zeros(len(dependencies.everything()))
    for batch in batches:
        if not isinstance(batch, (tuple, list)) or len(batch) < 2:
            raise UsageError(
                "importance='taylor' needs labels",
                received="data without labels",
                fix="Pass data=(x, y) or a dataset of (x, y)",
            )
        change = np.zeros_like(totals)
        values = [axis.variable.value for axis in axes]
        gradients = _gradients(model, values, batch)
        for axis, value, gradient in zip(axes, values, gradients, strict=True):
            if gradient is not None:
                products = np.asarray(tf.convert_to_tensor(value) * gradient)
                np.add.at(change, axis.channels, _summed(axis, products))
        totals += change**2
    return [totals[group.classes] for group in dependencies.groups]


def _gradients(model: keras.Model, values: list[Any], batch: Any) -> list[Any]:
    x, y, *rest = keras.tree.map_structure(keras.ops.convert_to_tensor, tuple(batch))
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(values)
        outputs = model(x, training=False)
        loss = model.compute_loss(x, y, outputs, *rest, training=False)
    return list(tape.gradient(loss, values))


def normalized(scores: Sequence[np.ndarray]) -> Scores:
    """Scores in shares of their group's mean, so that groups can be compared."""
    return [score / (score.mean() or 1.0) for score in scores]


def _per_position(axis: Axis, function: Callable[[np.ndarray], np.ndarray]) -> Any:
    return _summed(axis, function(_numbers(axis.variable)))


def _summed(axis: Axis, values: np.ndarray) -> np.ndarray:
    """Sums over all axes but one."""
    others = tuple(i for i in range(values.ndim) if i != axis.axis + values.ndim)
    return np.asarray(values.sum(axis=others))


def _copies(axis: Axis) -> np.ndarray:
    """How often the class of each position stands on the axis (flattened images)."""
    _, inverse, counts = np.unique(
        axis.channels, return_inverse=True, return_counts=True
    )
    return counts[inverse]


def _numbers(variable: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable), dtype=np.float64)
