"""Refitting weights to the outputs of another model, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kacc.core.graph import Call, Tensor

RIDGE = 1e-3  # towards the weights as they were, in shares of the mean diagonal


class Values:
    """The tensors of all batches, as long as a call is still to read them."""

    def __init__(
        self, calls: Sequence[Call], inputs: Sequence[Tensor], batches: Sequence[Any]
    ) -> None:
        self._values = {
            tensor: [batch[i] for batch in batches] for i, tensor in enumerate(inputs)
        }
        self._batches = len(batches)
        self._last = {x: call for call in calls for x in call.inputs}

    def of(self, call: Call) -> list[list[Any]]:
        """For each batch the inputs of a call."""
        return [[self._values[x][i] for x in call.inputs] for i in range(self._batches)]

    def advance(self, call: Call, compute: Any) -> None:
        """Computes a call's outputs, and forgets what nobody reads any more."""
        results = [keras.tree.flatten(compute(values)) for values in self.of(call)]
        for i, tensor in enumerate(call.outputs):
            self._values[tensor] = [result[i] for result in results]
        for tensor in set(call.inputs):
            if self._last[tensor] is call:
                del self._values[tensor]


def solved(x: np.ndarray, y: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Least squares, drawn to weights that are near: ridge regression.

    Args:
        x: (samples, inputs).
        y: (samples, outputs).
        near: (inputs, outputs).

    Returns:
        Weights (inputs, outputs).

    Example:
        >>> x, weights = np.eye(2), np.array([[1.0], [2.0]])
        >>> solved(x, x @ weights, weights).tolist()
        [[1.0], [2.0]]
    """
    gram = x.T @ x
    strength = RIDGE * max(gram.trace() / len(gram), 1e-12)
    error = x.T @ (y - x @ near)
    step = np.linalg.solve(gram + strength * np.eye(len(gram)), error)
    return np.asarray(near + step)
