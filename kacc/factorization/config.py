"""What `factorize` was asked for: arguments that check themselves."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from kacc.core.budget import Budget, budget_of
from kacc.core.cost import NAMED
from kacc.core.errors import UsageError
from kacc.factorization.methods import ASKED

Rank = int | float | tuple[int, int]


@dataclass(frozen=True)
class Request:
    """How far and how layers are factored; one of the first three is given.

    Args:
        budget: a share of a cost.
        energy: the share of its energy that each layer keeps.
        ranks: by pattern of paths.
        method: a key of `methods.ASKED`.
        cost: what factors have to save, "macs", "params" or "bytes"; None for MACs,
            and for layers without any for parameters.
        round_to: ranks are multiples of it.
    """

    budget: Budget | None
    energy: float | None
    ranks: Mapping[str, Rank] | None
    method: str = "auto"
    cost: str | Callable[[keras.Model], float] | None = None
    round_to: int = 1

    def __post_init__(self) -> None:
        if self.method not in ASKED:
            raise UsageError(
                f"`method` must be one of {sorted(ASKED)}", received=self.method
            )
        whole = isinstance(self.round_to, int) and not isinstance(self.round_to, bool)
        if not whole or self.round_to < 1:
            raise UsageError(
                "`round_to` must be a positive integer", received=self.round_to
            )
        if self.energy is not None and not _is_share(self.energy):
            raise UsageError(
                "`energy` is the share to keep, above 0 and at most 1",
                received=self.energy,
            )
        if self.budget is None and callable(self.cost):
            raise UsageError(
                "A callable is a cost for a budget",
                received=f"cost={self.cost!r} without `share` or `latency`",
                fix='Pass share=0.5, or cost="macs"',
            )

    def rank_for(self, path: str) -> Rank | None:
        """The rank that was asked for a layer: that of the last pattern that fits."""
        ranks = self.ranks or {}
        fitting = [rank for key, rank in ranks.items() if re.fullmatch(key, path)]
        return fitting[-1] if fitting else None


def request_of(
    shares: Mapping[str, Any],
    cost: Any,
    energy: Any,
    ranks: Any,
    method: str,
    round_to: int,
) -> Request:
    """The request that the arguments of `factorize` describe.

    Args:
        shares: those of budgets: macs, params, bytes, latency, share.
        cost: of `share`, or what has to be saved.
        energy: as given.
        ranks: as given.
        method: as given.
        round_to: as given.

    Raises:
        UsageError: unless exactly one share, energy or ranks are given, and right.

    Example:
        >>> request_of({"macs": 0.5}, None, None, None, "auto", 1).budget.share
        0.5
    """
    wanted = {name: value for name, value in shares.items() if value is not None}
    wanted |= {} if energy is None else {"energy": energy}
    wanted |= {} if ranks is None else {"ranks": ranks}
    if len(wanted) != 1:
        raise UsageError(
            "Exactly one of `macs`, `params`, `bytes`, `latency`, `share` (of `cost`), "
            "`energy` and `ranks` must be given",
            received=wanted or "none",
            fix="Pass macs=0.5",
        )
    if ranks is None and energy is None:
        budget = budget_of(**shares, cost=cost)
        return Request(budget, None, None, method, budget.cost, round_to)
    if cost is not None and not callable(cost) and cost not in NAMED:
        raise UsageError(f"`cost` must be one of {sorted(NAMED)}", received=cost)
    return Request(None, energy, _ranks(ranks, method), method, cost, round_to)


def _ranks(ranks: Any, method: str) -> Mapping[str, Rank] | None:
    if ranks is None:
        return None
    table = ranks if isinstance(ranks, Mapping) else {".*": ranks}
    if not table:
        raise UsageError("`ranks` must name a layer", received=ranks)
    for pattern, rank in table.items():
        _check_pattern(pattern)
        _check_rank(rank, method)
    return {key: _plain(rank) for key, rank in table.items()}


def _check_pattern(pattern: Any) -> None:
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        raise UsageError(
            f"`ranks` goes by regular expressions of paths ({error})", received=pattern
        ) from None


def _check_rank(rank: Any, method: str) -> None:
    pair = isinstance(rank, Sequence) and not isinstance(rank, str) and len(rank) == 2
    if pair and method not in ("auto", "tucker"):
        raise UsageError(
            f"The method {method!r} has one rank, the method 'tucker' two",
            received=rank,
        )
    good = all(map(_is_rank, rank)) if pair else _is_rank(rank) or _is_share(rank)
    if not good:
        raise UsageError(
            "A rank is a positive integer, a share of the full rank (0.5), or for the "
            "method 'tucker' a pair of integers",
            received=rank,
        )


def _plain(rank: Any) -> Rank:
    return rank if isinstance(rank, (int, float)) else (int(rank[0]), int(rank[1]))


def _is_rank(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_share(value: Any) -> bool:
    return isinstance(value, float) and 0 < value <= 1
