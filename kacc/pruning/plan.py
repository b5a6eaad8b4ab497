"""When masks are updated, and how far pruning is then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kacc.core.errors import UsageError
from kacc.pruning.config import sparsity_checked


@dataclass(frozen=True)
class Plan:
    """A schedule, and how often it is looked at.

    Args:
        schedule: step -> sparsity, or, as tfmot's PruningSchedule, step -> (whether to
            prune in this step, sparsity).
        frequency: steps from one update to the next; a schedule that says when to prune
            has its own.
    """

    schedule: Callable[[int], Any]
    frequency: int

    def value(self, step: int) -> float:
        """The sparsity at a step."""
        return _value(self.schedule, step)

    def due(self, before: int, step: int) -> bool:
        """Whether an update falls into the steps after `before`, up to `step`."""
        if before >= step:
            return False
        if isinstance(self.schedule(step), (tuple, list)):
            return any(bool(self.schedule(s)[0]) for s in range(before + 1, step + 1))
        begin = getattr(self.schedule, "begin_step", 0)
        end = getattr(self.schedule, "end_step", None)
        if step < begin or (end is not None and before >= end):
            return False
        turns = [(s - begin) // self.frequency for s in (before, step)]
        return turns[0] != turns[1] or (end is not None and step >= end)


def value_and_target(sparsity: Any) -> tuple[float | None, float | None]:
    """The present sparsity and the one to reach, of a number, a schedule or None.

    Returns:
        (None, the number) for a number: there is no way to it.

    Raises:
        UsageError: if it is none of them.
    """
    if sparsity is None:
        return None, None
    if not callable(sparsity):
        return None, sparsity_checked(sparsity)
    return _value(sparsity, 0), final_of(sparsity)


def final_of(schedule: Callable[[int], Any]) -> float:
    """The sparsity that a schedule ends with.

    Raises:
        UsageError: if it is not known, or no sparsity.
    """
    for name in ("final", "final_sparsity", "target_sparsity"):
        if hasattr(schedule, name):
            return sparsity_checked(getattr(schedule, name), "A schedule's last value")
    end = getattr(schedule, "end_step", None)
    if end is None or end < 0:
        end = 2**31 - 1  # of a function without an end: what it tends to
    return sparsity_checked(_value(schedule, end), "A schedule's last value")


def _value(schedule: Callable[[int], Any], step: int) -> float:
    value = schedule(step)
    if isinstance(value, (tuple, list)):
        value = value[1]
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UsageError(
            "A schedule must give a number for a step, or (whether to prune, a number)",
            received=value,
            fix="Pass one of kacc.schedules",
        ) from None
