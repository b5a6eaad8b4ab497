"""Choosing channels by how well the layers behind can do without them.

Backward elimination with the inverse Gram matrix: what the loss of a channel costs a
layer whose weights are refitted at once (Hassibi and Stork 1993, "Second order
derivatives for network pruning"), where Luo et al. 2017 (ThiNet, arXiv:1707.06342) and
He et al. 2017 (arXiv:1707.06168) search without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kacc.core.channels.follow import Axis
from kacc.core.channels.graph import DependencyGraph, Group
from kacc.core.graph import Call, fill
from kacc.core.samples import flat_inputs, run, sampled
from kacc.pruning.channels.features import columns, is_reader, matrix, rows
from kacc.pruning.channels.importance import Scores, magnitude, normalized

RIDGE = 1e-3  # added to the Gram matrix, in shares of its mean diagonal
ROUNDS = 64  # in which a group's channels are eliminated


def reconstruction(dependencies: DependencyGraph, batches: Iterable[Any]) -> Scores:
    """The error of the layers behind, in shares of their outputs' energy.

    Args:
        dependencies: of the model.
        batches: of inputs, or of (inputs, labels).

    Returns:
        Scores of each group. Those without a layer behind whose matrix has a size that
        can be inverted are scored by magnitude, in shares of the group.
    """
    readers = [axis for axis in dependencies.axes if is_reader(axis)]
    grams = gram_matrices(dependencies, readers, list(batches))
    by_size = normalized(magnitude(dependencies))
    scores = []
    for group, size in zip(dependencies.groups, by_size, strict=True):
        behind = [
            axis for axis in readers if np.isin(axis.channels, group.classes).any()
        ]
        if behind:
            problems = [_Problem.of(axis, grams[id(axis.layer)]) for axis in behind]
            scores.append(_eliminated(group, problems))
        else:
            scores.append(size**2 / len(size))
    return scores


def gram_matrices(
    dependencies: DependencyGraph, readers: Sequence[Axis], batches: Sequence[Any]
) -> dict[int, np.ndarray]:
    """Mean products of each layer's columns: id of the layer -> matrix.

    Where a constant costs nothing they are covariances.
    """
    wanted = {id(axis.layer) for axis in readers}
    random = np.random.default_rng(0)
    consumers = dependencies.graph.consumers()
    sums: dict[int, np.ndarray] = {}
    means: dict[int, np.ndarray] = {}
    counts: dict[int, int] = {}

    def apply(call: Call, values: list[Any]) -> Any:
        key = id(call.operation)
        if key in wanted:
            sample = sampled(rows(call.operation, values[0]), random, len(batches))
            sums[key] = sums.get(key, 0) + sample.T @ sample
            counts[key] = counts.get(key, 0) + len(sample)
            if taker_of_constants(call, consumers) is not None:
                means[key] = means.get(key, 0) + sample.sum(axis=0)
        return run(call.operation, *fill(call, values))

    for batch in batches:
        dependencies.graph.run(flat_inputs(dependencies.model, batch), apply)
    grams = {key: total / counts[key] for key, total in sums.items()}
    for key, total in means.items():
        mean = total / counts[key]
        grams[key] = grams[key] - np.outer(mean, mean)
    return grams


def taker_of_constants(call: Call, consumers: Any) -> Any:
    """The layer that can add a constant to the product of a call, or None.

    The layer itself by its bias, or the batch normalization behind, by its moving mean,
    if it is the only one that reads the outputs.
    """
    layer = call.operation
    if layer.use_bias:
        return layer
    readers = consumers.get(call.outputs[0], [])
    linear = layer.activation in (None, keras.activations.linear)
    if not linear or len(readers) != 1:
        return None
    norm = readers[0][0].operation
    calls = [call for group in consumers.values() for call, _ in group]
    once = sum(call.operation is norm for call in calls) == 1
    is_norm = isinstance(norm, keras.layers.BatchNormalization)
    return norm if is_norm and once else None


@dataclass
class _Problem:
    """A layer that reads a group's channels: its weights, and its inverse Gram matrix.

    Args:
        classes: of each column.
        weights: the kernel as a matrix.
        inverse: of the Gram matrix.
        energy: of its outputs.
    """

    classes: np.ndarray
    weights: np.ndarray
    inverse: np.ndarray
    energy: float

    @classmethod
    def of(cls, axis: Axis, gram: np.ndarray) -> _Problem:
        weights = matrix(axis.layer)
        energy = float(np.einsum("ij,ik,kj->", weights, gram, weights, optimize=True))
        damped = gram + RIDGE * max(gram.trace() / len(gram), 1e-12) * np.eye(len(gram))
        return cls(columns(axis), weights, np.linalg.inv(damped), energy or 1.0)

    def errors(self, classes: np.ndarray) -> np.ndarray:
        """What the loss of each class costs, the rest refitted."""
        places = self._places(classes)
        blocks = self.inverse[places[:, :, None], places[:, None, :]]
        lost = self.weights[places]
        solved = np.linalg.solve(blocks, lost)
        return np.einsum("nij,nij->n", lost, solved) / self.energy

    def remove(self, classes: np.ndarray) -> None:
        """Takes classes out and refits the rest."""
        places = self._places(classes).ravel()
        rows_of = np.linalg.solve(
            self.inverse[np.ix_(places, places)], self.inverse[places]
        )
        self.weights = self.weights - rows_of.T @ self.weights[places]
        self.inverse = self.inverse - self.inverse[:, places] @ rows_of

    def _places(self, classes: np.ndarray) -> np.ndarray:
        """For each class its columns; all classes of a group have equally many."""
        order = np.argsort(self.classes, kind="stable")
        first = np.searchsorted(self.classes[order], classes)
        last = np.searchsorted(self.classes[order], classes, side="right")
        return np.stack([order[a:b] for a, b in zip(first, last, strict=True)])


def _eliminated(group: Group, problems: Sequence[_Problem]) -> np.ndarray:
    """Scores: the error when a channel went, never below that of an earlier one."""
    remaining, scores = np.arange(len(group.classes)), np.zeros(len(group.classes))
    at_once, highest = -(-len(group.classes) // ROUNDS), 0.0
    while len(remaining):
        errors = sum(problem.errors(group.classes[remaining]) for problem in problems)
        order = np.argsort(errors, kind="stable")[:at_once]
        for place in order:
            highest = max(highest, float(np.asarray(errors)[place]))
            scores[remaining[place]] = highest
        gone = remaining[order]
        remaining = np.delete(remaining, order)
        if len(remaining):
            for problem in problems:
                problem.remove(group.classes[gone])
    return scores
