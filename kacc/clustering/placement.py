"""Which layers are clustered, and into how many values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kacc.core import left, rules
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
    shared = left.read_elsewhere(graph)
    placement = Placement()
    seen: set[int] = set()
    for call in graph.calls:
        if id(call.operation) in seen:
            continue
        seen.add(id(call.operation))
        sizes = list(_row_sizes(call.operation, per))
        rule = chosen.get(id(call.operation))
        unknown = left.unknown_type(call.operation, "clustered", few=clusters)
        if not sizes and unknown is None:
            continue
        own = rule.clusters if rule is not None else None
        if rule is not None and rule.skip:
            placement.skipped[call.path] = _RULE
        elif unknown is not None:
            placement.skipped[call.path] = unknown
        elif id(call.operation) in shared:
            placement.skipped[call.path] = shared[id(call.operation)]
        elif max(sizes) <= (own or clusters):
            placement.skipped[call.path] = _FEW
        else:
            placement.layers[call.path] = call.operation
            if own is not None:
                placement.clusters[call.path] = own
    return placement


def _row_sizes(operation: Any, per: str) -> Any:
    """How many weights are clustered together, for each weight of a layer."""
    for weight, variable in matrix_weights(operation):
        shape = variable.shape
        kept = [axis % len(shape) for axis in weight.channels if per == "channel"]
        yield np.prod([n for i, n in enumerate(shape) if i not in kept], dtype=int)
