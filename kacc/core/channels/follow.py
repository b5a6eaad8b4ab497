"""How channels pass a layer or operator: what its rows in the table may ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kacc.core import registry
from kacc.core.channels.classes import Channels, Classes
from kacc.core.graph import Call, Tensor

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Axis:
    """The axis of a variable that goes with channels.

    Args:
        layer: holds the variable.
        attribute: its name there.
        axis: counted from the end.
        channels: the class of each position.
        produces: whether the channels are made here: a filter's or unit's own.
    """

    layer: Any
    attribute: str
    axis: int
    channels: Channels
    produces: bool

    @property
    def variable(self) -> Any:
        """The variable."""
        return getattr(self.layer, self.attribute)


class UnfollowedError(Exception):
    """Why the channels of a call cannot be followed; they are left alone then."""


@dataclass(frozen=True)
class Row:
    """How channels pass a type of layer or operator.

    Args:
        type: the type.
        follow: `follow(call, trail)` -> the channels of the call's output, or a list
            of those of each output. Raises `UnfollowedError`, changing nothing then.
        resize: `resize(config, shapes, inputs, outputs)` -> what changes in the
            layer's config: `shapes` are the new shapes of its variables, `inputs` and
            `outputs` the new numbers of channels. None if nothing does.
        arguments: `arguments(call, cut)` -> the call's (args, kwargs) after cutting,
            where they hold more than tensors, or None. `cut` is a `Cut`.
    """

    type: type
    follow: Callable[[Call, Trail], Any]
    resize: (
        Callable[[dict[str, Any], Shapes, list[int], list[int]], dict[str, Any]] | None
    ) = None
    arguments: Callable[[Call, Cut], tuple[Any, Any]] | None = None


class Cut:
    """What became of channels, for those who adapt arguments."""

    def kept(self, tensor: Tensor) -> np.ndarray:
        """How many channels stand in the place of each of a tensor's."""
        raise NotImplementedError

    def sources(self, tensor: Tensor) -> np.ndarray:
        """For each of a tensor's new channels the one before that it comes from."""
        raise NotImplementedError


class Trail:
    """The channels of tensors and variables, as far as a graph has been followed.

    Example:
        >>> trail = Trail()
        >>> trail.fix(trail.classes.new(3))
        >>> sorted(trail.fixed)
        [0, 1, 2]
    """

    def __init__(self) -> None:
        self.classes = Classes()
        self.tensors: dict[Tensor, Channels] = {}
        self.axes: dict[tuple[int, str, int], Axis] = {}
        self.fixed: set[int] = set()

    def read(self, tensor: Tensor) -> Channels:
        """The channels of a tensor, which are its last axis."""
        return self.tensors[tensor]

    def fix(self, channels: Channels) -> None:
        """These channels remain whatever happens."""
        self.fixed.update(channels.tolist())

    def fixed_channels(self, tensor: Tensor) -> Channels:
        """New channels for a tensor, which remain; none where their number is free."""
        channels = self.classes.new(tensor.shape[-1] or 0 if tensor.shape else 0)
        self.fix(channels)
        return channels

    def weight(
        self,
        layer: Any,
        attribute: str,
        axis: int,
        channels: Channels | None = None,
        produces: bool = False,
    ) -> Channels:
        """Ties an axis of a variable to channels; a shared layer's to those of before.

        Args:
            layer: holds the variable.
            attribute: its name there.
            axis: from the end.
            channels: of each position; new ones if left out.
            produces: whether the layer makes these channels.

        Returns:
            The channels.
        """
        key = (id(layer), attribute, axis)
        known = self.axes.get(key)
        if known is None:
            size = int(getattr(layer, attribute).shape[axis])
            if channels is None:
                channels = self.classes.new(size)
            self.axes[key] = Axis(layer, attribute, axis, channels, produces)
            return channels
        if channels is not None:
            self.classes.unite(channels, known.channels)
        return known.channels


def find_row(operation: Any, table: Mapping[type, Row]) -> Row | None:
    """The row of a type, along its MRO; None if a class on the way computes anew."""
    for base in type(operation).__mro__:
        if base in table:
            changed = registry.overriding_class(type(operation), base)
            return None if changed is not None else table[base]
    return None


def joined(trail: Trail, tensors: Sequence[Tensor]) -> Channels:
    """The channels of tensors that are combined element by element.

    A tensor of one channel is spread over those of the others.
    """
    each = [trail.read(x) for x in tensors]
    wide = [channels for channels in each if len(channels) > 1]
    if not wide:
        return max(each, key=len)
    if len({len(channels) for channels in wide}) > 1:
        raise UnfollowedError("it joins tensors of different numbers of channels")
    for other in wide[1:]:
        trail.classes.unite(wide[0], other)
    return wide[0]
