"""Which layers are factored, by which method, to which ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kacc.factorization.candidates import Option, Target
from kacc.factorization.config import Rank, Request
from kacc.factorization.selection import choose


@dataclass(frozen=True, eq=False)
class Chosen:
    """A layer and what stands for it."""

    target: Target
    option: Option


def at_ranks(targets: Sequence[Target], request: Request) -> list[Chosen]:
    """Every layer that a rank was given for, at that rank."""
    chosen = []
    for target in targets:
        rank = request.rank_for(target.path)
        if rank is not None:
            option = _at_rank(target, rank, request.method)
            chosen.append(Chosen(target, option))
    return chosen


def _at_rank(target: Target, rank: Rank, asked: str) -> Option:
    if asked == "auto":
        asked = "tucker" if isinstance(rank, tuple) else "spatial"
    options = []
    for method in target.methods(asked):
        full = target.full(method)
        given = rank if isinstance(rank, tuple) else (rank,) * len(full)
        # A pair is for kernels with taps; a matrix takes the smaller number.
        given = given if len(given) == len(full) else (min(given),)
        ranks = tuple(map(_number, given, full))
        options.append(target.option(method, ranks))
    return max(options, key=lambda option: option.kept)


def _number(rank: int | float, full: int) -> int:
    count = round(rank * full) if isinstance(rank, float) else rank
    return min(max(count, 1), full)


def at_energy(targets: Sequence[Target], request: Request) -> list[Chosen]:
    """Every layer at the least cost that keeps so much of its energy, if it saves."""
    assert request.energy is not None
    cost = request.cost if isinstance(request.cost, str) else None
    chosen = []
    for target in targets:
        enough = [
            option
            for option in target.options(request.method, cost, request.round_to)
            if option.kept >= request.energy - 1e-9
        ]
        if enough:
            name = target.saved(cost)
            best = min(enough, key=lambda option: (option.costs[name], -option.kept))
            chosen.append(Chosen(target, best))
    return chosen


def under_budget(
    targets: Sequence[Target],
    request: Request,
    cost: str,
    share: float,
    whole: float,
) -> tuple[list[Chosen], float]:
    """What keeps the most under a share of a cost.

    Args:
        targets: the layers that can be factored.
        request: says which methods and ranks.
        cost: "macs", "params" or "bytes".
        share: of the whole model's cost.
        whole: that cost.

    Returns:
        The layers to factor, and the cost that is left.
    """
    # The first option of a layer is to leave it.
    options: list[list[Option | None]] = [
        [None, *target.front(request.method, cost, request.round_to)]
        for target in targets
    ]
    own = [target.costs[cost] for target in targets]
    fixed = whole - sum(own)
    costs = [
        [o.costs[cost] if o else before for o in layer]
        for layer, before in zip(options, own, strict=True)
    ]
    losses = [[o.loss if o else 0.0 for o in layer] for layer in options]
    numbers = choose(costs, losses, share * whole - fixed)
    left = fixed + sum(layer[n] for layer, n in zip(costs, numbers, strict=True))
    picked = [layer[n] for layer, n in zip(options, numbers, strict=True)]
    return [Chosen(t, o) for t, o in zip(targets, picked, strict=True) if o], left


def why_left(target: Target, request: Request) -> str:
    """Why a layer that could be factored was not."""
    if request.ranks is not None:
        return "no rank was given for it"
    cost = request.cost if isinstance(request.cost, str) else None
    if not any(target.options(request.method, cost, request.round_to)):
        return f"factors would not save {_SAID[target.saved(cost)]}"
    if request.energy is not None:
        return f"factors that save keep less than {request.energy:.1%} of its energy"
    return "less is lost elsewhere"


_SAID = {"macs": "MACs", "params": "parameters", "bytes": "bytes"}
