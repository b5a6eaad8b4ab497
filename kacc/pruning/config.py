"""The methods of pruning: which weights go together, and by what they are ranked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from kacc.core.arguments import is_number
from kacc.core.errors import UsageError
from kacc.core.registry import Weight
from kacc.pruning import functional
from kacc.pruning.functional import Units

SCOPES = ("global", "layer")


@dataclass(frozen=True)
class Method:
    """How weights are chosen; each single one by its magnitude."""

    shrinks = False  # whether the weights that stay become smaller as well

    @property
    def name(self) -> str:
        """As in `kacc.prune(model, method=name)`."""
        return "magnitude"

    @property
    def own_sparsity(self) -> float | None:
        """The sparsity that the pattern has by itself, or None."""
        return None

    def units(
        self, value: np.ndarray, weight: Weight, pruned: np.ndarray | None
    ) -> Units:
        """The units of a weight, ranked.

        Args:
            value: the weight.
            weight: says which axes are its inputs and outputs.
            pruned: what is pruned already and stays so, or None.
        """
        return functional.weight_units(value, pruned)


@dataclass(frozen=True)
class SoftThreshold(Method):
    """By magnitude, and what stays is shrunk by the largest magnitude that goes."""

    shrinks = True

    @property
    def name(self) -> str:
        """As in `kacc.prune(model, method=name)`."""
        return "soft"


@dataclass(frozen=True)
class Block(Method):
    """Blocks of weights.

    Args:
        inputs: input channels of a block.
        outputs: its output channels.
    """

    inputs: int
    outputs: int

    def __post_init__(self) -> None:
        if min(self.inputs, self.outputs) < 1:
            raise UsageError(
                "The sides of a block must be positive",
                received=(self.inputs, self.outputs),
            )

    @property
    def name(self) -> str:
        """As in `kacc.prune(model, method=name)`."""
        return f"{self.inputs}x{self.outputs}"

    def units(
        self, value: np.ndarray, weight: Weight, pruned: np.ndarray | None
    ) -> Units:
        """The blocks, by their mean magnitude."""
        assert weight.inputs is not None
        axes = (weight.inputs, weight.channels[-1])
        return functional.block_units(value, (self.inputs, self.outputs), axes, pruned)


@dataclass(frozen=True)
class NOfM(Method):
    """At most `n` weights of each `m` neighbours along the input channels stay.

    In a table it is neighbours along the features of a row.

    Args:
        n: how many stay.
        m: weights in a group.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 0 < self.n < self.m:
            raise UsageError(
                "Of each group some weights must stay and some must go",
                received=self.name,
                fix='Pass a pattern like "2:4"',
            )

    @property
    def name(self) -> str:
        """As in `kacc.prune(model, method=name)`."""
        return f"{self.n}:{self.m}"

    @property
    def own_sparsity(self) -> float:
        """The share that goes."""
        return 1 - self.n / self.m

    def units(
        self, value: np.ndarray, weight: Weight, pruned: np.ndarray | None
    ) -> Units:
        """The weights, those that stay with an infinite score."""
        own = weight.neighbours
        axis = weight.inputs if own is None else own
        assert axis is not None
        return functional.n_of_m_units(value, self.n, self.m, axis, pruned)


_NAMED = {"magnitude": Method(), "soft": SoftThreshold()}


def method_named(method: Any) -> Method:
    """The method that a name or the shape of a block stands for.

    Args:
        method: "magnitude", "soft", "2:4" and the like, or a block as (1, 4) or "1x4".

    Raises:
        UsageError: if it is none of them.

    Example:
        >>> method_named("2:4"), method_named((1, 4))
        (NOfM(n=2, m=4), Block(inputs=1, outputs=4))
    """
    if isinstance(method, Method):
        return method
    if isinstance(method, str) and method in _NAMED:
        return _NAMED[method]
    if isinstance(method, str):
        for pattern, cls in ((r"(\d+):(\d+)", NOfM), (r"(\d+)x(\d+)", Block)):
            if found := re.fullmatch(pattern, method):
                return cls(*map(int, found.groups()))
    is_pair = isinstance(method, (tuple, list)) and len(method) == 2
    if is_pair and all(type(side) is int for side in method):
        return Block(*method)
    raise UsageError(
        '`method` must be "magnitude", "soft", a pattern like "2:4" or a block like '
        "(1, 4)",
        received=method,
    )


def sparsity_checked(sparsity: Any, name: str = "`sparsity`") -> float:
    """The number itself.

    Raises:
        UsageError: if it is no number from 0 to less than 1.
    """
    if not is_number(sparsity) or not 0 <= sparsity < 1:
        raise UsageError(
            f"{name} must be the share of weights to remove, from 0 to less than 1",
            received=sparsity,
            fix="0.75 removes three of four",
        )
    return float(sparsity)


def target_of(method: Method, sparsity: float | None) -> float | None:
    """The sparsity to reach: the one asked for, else the pattern's own, if it has one.

    Raises:
        UsageError: if the pattern cannot reach it.
    """
    own = method.own_sparsity
    if sparsity is None:
        return own
    if own is not None and sparsity > own:
        raise UsageError(
            f"The pattern {method.name!r} reaches a sparsity of {own:g}",
            received=sparsity,
            fix="Leave the sparsity out, or pass a smaller one",
        )
    return sparsity
