"""One step of restructuring: from a model to the next, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import keras
import numpy as np

from kacc.core import rebuild
from kacc.core.cost import by_operation
from kacc.core.graph import Call, Graph, fill, trace
from kacc.core.samples import flat_inputs, run
from kacc.restructuring.report import LayerReport


@dataclass(frozen=True, eq=False)
class Source:
    """The model that an option is applied to, plain.

    Args:
        model: is left alone.
        skipped: paths of layers that rules skip.
        batches: of calibration data, or none.
    """

    model: keras.Model
    skipped: frozenset[str] = frozenset()
    batches: Sequence[Any] = ()
    _names: set[str] = field(default_factory=set)

    @cached_property
    def graph(self) -> Graph:
        """The flat graph."""
        return trace(self.model)

    @cached_property
    def calls(self) -> dict[int, list[Call]]:
        """Id of each operation -> its calls, in the order of the first ones."""
        table: dict[int, list[Call]] = {}
        for call in self.graph.calls:
            table.setdefault(id(call.operation), []).append(call)
        return table

    @cached_property
    def consumers(self) -> dict[Any, list[tuple[Call, int]]]:
        """For each tensor the calls that read it, with the position of the input."""
        return self.graph.consumers()

    @cached_property
    def producers(self) -> dict[Any, Call]:
        """For each tensor but the inputs, the call that makes it."""
        return self.graph.producers()

    @cached_property
    def outputs(self) -> frozenset[Any]:
        """The tensors that are the model's outputs."""
        return frozenset(self.graph.outputs)

    def is_skipped(self, calls: Sequence[Call]) -> bool:
        """Whether a rule skips a layer at one of its paths."""
        return any(call.path in self.skipped for call in calls)

    def new_name(self, wanted: str) -> str:
        """A name for a new layer that no other one has."""
        if not self._names:
            self._names.update(layer.name for layer in self.model._flatten_layers())
        name, count = wanted, 1
        while name in self._names:
            count += 1
            name = f"{wanted}_{count}"
        self._names.add(name)
        return name

    def run(self, apply: Any) -> None:
        """Runs the calibration data through the graph.

        Args:
            apply: `apply(call, args, kwargs)` gives a call's result, or None to have
                it computed as it is.
        """

        def step(call: Call, values: list[Any]) -> Any:
            args, kwargs = fill(call, values)
            result = apply(call, args, kwargs)
            return run(call.operation, args, kwargs) if result is None else result

        for batch in self.batches:
            self.graph.run(flat_inputs(self.model, batch), step)


@dataclass(frozen=True, eq=False)
class Change:
    """What stands in the place of a layer or operator.

    Args:
        layers: new and unbuilt, run one after another; none at all passes the input on.
        done: what the report says of it.
        weights: for each layer its weights, or None for one that has none. None for a
            single layer that takes those of the old one.
    """

    layers: tuple[Any, ...]
    done: str
    weights: tuple[Sequence[np.ndarray] | None, ...] | None = ()


@dataclass(frozen=True, eq=False)
class Outcome:
    """The model after a step, and what was done to each layer."""

    model: keras.Model
    layers: tuple[LayerReport, ...]


class _Replaced(rebuild.Rebuild):
    def __init__(self, source: Source, changes: Mapping[int, Change]) -> None:
        super().__init__(source.model, source.graph)
        self.changes = changes

    def is_changed(self, call: Call) -> bool:
        return id(call.operation) in self.changes

    def made(self, call: Call) -> Any:
        change = self.changes.get(id(call.operation))
        if change is None:
            return super().made(call)
        return change.layers[0] if change.weights is None else change.layers

    def model(self) -> keras.Model:
        new = super().model()
        for change in self.changes.values():
            for layer, weights in zip(
                change.layers, change.weights or (), strict=False
            ):
                if weights is not None:
                    layer.set_weights(weights)
        return new


def replaced(
    option: str,
    source: Source,
    changes: Mapping[int, Change],
    reasons: Mapping[int, str],
) -> Outcome:
    """Makes the model in which some layers are replaced.

    Args:
        option: name of what was asked for.
        source: the model before.
        changes: id of an operation -> what stands in its place.
        reasons: id of an operation -> why it was left alone.

    Returns:
        The new model, or the old one if nothing changes, and a row for each operation
        that is named.
    """
    model = _Replaced(source, changes).model() if changes else source.model
    before = by_operation(source.graph)
    after = by_operation(trace(model)) if changes else before
    rows = []
    for key, (call, *_) in source.calls.items():
        old = before[key]
        kind, macs, params = old.type, old.macs or 0, old.params
        if key in changes:
            change = changes[key]
            costs = [after[id(layer)] for layer in change.layers]
            pairs = (
                (macs, sum(x.macs or 0 for x in costs)),
                (params, sum(x.params for x in costs)),
            )
            rows.append(LayerReport(option, call.path, kind, change.done, *pairs))
        elif key in reasons:
            same = (macs, macs), (params, params)
            rows.append(LayerReport(option, call.path, kind, "", *same, reasons[key]))
    return Outcome(model, tuple(rows))
