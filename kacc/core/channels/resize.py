"""Building a model with other numbers of channels: the same layers, narrower or wider.

Each class of channels stands in the new model as often as its entry of `copies` says:
0 takes it out, 1 keeps it, and 1 + n puts n new channels behind it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from kacc.core import rebuild
from kacc.core.channels.follow import Axis, Cut, find_row
from kacc.core.channels.graph import ROWS, DependencyGraph
from kacc.core.graph import Call, Tensor
from kacc.core.remake import remade


class Resized(rebuild.Rebuild, Cut):
    """A model with fewer or more of its channels.

    Args:
        dependencies: of the model.
        copies: for each class of channels how often it stands in the new model.
    """

    def __init__(self, dependencies: DependencyGraph, copies: np.ndarray) -> None:
        super().__init__(dependencies.model, dependencies.graph)
        self.dependencies = dependencies
        self.copies = np.asarray(copies, np.int64)
        # id of a variable -> its axes that go with channels
        self.axes: dict[int, list[Axis]] = {}
        for axis in dependencies.axes:
            self.axes.setdefault(id(axis.variable), []).append(axis)

    def kept(self, tensor: Tensor) -> np.ndarray:
        """How many channels stand in the place of each of a tensor's."""
        return self.copies[self.dependencies.tensors[tensor]]

    def sources(self, tensor: Tensor) -> np.ndarray:
        """For each of a tensor's new channels the one before that it comes from."""
        return places(self.dependencies.tensors[tensor], self.copies)[0]

    def made(self, call: Call) -> Any:
        """The layer or operator of other numbers of channels."""
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
        """Whether a call takes or makes other numbers of channels."""
        classes = self.dependencies.tensors
        return not all(
            (self.copies[classes[x]] == 1).all() for x in (*call.inputs, *call.outputs)
        )

    def arguments(self, call: Call, values: list[Any]) -> tuple[Any, Any]:
        """The arguments of a call, adapted, with values in the place of its tensors."""
        row = find_row(call.operation, ROWS)
        if row is not None and row.arguments is not None and self.is_changed(call):
            args, kwargs = row.arguments(call, self)
            call = dataclasses.replace(call, args=args, kwargs=kwargs)
        return super().arguments(call, values)

    def value(self, variable: Any) -> np.ndarray:
        """A variable with the entries of other numbers of channels."""
        return self.resized(variable, super().value(variable))

    def resized(self, variable: Any, value: np.ndarray) -> np.ndarray:
        """An array of a variable's shape, a slot of an optimizer for one, resized."""
        fresh = {}
        for axis in self.axes.get(id(variable), ()):
            source, is_new = places(axis.channels, self.copies)
            value = np.take(value, source, axis=axis.axis)
            if is_new.any():
                fresh[axis] = is_new
        return self.filled(value, fresh) if fresh else value

    def filled(self, value: np.ndarray, fresh: Mapping[Axis, np.ndarray]) -> np.ndarray:
        """A variable whose new entries are what the new channels need.

        Args:
            value: with the values of the channels before in the new entries.
            fresh: for each axis that has new positions, which are new.
        """
        return value

    def _shapes(self, layer: Any) -> dict[str, tuple[int, ...]]:
        """New shapes of a layer's variables that go with channels."""
        shapes: dict[str, list[int]] = {}
        for axis in self.dependencies.axes:
            if axis.layer is layer:
                shape = shapes.setdefault(axis.attribute, list(axis.variable.shape))
                shape[axis.axis] = int(self.copies[axis.channels].sum())
        # A grouped kernel whose groups go as a whole has no axis for its inputs.
        if hasattr(layer, "kernel") and "kernel" not in shapes:
            shapes["kernel"] = list(layer.kernel.shape)
        return {name: tuple(shape) for name, shape in shapes.items()}


def places(channels: Any, copies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What stands on an axis, once each class stands there as often as it should.

    A class that fills several positions in a row, as the channels of a depthwise
    convolution with a multiplier do, gets as many again for each new one.

    Args:
        channels: the class of each position of the axis before.
        copies: how often each class stands in the new model.

    Returns:
        For each new position the one before that it comes from, and whether it is new.

    Example:
        >>> copies = np.array([1, 0, 2])
        >>> [x.tolist() for x in places([0, 1, 2], copies)]
        [[0, 2, 2], [False, False, True]]
        >>> places([2, 2, 0], copies)[0].tolist()
        [0, 1, 0, 1, 2]
    """
    channels = np.asarray(channels, np.int64)
    counts = copies[channels]
    if counts.size == 0 or counts.max() <= 1:
        source = np.flatnonzero(counts)
        return source, np.zeros(len(source), bool)
    starts = np.flatnonzero(np.r_[True, channels[1:] != channels[:-1]])
    parts, fresh = [], []
    for start, stop in zip(starts, [*starts[1:], len(channels)], strict=True):
        run = np.arange(start, stop)
        parts.append(np.tile(run, counts[start]))
        fresh.append(np.arange(len(run) * counts[start]) >= len(run))
    return np.concatenate(parts), np.concatenate(fresh)
