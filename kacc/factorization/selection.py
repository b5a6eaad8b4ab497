"""Choosing one option for each layer so that the most is kept under a budget."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

UNITS = 10_000  # into which a budget is divided


def choose(
    costs: Sequence[Sequence[float]], losses: Sequence[Sequence[float]], budget: float
) -> list[int]:
    """The options of least total loss whose total cost is within a budget.

    Dynamic programming over layers and units of cost (the multiple-choice knapsack
    problem; Dudzinski and Walukiewicz 1987, doi:10.1016/0377-2217(87)90165-2). Costs
    are rounded up to units, so that the budget is kept.

    Args:
        costs: of the options of each layer.
        losses: of the same.
        budget: of all layers together.

    Returns:
        The number of the option of each layer; the cheapest of each if even these are
        beyond the budget.

    Example:
        >>> choose([[1, 3], [1, 3]], [[5.0, 0.0], [2.0, 0.0]], 4)
        [1, 0]
    """
    if not costs:
        return []
    best_of_all = _least(losses, costs)
    total = sum(layer[n] for layer, n in zip(costs, best_of_all, strict=True))
    if total <= budget * (1 + 1e-9):
        return best_of_all
    if sum(min(layer) for layer in costs) >= budget:
        return _least(costs, losses)
    fixed = sum(min(layer) for layer in costs)
    unit = (budget - fixed) / UNITS
    # A layer's cheapest option is in `fixed`: what is rounded is the difference.
    steps = [
        np.ceil(np.round((np.asarray(layer) - min(layer)) / unit, 6)).astype(int)
        for layer in costs
    ]
    best = np.zeros(UNITS + 1)
    choices = []
    for layer, loss in zip(steps, losses, strict=True):
        best, chosen = _with_layer(best, layer, np.asarray(loss, float))
        choices.append(chosen)
    place, result = UNITS, []
    for layer, chosen in zip(steps[::-1], choices[::-1], strict=True):
        number = int(chosen[place])
        result.append(number)
        place -= int(layer[number])
    return result[::-1]


def _least(
    first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]
) -> list[int]:
    """For each layer its option of least figures, of equal ones by the second."""
    return [
        min(range(len(a)), key=lambda n, a=a, b=b: (a[n], b[n]))  # type: ignore[misc]
        for a, b in zip(first, second, strict=True)
    ]


def _with_layer(
    best: np.ndarray, costs: np.ndarray, losses: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each amount that may be spent, the least loss with one more layer."""
    total = np.full(len(best), np.inf)
    chosen = np.zeros(len(best), np.int32)
    for number, (cost, loss) in enumerate(zip(costs, losses, strict=True)):
        if cost > UNITS:
            continue
        tried = np.full(len(best), np.inf)
        tried[cost:] = best[: len(best) - cost] + loss
        better = tried < total
        total[better] = tried[better]
        chosen[better] = number
    return total, chosen
