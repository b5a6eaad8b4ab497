"""Choosing how many channels, and which, each group keeps under a budget."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kacc.core.channels.graph import Group

LEAST_SHARE = 0.1  # of a group's channels remains, lest a layer be cut off
TOLERANCE = 0.03

Costing = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class Chunk:
    """The channels that a group loses at once.

    Args:
        group: its number.
        before, after: how many channels the group has before and after.
        score: what the loss is worth; chunks of low scores go first.
    """

    group: int
    before: int
    after: int
    score: float


def counts_allowed(width: int, step: int, least: float = LEAST_SHARE) -> list[int]:
    """Numbers of channels that a group may have, falling: all, then multiples.

    Example:
        >>> counts_allowed(20, 8)
        [20, 16, 8]
    """
    floor = max(step, int(np.ceil(least * width)))
    multiples = [n for n in range(0, width, step) if n >= floor]
    return [width, *reversed(multiples)]


def chunks_of(
    groups: Sequence[Group],
    scores: Sequence[np.ndarray],
    steps: Sequence[int],
    worth: np.ndarray,
) -> list[list[Chunk]]:
    """For each group the chunks that it can lose, in the order in which it does.

    Args:
        groups: the groups.
        scores: the importance of each group's channels.
        steps: how many channels of a group go at once.
        worth: for each group what a channel's score is divided by.

    Returns:
        Chunks with scores that never fall, since a group loses them in order.
    """
    result = []
    for number, (group, score, step) in enumerate(
        zip(groups, scores, steps, strict=True)
    ):
        rising = np.sort(score)
        counts = counts_allowed(len(group.classes), step)
        width, highest, chunks = counts[0], -np.inf, []
        for before, after in itertools.pairwise(counts):
            mean = rising[width - before : width - after].mean() / worth[number]
            highest = max(highest, float(mean))
            chunks.append(Chunk(number, before, after, highest))
        result.append(chunks)
    return result


def select_globally(
    widths: np.ndarray, chunks: Sequence[Sequence[Chunk]], cost: Costing, budget: float
) -> np.ndarray:
    """Takes the chunks of the lowest scores of all groups until the budget is kept.

    Args:
        widths: the number of channels of each group.
        chunks: of each group, in order.
        cost: of a number of channels for each group.
        budget: the most that the result may cost.

    Returns:
        The number of channels that each group keeps; if even all chunks are too few,
        the least numbers.
    """
    order = sorted(
        (chunk for group in chunks for chunk in group),
        key=lambda c: (c.score, -c.before),
    )
    taken = _least(len(order), lambda n: cost(_kept(widths, order[:n])) <= budget)
    kept = _kept(widths, order[:taken])
    return _filled(kept, list(reversed(order[:taken])), cost, budget)


def select_locally(
    widths: np.ndarray, chunks: Sequence[Sequence[Chunk]], cost: Costing, budget: float
) -> np.ndarray:
    """Takes nearly the same share of every group; the arguments as above."""
    shares = sorted(
        (1 - chunk.after / widths[chunk.group], index, number)
        for number, group in enumerate(chunks)
        for index, chunk in enumerate(group)
    )
    order = [chunks[number][index] for _, index, number in shares]
    taken = _least(len(order), lambda n: cost(_kept(widths, order[:n])) <= budget)
    kept = _kept(widths, order[:taken])
    return _filled(kept, list(reversed(order[:taken])), cost, budget)


def _kept(widths: np.ndarray, chunks: Sequence[Chunk]) -> np.ndarray:
    kept = widths.copy()
    for chunk in chunks:
        kept[chunk.group] = min(kept[chunk.group], chunk.after)
    return kept


def _least(count: int, holds: Callable[[int], bool]) -> int:
    """The least n up to `count` for which a property holds that stays once it does."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def _filled(
    kept: np.ndarray, taken: Sequence[Chunk], cost: Costing, budget: float
) -> np.ndarray:
    """Gives chunks back, the most important first, as far as the budget allows."""
    kept, present = kept.copy(), cost(kept)
    for chunk in taken:
        if present >= budget * (1 - TOLERANCE / 10):
            break
        if kept[chunk.group] != chunk.after:
            continue  # a deeper chunk of the group stayed out
        kept[chunk.group] = chunk.before
        price = cost(kept)
        if price > budget:
            kept[chunk.group] = chunk.after
        else:
            present = price
    return kept


def approach(
    kept: np.ndarray, chunks: Sequence[Sequence[Chunk]], cost: Costing, budget: float
) -> np.ndarray:
    """Comes nearer to a budget that coarse steps missed, by exchanging chunks.

    One group gives up its next chunk so that others can have theirs back; the exchange
    that ends nearest below the budget is kept, as long as there is one that helps.
    """
    best, price = kept, cost(kept)
    while price < budget * (1 - TOLERANCE):
        found = None
        for group in chunks:
            down = next((c for c in group if c.before == best[c.group]), None)
            if down is None:
                continue
            trial = best.copy()
            trial[down.group] = down.after
            back = [
                c
                for other in chunks
                for c in other
                if c.after == trial[c.group] and c.group != down.group
            ]
            trial = _filled(trial, sorted(back, key=lambda c: -c.score), cost, budget)
            if price < cost(trial) <= budget:
                found, price = trial, cost(trial)
        if found is None:
            break
        best = found
    return _refilled(best, chunks, cost, budget)


def _refilled(
    kept: np.ndarray, chunks: Sequence[Sequence[Chunk]], cost: Costing, budget: float
) -> np.ndarray:
    """Gives back all that the budget has room for, the most important first."""
    while True:
        taken = [c for group in chunks for c in group if c.after == kept[c.group]]
        taken.sort(key=lambda c: -c.score)
        filled = _filled(kept.copy(), taken, cost, budget)
        if (filled == kept).all():
            return kept
        kept = filled


def highest(scores: np.ndarray, count: int) -> np.ndarray:
    """A mask of the `count` highest scores; of equal ones the first remain.

    Example:
        >>> highest(np.array([3.0, 1.0, 2.0, 1.0]), 3).tolist()
        [True, True, True, False]
    """
    mask = np.zeros(len(scores), bool)
    mask[np.argsort(-scores, kind="stable")[:count]] = True
    return mask
