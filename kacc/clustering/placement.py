"""Which layers are clustered, and into how many values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kacc.core import registry, rules
from kacc.core.graph import Graph
from kacc.core.registry import matrix_weights
from kacc.core.rules import Rule

_RULE = "a rule skips it"
_FEW = "it has no more weights than clusters"
# The reasons that were asked for, or are of no account.
EXPECTED = (_RULE, _FEW)


@dataclass
class Placement:
    """The layers that are clustered.

    Args:
        layers: path -> layer.
        clusters: path -> a number of its own, by a rule.
        skipped: path -> reason, for layers with kernels that stay as they are.
    """

    layers: dict[str, Any] = field(default_factory=dict)
    clusters: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def place(graph: Graph, clusters: int, per: str, given: Sequence[Rule]) -> Placement:
    """Decides for each layer of a graph.

    Args:
        graph: from `kacc.core.graph.trace`.
        clusters: values for each tensor or channel.
        per: "tensor" or "channel".
        given: rules.

    Returns:
        The `Placement`.
    """
    chosen = rules.of_operations(given, graph.calls)
    placement = Placement()
    seen: set[int] = set()
    for call in graph.calls:
        if id(call.operation) in seen:
            continue
        seen.add(id(call.operation))
        sizes = list(_row_sizes(call.operation, per))
        rule = chosen.get(id(call.operation))
        if not sizes and not _has_others(call.operation, clusters):
            continue
        own = rule.clusters if rule is not None else None
        if rule is not None and rule.skip:
            placement.skipped[call.path] = _RULE
        elif not sizes:
            kind = type(call.operation).__name__
            placement.skipped[call.path] = f"the layer type {kind} is not clustered"
        elif max(sizes) <= (own or clusters):
            placement.skipped[call.path] = _FEW
        else:
            placement.layers[call.path] = call.operation
            if own is not None:
                placement.clusters[call.path] = own
    return placement


def _has_others(operation: Any, clusters: int) -> bool:
    """Whether a layer that is not known to be clustered has matrices to be clustered.

    Of a type that is known, those that are not are few: depthwise kernels, slopes.
    """
    spec = registry.find(operation)
    if spec is not None and spec.weights:
        return False
    return any(
        len(variable.shape) > 1 and np.prod(variable.shape) > clusters
        for variable in getattr(operation, "trainable_variables", ())
    )


def _row_sizes(operation: Any, per: str) -> Any:
    """How many weights are clustered together, for each weight of a layer."""
    for weight, variable in matrix_weights(operation):
        shape = variable.shape
        kept = [axis % len(shape) for axis in weight.channels if per == "channel"]
        yield np.prod([n for i, n in enumerate(shape) if i not in kept], dtype=int)
