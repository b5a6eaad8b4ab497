"""Other numbers of channels: rounded up, or multiplied everywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from kacc.core.channels.follow import Axis
from kacc.core.channels.graph import DependencyGraph, Group, dependencies
from kacc.core.channels.resize import Resized
from kacc.core.cost import by_operation
from kacc.core.graph import trace
from kacc.core.rules import Rule
from kacc.restructuring.config import RoundChannels, Width
from kacc.restructuring.report import LayerReport
from kacc.restructuring.steps import Outcome, Source

layers = keras.layers

_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
_TAKING_PARTS = ("GetItem", "Split")  # operators, of which Keras exports no class


class _Wider(Resized):
    """A model with added channels that change nothing behind them.

    Added channels are copies of the last one of their group, so that their values are
    as finite and their range is as wide, and weigh nothing in the layers that read
    them (as Chen et al. 2015, arXiv:1511.05641, whose copies share the weight).
    """

    random: np.random.Generator

    def filled(self, value: np.ndarray, fresh: Mapping[Axis, np.ndarray]) -> np.ndarray:
        value = value.copy()
        for axis, is_new in fresh.items():
            if (
                axis.produces
            ):  # unlike the copied one, so that training tells them apart
                place = _at(value, axis.axis, is_new)
                shape = value[place].shape
                value[place] *= self.random.uniform(0.5, 1.0, shape)
        for axis, is_new in fresh.items():
            if _is_summed(axis):
                value[_at(value, axis.axis, is_new)] = 0
        return value


class _Fresh(Resized):
    """A model whose weights are all initialized anew."""

    def variables(self) -> list[tuple[Any, Any]]:
        """Only the statistics that say what the inputs are like."""
        statistics = {
            id(variable)
            for call in self.graph.calls
            if isinstance(call.operation, layers.Normalization)
            for variable in call.operation.variables
        }
        return [pair for pair in super().variables() if id(pair[0]) in statistics]


def _is_summed(axis: Axis) -> bool:
    """Whether a kernel sums over an axis: that of its inputs."""
    if axis.produces or "kernel" not in axis.attribute:
        return False
    if isinstance(axis.layer, _TRANSPOSED):
        return axis.axis == -1
    depthwise = isinstance(axis.layer, (layers.DepthwiseConv1D, layers.DepthwiseConv2D))
    return axis.axis == -2 and not depthwise and axis.attribute != "depthwise_kernel"


def _at(value: np.ndarray, axis: int, mask: np.ndarray) -> tuple[Any, ...]:
    place: list[Any] = [slice(None)] * value.ndim
    place[axis] = mask
    return tuple(place)


def round_up(config: RoundChannels, source: Source) -> Outcome:
    """Rounds numbers of channels up, with equal outputs."""
    found = _dependencies(source)
    copies = found.everything().astype(np.int64)
    reasons = _unfollowed(found, source)
    for group in found.groups:
        width, step = len(group.classes), group.step(config.to)
        added = -width % step
        reason = _against_growing(found, group) if added else None
        if reason is None:
            copies[group.classes[-1]] += added
        else:
            reasons |= dict.fromkeys(group.layers, reason)
    wider = _Wider(found, copies)
    outcome = _resized(type(config).__name__, source, wider, reasons)
    left = _missed(found, copies, config.to, outcome.layers)
    return Outcome(outcome.model, _ordered(source, (*outcome.layers, *left)))


def multiply(config: Width, source: Source) -> Outcome:
    """Multiplies numbers of channels."""
    found = _dependencies(source)
    copies = found.everything().astype(np.int64)
    reasons = _unfollowed(found, source)
    for group in found.groups:
        width, step = len(group.classes), group.step(config.round_to)
        wanted = divisible(width * config.multiplier, step)
        if wanted <= width:
            copies[group.classes[wanted:]] = 0
            continue
        reason = _against_growing(found, group)
        if reason is None:
            copies[group.classes[-1]] += wanted - width
        else:
            reasons |= dict.fromkeys(group.layers, reason)
    kind = _Fresh if config.weights == "fresh" else _Wider
    outcome = _resized(type(config).__name__, source, kind(found, copies), reasons)
    return Outcome(outcome.model, _ordered(source, outcome.layers))


def divisible(value: float, step: int) -> int:
    """The nearest multiple, at least one, but not below 0.9 of the value.

    As in the code of MobileNets (Sandler et al. 2018, arXiv:1801.04381).

    Example:
        >>> [divisible(value, 8) for value in (16.0, 12.0, 11.0, 1.0)]
        [16, 16, 16, 8]
    """
    rounded = max(step, int(value + step / 2) // step * step)
    return rounded + step if rounded < 0.9 * value else rounded


def _dependencies(source: Source) -> DependencyGraph:
    import re

    rules = [Rule(re.escape(path), skip=True) for path in sorted(source.skipped)]
    return dependencies(source.model, rules)


def _unfollowed(found: DependencyGraph, source: Source) -> dict[str, str]:
    """Path -> why the channels there stay as they are."""
    reasons = {path: f"{text}" for path, text in found.reasons.items()}
    makers = {id(axis.layer) for axis in found.axes if axis.produces}
    for key in makers:
        calls = source.calls[key]
        if source.is_skipped(calls):
            reasons[calls[0].path] = "a rule skips it"
    return reasons


def _against_growing(found: DependencyGraph, group: Group) -> str | None:
    """Why no channel can be added to a group, or None."""
    classes = set(group.classes.tolist())
    for axis in found.axes:
        here = [x in classes for x in axis.channels.tolist()]
        if axis.produces and any(here) and not all(here):
            return "parts of its channels go different ways"
    for call in found.graph.calls:
        for tensor in (*call.inputs, *call.outputs):
            own = [x for x in found.tensors[tensor].tolist() if x in classes]
            repeated = len(own) > len(set(own))
            if repeated and len(classes) == 1:
                return "it has a single channel, which stands in several places"
            if repeated and type(call.operation).__name__ in _TAKING_PARTS:
                return f"{call.path} takes parts of repeated channels"
    return None


def _missed(
    found: DependencyGraph, copies: np.ndarray, to: int, rows: Any
) -> list[LayerReport]:
    """Layers whose number of channels is no multiple, and that have no row yet."""
    paths: dict[int, str] = {}
    for call in found.graph.calls:
        paths.setdefault(id(call.operation), call.path)
    costs, named = by_operation(found.graph), {row.path for row in rows if row.reason}
    missed = []
    for axis in found.axes:
        path = paths[id(axis.layer)]
        count = int(copies[axis.channels].sum())
        if not axis.produces or count % to == 0 or path in named:
            continue
        if any(row.path == path and row.done.startswith("channels") for row in rows):
            continue
        old = costs[id(axis.layer)]
        same = (old.macs or 0,) * 2, (old.params,) * 2
        reason = f"its {count} channels are the model's outputs or join fixed ones"
        missed.append(
            LayerReport(RoundChannels.__name__, path, old.type, "", *same, reason)
        )
    return missed


def _resized(
    option: str, source: Source, rebuild: Resized, reasons: Mapping[str, str]
) -> Outcome:
    """The model of other widths, and a row for each layer that changed."""
    if isinstance(rebuild, _Wider):
        rebuild.random = np.random.default_rng(0)
    changed = bool((rebuild.copies != 1).any())
    model = source.model
    if changed or isinstance(rebuild, _Fresh):
        model = rebuild.model()
    before, after = by_operation(source.graph), by_operation(trace(model))
    rows = []
    for key, (call, *_) in source.calls.items():
        old = before[key]
        new = after.get(id(rebuild.operations.get(key)), old)
        macs, params = (old.macs or 0, new.macs or 0), (old.params, new.params)
        row = (option, call.path, old.type)
        if rebuild.is_changed(call) and params[0] != params[1]:
            rows.append(LayerReport(*row, _done(rebuild, call), macs, params))
        elif call.path in reasons:
            reason = reasons[call.path]
            rows.append(LayerReport(*row, "", macs, params, reason))
    return Outcome(model, tuple(rows))


def _done(rebuild: Resized, call: Any) -> str:
    for name, tensor in (("channels", call.outputs[0]), ("inputs", call.inputs[0])):
        counts = rebuild.kept(tensor)
        if (counts != 1).any():
            return f"{name} {len(counts)} -> {int(counts.sum())}"
    return "channels elsewhere"


def _ordered(source: Source, rows: Any) -> tuple[LayerReport, ...]:
    order = list(dict.fromkeys(call.path for call in source.graph.calls))
    place = {path: number for number, path in enumerate(order)}
    return tuple(sorted(rows, key=lambda row: place.get(row.path, math.inf)))
