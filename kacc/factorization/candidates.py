"""The layers that can be factored, and for each what its factors cost and keep."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from kacc.core.cost import itemsize, macs_of, variables
from kacc.core.graph import Call, Graph
from kacc.core.remake import tied
from kacc.core.rules import Rule
from kacc.factorization.functional import Spectrum
from kacc.factorization.inputs import Inputs
from kacc.factorization.methods import METHODS, methods_for
from kacc.factorization.rows import Row, find, reason_against

STEPS = 256  # ranks of a method that are candidates, at most
PAIRS = 24  # the same for each of two ranks

Costs = dict[str, float]


@dataclass(frozen=True)
class Option:
    """One way to factor a layer.

    Args:
        method: a key of `METHODS`.
        ranks: one or two.
        costs: what the new layers cost: "macs", "params", "bytes".
        kept: the share of the energy that they keep.
    """

    method: str
    ranks: tuple[int, ...]
    costs: Costs
    kept: float

    @property
    def loss(self) -> float:
        """The logarithm of what is lost: over layers, kept shares multiply.

        Zhang et al. 2015, arXiv:1505.06798, section 3.4.
        """
        return -math.log(max(self.kept, 1e-12))


@dataclass(eq=False)
class Target:
    """A layer that can be factored.

    Args:
        path: of its first call.
        layer: itself.
        row: of its type.
        calls: all of them.
        kernel: (*taps, inputs, outputs), float64.
        inputs: what is known of what it multiplies.
    """

    path: str
    layer: Any
    row: Row
    calls: list[Call]
    kernel: np.ndarray
    inputs: Inputs = field(default_factory=Inputs)
    _spectra: dict[str, Spectrum] = field(default_factory=dict)

    @property
    def costs(self) -> Costs:
        """What the layer costs as it is."""
        entries = sum(math.prod(v.shape) for v in variables(self.layer))
        return {
            "macs": float(sum(macs_of(call) or 0 for call in self.calls)),
            "params": float(entries),
            "bytes": float(entries * self._itemsize),
        }

    @property
    def has_bias(self) -> bool:
        """Whether there is a bias, for the last of its parts."""
        return getattr(self.layer, "bias", None) is not None

    def methods(self, asked: str) -> tuple[str, ...]:
        """The methods for its kernel."""
        return methods_for(self.kernel.shape, asked)

    def full(self, method: str) -> tuple[int, ...]:
        """The ranks of a method that keep everything."""
        return METHODS[method].full(self.kernel.shape)

    def spectrum(self, method: str, limit: int | None = None) -> Spectrum:
        """What a method keeps, up to a first rank of `limit`."""
        found = self._spectra.get(method)
        reach = min(limit or self.full(method)[0], self.full(method)[0])
        if found is None or len(found.kept) < reach:
            found = METHODS[method].spectrum(self.kernel, self.inputs, reach)
            self._spectra[method] = found
        return found

    def costs_of(self, method: str, ranks: Sequence[int]) -> Costs:
        """What the layers of a method cost at ranks."""
        spec = METHODS[method]
        sizes = [math.prod(s) for s in spec.shapes(self.kernel.shape, *ranks)]
        times = [
            sum(self.row.positions(call, where) for call in self.calls)
            for where in spec.where
        ]
        bias = math.prod(self.layer.bias.shape) if self.has_bias else 0
        entries = sum(sizes) + bias
        return {
            "macs": float(sum(n * t for n, t in zip(sizes, times, strict=True))),
            "params": float(entries),
            "bytes": float(entries * self._itemsize),
        }

    def option(self, method: str, ranks: tuple[int, ...]) -> Option:
        """A candidate with what it keeps."""
        kept = self.spectrum(method, ranks[0]).at(*ranks)
        return Option(method, ranks, self.costs_of(method, ranks), kept)

    def saved(self, cost: str | None) -> str:
        """The cost that factors have to save: MACs, or parameters if there are none."""
        return cost or ("macs" if self.costs["macs"] else "params")

    def options(self, asked: str, cost: str | None, round_to: int) -> Iterator[Option]:
        """All candidates that save something of a cost."""
        name = self.saved(cost)
        whole = self.costs[name]
        for method in self.methods(asked):
            saving = [
                ranks
                for ranks in _grid(self.full(method), round_to)
                if self.costs_of(method, ranks)[name] < whole
            ]
            if saving:
                self.spectrum(method, max(ranks[0] for ranks in saving))
            yield from (self.option(method, ranks) for ranks in saving)

    def front(self, asked: str, cost: str, round_to: int) -> list[Option]:
        """The candidates that keep more than all that cost no more."""
        found = list(self.options(asked, cost, round_to))
        found.sort(key=lambda option: (option.costs[cost], -option.kept))
        best, front = -1.0, []
        for option in found:
            if option.kept > best:
                front.append(option)
                best = option.kept
        return front

    @property
    def _itemsize(self) -> int:
        return itemsize(getattr(self.layer, self.row.weight))


def _grid(full: tuple[int, ...], round_to: int) -> list[tuple[int, ...]]:
    """Ranks up to full ones, evenly spaced where they are many."""
    if len(full) == 1:
        return [(rank,) for rank in _steps(full[0], STEPS, round_to)]
    first, second = (_steps(size, PAIRS, round_to) for size in full)
    return [(a, b) for a in first for b in second]


def _steps(full: int, most: int, round_to: int) -> list[int]:
    stride = max(1, round(full / most / round_to)) * round_to
    return [*range(stride, full, stride), full]


def targets_of(
    graph: Graph, rules: Mapping[str, Rule]
) -> tuple[list[Target], dict[str, tuple[Any, str]]]:
    """The layers of a graph that can be factored, and why others cannot.

    Args:
        graph: of the model.
        rules: by path.

    Returns:
        The targets in the order of their first calls, and for each other layer with
        kernels path -> (layer, reason).
    """
    shared = tied(graph)
    calls: dict[int, list[Call]] = {}
    for call in graph.calls:
        calls.setdefault(id(call.operation), []).append(call)
    targets, others = [], {}
    for group in calls.values():
        layer, path = group[0].operation, group[0].path
        row = find(layer)
        reason = _reason(group, row, rules)
        if reason is None and row is not None:
            reason = _tied_to(shared.get(id(getattr(layer, row.weight))))
        if reason is None and row is not None:
            targets.append(Target(path, layer, row, group, row.kernel(layer)))
        elif _has_kernels(layer):
            others[path] = (layer, reason or "")
    return targets, others


def _reason(
    calls: Sequence[Call], row: Row | None, rules: Mapping[str, Rule]
) -> str | None:
    layer = calls[0].operation
    if any(rules[call.path].skip for call in calls if call.path in rules):
        return "a rule skips it"
    if row is None:
        return f"the layer type {type(layer).__name__} is not factored"
    return reason_against(layer, row)


def _tied_to(reader: tuple[str, Any] | None) -> str | None:
    return None if reader is None else f"{reader[0]} reads its weights as well"


def _has_kernels(layer: Any) -> bool:
    held = layer.variables if isinstance(layer, keras.Layer) else []
    return any(len(v.shape) > 1 for v in held)
