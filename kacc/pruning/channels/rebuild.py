"""Building the smaller model: the same layers, with fewer channels."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from kacc.core import rebuild
from kacc.core.graph import Call, Tensor
from kacc.core.remake import remade
from kacc.pruning.channels.follow import Cut, find_row
from kacc.pruning.channels.graph import ROWS, DependencyGraph


class Rebuild(rebuild.Rebuild, Cut):
    """A model without some of its channels.

    Args:
        dependencies: of the model.
        remaining: for each class whether it remains.
    """

    def __init__(self, dependencies: DependencyGraph, remaining: np.ndarray) -> None:
        super().__init__(dependencies.model, dependencies.graph)
        self.dependencies = dependencies
        self.remaining = remaining
        # id of a variable -> {axis from the end: whether each position remains}
        self.masks: dict[int, dict[int, np.ndarray]] = {}
        for axis in dependencies.axes:
            places = self.masks.setdefault(id(axis.variable), {})
            places[axis.axis] = remaining[axis.channels]

    def kept(self, tensor: Tensor) -> np.ndarray:
        """Of a tensor's channels before cutting, whether each remains."""
        return self.remaining[self.dependencies.tensors[tensor]]

    def made(self, call: Call) -> Any:
        """The layer or operator of fewer channels."""
        old = call.operation
        config = old.get_config()
        row = find_row(old, ROWS)
        if row is not None and row.resize is not None and self.is_changed(call):
            counts = [
                [int(self.kept(x).sum()) for x in side]
                for side in (call.inputs, call.outputs)
            ]
            config |= row.resize(config, self._shapes(old), *counts)
        return remade(old, config, call.path)

    def is_changed(self, call: Call) -> bool:
        """Whether a call takes or makes fewer channels."""
        return not all(self.kept(x).all() for x in (*call.inputs, *call.outputs))

    def arguments(self, call: Call, values: list[Any]) -> tuple[Any, Any]:
        """The arguments of a call, adapted, with values in the place of its tensors."""
        row = find_row(call.operation, ROWS)
        if row is not None and row.arguments is not None and self.is_changed(call):
            args, kwargs = row.arguments(call, self)
            call = dataclasses.replace(call, args=args, kwargs=kwargs)
        return super().arguments(call, values)

    def value(self, variable: Any) -> np.ndarray:
        """A variable without what goes with the channels."""
        return cut(super().value(variable), self.masks.get(id(variable), {}))

    def _shapes(self, layer: Any) -> dict[str, tuple[int, ...]]:
        """New shapes of a layer's variables that go with channels."""
        shapes: dict[str, list[int]] = {}
        for axis in self.dependencies.axes:
            if axis.layer is layer:
                shape = shapes.setdefault(axis.attribute, list(axis.variable.shape))
                shape[axis.axis] = int(self.remaining[axis.channels].sum())
        # A grouped kernel whose groups go as a whole has no axis for its inputs.
        if hasattr(layer, "kernel") and "kernel" not in shapes:
            shapes["kernel"] = list(layer.kernel.shape)
        return {name: tuple(shape) for name, shape in shapes.items()}


def cut(value: np.ndarray, masks: dict[int, np.ndarray]) -> np.ndarray:
    """An array without the positions of its axes that do not remain.

    Example:
        >>> mask = np.array([True, False, True])
        >>> cut(np.arange(6).reshape(2, 3), {-1: mask}).tolist()
        [[0, 2], [3, 5]]
    """
    for axis, mask in masks.items():
        value = np.compress(mask, value, axis=axis)
    return value
