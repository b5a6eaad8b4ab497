"""Timing candidates side by side: what disturbs one disturbs all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Times:
    """Seconds of each call of each candidate, in the order of the rounds.

    Args:
        wall: name -> seconds on the clock.
        cpu: name -> seconds of all this process's threads, which other processes
            disturb less.
    """

    wall: Mapping[str, np.ndarray]
    cpu: Mapping[str, np.ndarray]

    def ratio(self, name: str, base: str) -> tuple[float, float, float]:
        """The ratio of two candidates, paired by round: quartile, median, quartile."""
        return _quartiles(self.wall[name] / self.wall[base])

    def row(self, name: str, base: str) -> dict[str, Any]:
        """A candidate's line in a table: milliseconds, and the ratio to another."""
        low, middle, high = _quartiles(self.wall[name] * 1e3)
        ratios = self.ratio(name, base)
        return {
            "what": name,
            "median ms": middle,
            "quartiles": f"{low:.1f} .. {high:.1f}",
            "base": base,
            "ratio": ratios[1],
            "its quartiles": f"{ratios[0]:.3f} .. {ratios[2]:.3f}",
            "CPU ms": _quartiles(self.cpu[name] * 1e3)[1],
            "CPU ratio": _quartiles(self.cpu[name] / self.cpu[base])[1],
            "rounds": len(self.wall[name]),
        }


def interleave(
    candidates: Mapping[str, Callable[[], Any]], rounds: int, warmup: int = 5
) -> Times:
    """Times one call of each candidate per round.

    The order turns by one with each round, since a call leaves the caches as it does.

    Args:
        candidates: name -> what to time; it returns when the work is done.
        rounds: calls that count.
        warmup: calls before them, which trace, compile and fill pools.

    Returns:
        The times of all rounds.
    """
    names = list(candidates)
    wall: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    for index in range(-warmup, rounds):
        turn = index % len(names)
        for name in names[turn:] + names[:turn]:
            start, busy = time.perf_counter(), time.process_time()
            candidates[name]()
            if index >= 0:
                wall[name].append(time.perf_counter() - start)
                cpu[name].append(time.process_time() - busy)
    return Times(
        {name: np.array(values) for name, values in wall.items()},
        {name: np.array(values) for name, values in cpu.items()},
    )


def _quartiles(values: np.ndarray) -> tuple[float, float, float]:
    low, middle, high = np.percentile(values, [25, 50, 75])
    return float(low), float(middle), float(high)
