"""Quantization carried over to the parts: integers at a cut mean the same in both.

A part is attached like any model, by rules that spell out what the whole had. Ranges
come from the whole; where the part has a tensor that was none of the layer's in the
whole, as at its inputs, it is the range of whoever made that tensor.
"""

from __future__ import annotations

import re
from typing import Any

import keras

from kacc.converters.signature import signature_of
from kacc.core import recipe, registry
from kacc.core.errors import UsageError
from kacc.core.graph import Call, Tensor, trace
from kacc.core.registry import Output
from kacc.core.rules import Rule
from kacc.quantization.config import scheme_named
from kacc.quantization.integer import Grid
from kacc.quantization.model import (
    TECHNIQUE,
    attach_quantization,
    placement_of,
    rules_config,
    skipped_by_rules,
)
from kacc.quantization.simulation import Simulation
from kacc.quantization.transform import (
    Quantize,
    grid_named,
    quantize_of,
    require_quantize,
)
from kacc.quantization.widths import weight_widths
from kacc.splitting.build import Builder


class CutError(UsageError):
    """A cut after which the parts' files could not be pieces of the whole file."""


class Ranges:
    """The ranges of a quantized model's tensors.

    Args:
        model: the whole model.
    """

    def __init__(self, model: keras.Model) -> None:
        self.settings = recipe.recipe_of(model)[TECHNIQUE]
        self.simulation = Simulation(model)
        self.placement = self.simulation.placement
        self.producers = self.simulation.graph.producers()
        self.skipped = skipped_by_rules(model)

    def of(self, tensor: Tensor) -> tuple[Quantize, str] | None:
        """Who holds the range of a tensor, and its name there; None if it has none."""
        call = self.producers.get(tensor)
        if tensor in self.simulation.entering:
            return self.simulation.entering[tensor]
        spec = registry.find(call.operation) if call else None
        if call is None or spec is None or call.path in self.placement.skipped:
            return self._behind(tensor)
        if spec.output is Output.RANGE:
            return self.simulation.output_range(call) or self._behind(tensor)
        return self.of(call.inputs[0])

    def _behind(self, tensor: Tensor) -> tuple[Quantize, str] | None:
        """Of a float tensor, the range that whoever reads it moved has for it.

        A reshape inside a `call` holds no range; in a part it is an operator that does.
        """
        for reader, _ in self.simulation.readers.get(tensor, []):
            spec = registry.find(reader.operation)
            moves = spec is not None and spec.output in (Output.SAME, Output.IDENTITY)
            if moves and reader.path not in self.placement.skipped:
                output = reader.outputs[0]
                if output in self.simulation.entering:
                    return self.simulation.entering[output]
                return self._behind(output)
        return None

    def attach(self, builder: Builder, part: keras.Model) -> None:
        """Quantizes a part as the whole is.

        Args:
            builder: that made the part.
            part: a plain model, which is changed in place.

        Raises:
            CutError: if the part's file could not be a piece of the whole's.
        """
        settings = {**self.settings, "rules": self._rules(builder, part)}
        attach_quantization(part, settings, report=False)
        taken = set(builder.stretch.takes)
        # What is read first at a cut comes last: a layer of several calls reads the
        # others as integers.
        for call in sorted(
            builder.calls, key=lambda c: any(self._source(t) in taken for t in c.inputs)
        ):
            old, new = call.operation, builder.operations[id(call.operation)]
            transform = quantize_of(new)
            if transform is not None:
                self._carry(call, quantize_of(old), transform)
        self._require_equal(builder, part)

    def _source(self, tensor: Tensor) -> Tensor:
        """The tensor itself, or the one that layers gone at inference hand on."""
        call = self.producers.get(tensor)
        spec = registry.find(call.operation) if call else None
        if call is None or spec is None or spec.output is not Output.IDENTITY:
            return tensor
        return self._source(call.inputs[0])

    def _require_equal(self, builder: Builder, part: keras.Model) -> None:
        """A layer reads all its inputs by one range, in the whole maybe by several."""
        graph = trace(part)
        entering = placement_of(part, graph).entering
        names = builder.layout.tensor_names
        taken = {names[tensor]: tensor for tensor in builder.stretch.takes}
        for info, tensor in zip(
            signature_of(part, None).inputs, graph.inputs, strict=True
        ):
            reader, held = entering.get(tensor), self.of(taken[info.name])
            if reader is None or held is None:
                continue
            own = grid_named(require_quantize(reader[0]), reader[1])
            if not _equal(own, grid_named(*held)):
                raise CutError(
                    "Each tensor that crosses a cut must keep its range",
                    received=f"{info.name!r}, read by a shared layer with another one",
                    fix="Cut elsewhere",
                )

    def _rules(self, builder: Builder, part: keras.Model) -> list[dict[str, Any]]:
        """What each layer of the part must be told, so that it is as in the whole."""
        graph = trace(part)
        scheme = scheme_named(self.settings["scheme"])
        widths = weight_widths(graph, scheme, {})
        rules = {}
        for call in builder.calls:
            new = builder.operations[id(call.operation)]
            old = quantize_of(call.operation)
            left = call.path in self.placement.skipped
            could = registry.unsupported_reason(call.operation) is None
            if call.path in self.skipped or (left and could):
                rules[new.name] = Rule(re.escape(new.name), skip=True)
            elif old is not None and widths.get(id(new)) not in (None, old.weight_bits):
                bits = old.weight_bits
                rules[new.name] = Rule(re.escape(new.name), bits=bits)
        return rules_config(list(rules.values()))

    def _carry(self, call: Call, old: Quantize | None, new: Quantize) -> None:
        if old is not None:
            new.take_ranges(old)
            new.freeze(old.frozen)
            new.enabled = old.enabled
        known = set(old.ranges) if old is not None else set()
        lost = {name for name in known - set(new.ranges) if name[:6] != "input_"}
        if lost:
            raise CutError(
                "A cut must leave the operators of the file as they are",
                received=f"one that takes {sorted(lost)} from the layer {call.path!r}",
                fix="Cut elsewhere: not between the calls of a shared layer",
            )
        for name in set(new.ranges) - known:
            new.set_range(name, *self._ends(call, name))

    def _ends(self, call: Call, name: str) -> tuple[float, float]:
        """The range in the whole of a tensor that the part's layer reads or makes."""
        side, _, number = name.partition("_")
        tensor = call.inputs[int(number)] if side == "input" else call.outputs[0]
        held = self.of(tensor)
        if held is None or (side not in ("input", "output")):
            raise CutError(
                "A cut must be at a tensor that is integers in the file of the whole",
                received=f"{name!r} of the layer {call.path!r}",
                fix="Cut elsewhere",
            )
        return held[0].given_ends(held[1])


def _equal(a: Grid, b: Grid) -> bool:
    scales = float(a.scale32), float(b.scale32)
    return scales[0] == scales[1] and float(a.zero) == float(b.zero)
