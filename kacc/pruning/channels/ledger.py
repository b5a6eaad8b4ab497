"""What a model would cost if it kept so many channels of each group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kacc.core import cost
from kacc.core.channels.graph import DependencyGraph
from kacc.core.graph import Call


class Ledger:
    """A cost as a sum of products of sizes, which are linear in the channels kept.

    Args:
        dependencies: of the model.
        name: "macs", "params" or "bytes".

    Example:
        >>> import keras
        >>> from kacc.core.channels.graph import dependencies
        >>> dense = keras.layers.Dense
        >>> model = keras.Sequential([keras.Input((4,)), dense(8), dense(2)])
        >>> ledger = Ledger(dependencies(model), "macs")
        >>> ledger.cost(np.array([8])), ledger.cost(np.array([4]))
        (48.0, 24.0)
    """

    def __init__(self, dependencies: DependencyGraph, name: str) -> None:
        self._rows: dict[bytes, int] = {}
        self._sizes: list[np.ndarray] = []
        self._constant = 0.0
        terms: list[tuple[float, list[int]]] = []
        numbers = self._axis_numbers(dependencies)
        for layer, attribute, factor in _factors(dependencies, name):
            if layer is None:
                self._constant += factor
                continue
            shape = getattr(layer, attribute).shape
            rows = []
            for axis, size in zip(range(-len(shape), 0), shape, strict=True):
                row = numbers.get((id(layer), attribute, axis))
                if row is None:
                    factor *= size
                else:
                    rows.append(row)
            terms.append((factor, rows))
        groups = len(dependencies.groups)
        one = self._row(np.zeros(groups), 1.0)
        width = max((len(rows) for _, rows in terms), default=0)
        self._factors = np.array([factor for factor, _ in terms], float)
        self._index = np.array(
            [rows + [one] * (width - len(rows)) for _, rows in terms], int
        ).reshape(len(terms), width)
        matrix = np.array(self._sizes)
        self._linear, self._fixed = matrix[:, :-1], matrix[:, -1]

    def cost(self, kept: np.ndarray) -> float:
        """The cost with so many channels kept of each group."""
        sizes = self._linear @ kept + self._fixed
        return float(self._factors @ sizes[self._index].prod(axis=1) + self._constant)

    def savings(self, kept: np.ndarray) -> np.ndarray:
        """For each group what one channel less would save."""
        whole = self.cost(kept)
        single = np.eye(len(kept))
        return np.array([whole - self.cost(kept - step) for step in single])

    def _axis_numbers(
        self, dependencies: DependencyGraph
    ) -> dict[tuple[int, str, int], int]:
        size = len(dependencies.everything())
        owner = np.full(size, -1)
        for number, group in enumerate(dependencies.groups):
            owner[group.classes] = number
        numbers = {}
        widths = np.array([len(group.classes) for group in dependencies.groups])
        for axis in dependencies.axes:
            groups = owner[axis.channels]
            counts = np.bincount(groups[groups >= 0], minlength=len(widths))
            linear = counts / widths
            row = self._row(linear, float((groups < 0).sum()))
            numbers[id(axis.layer), axis.attribute, axis.axis] = row
        return numbers

    def _row(self, linear: np.ndarray, fixed: float) -> int:
        """The number of a size, the same for axes of the same channels."""
        values = np.append(linear, fixed).astype(float)
        key = values.tobytes()
        if key not in self._rows:
            self._rows[key] = len(self._sizes)
            self._sizes.append(values)
        return self._rows[key]


def _factors(
    dependencies: DependencyGraph, name: str
) -> Sequence[tuple[Any, str, float]]:
    """(layer, weight, how much each entry of it costs); (None, "", the rest)."""
    calls = dependencies.graph.calls
    if name == "macs":
        return [factor for call in calls for factor in _macs(call)]
    names = {id(axis.variable): axis.attribute for axis in dependencies.axes}
    factors: list[tuple[Any, str, float]] = []
    for operation in {id(call.operation): call.operation for call in calls}.values():
        for variable in cost.variables(operation):
            each = cost.itemsize(variable) if name == "bytes" else 1
            if id(variable) in names:
                factors.append((operation, names[id(variable)], each))
            else:
                factors.append((None, "", each * float(np.prod(variable.shape))))
    return factors


def _macs(call: Call) -> list[tuple[Any, str, float]]:
    kernels = cost.kernels_of(call)
    if kernels is None:
        return [(None, "", float(cost.macs_of(call) or 0))]
    return [(call.operation, k.attribute, float(k.times)) for k in kernels]
