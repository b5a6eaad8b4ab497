"""How many bits the weights of each layer get: by the scheme, and by rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kacc.core import registry
from kacc.core.errors import UsageError
from kacc.core.graph import Call, Graph, Tensor
from kacc.core.rules import Rule
from kacc.quantization.config import Scheme


def weight_widths(
    graph: Graph, scheme: Scheme, chosen: Mapping[str, Rule]
) -> dict[int, int]:
    """The width of the weights of each layer that has some: id of the layer -> bits.

    Below 8 bits the first and the last layers keep 8, as the literature does (Esser et
    al. 2020, arXiv:1902.08153, section 3), and so do those whose operator takes no
    fewer. A rule with `bits` comes before all that.

    Args:
        graph: of the model.
        scheme: gives the width of the others.
        chosen: path -> the rule for it.

    Raises:
        UsageError: for a rule with fewer bits than the layer's operator takes.
    """
    outer = _outer_layers(graph) if scheme.weight_bits < 8 else set()
    widths: dict[int, int] = {}
    for call in graph.calls:
        spec = registry.find(call.operation)
        if spec is None or not spec.weights:
            continue
        least = max(weight.least_bits for weight in spec.weights)
        rule = chosen.get(call.path)
        if rule is not None and rule.bits is not None:
            _require(rule.bits >= least, rule.bits, call.path, call.operation)
            widths[id(call.operation)] = rule.bits
        else:
            least = 8 if call in outer else least
            widths.setdefault(id(call.operation), max(scheme.weight_bits, least))
    return widths


def _require(fits: bool, bits: int, path: str, operation: Any) -> None:
    if not fits:
        raise UsageError(
            f"LiteRT's operator for the layer {path!r} takes no {bits} bit weights",
            received=f"a {type(operation).__name__} and a rule with bits={bits}",
            fix="Give the rule bits=8",
        )


def _outer_layers(graph: Graph) -> set[Call]:
    """The calls with no sum of products before them, or none behind them."""
    first = _first_layers(graph.calls, lambda c: c.inputs, lambda c: c.outputs)
    backwards = tuple(reversed(graph.calls))
    last = _first_layers(backwards, lambda c: c.outputs, lambda c: c.inputs)
    return first | last


def _first_layers(calls: Any, reads: Any, makes: Any) -> set[Call]:
    behind: set[Tensor] = set()
    first: set[Call] = set()
    for call in calls:
        spec = registry.find(call.operation)
        has_weights = spec is not None and bool(spec.weights)
        if any(tensor in behind for tensor in reads(call)):
            behind.update(makes(call))
        elif has_weights:
            first.add(call)
            behind.update(makes(call))
    return first
