"""Which layers are pruned, and how far."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from kacc.core import left, registry, rules
from kacc.core.graph import Call, Graph, Tensor
from kacc.core.registry import matrix_weights
from kacc.core.rules import Rule
from kacc.pruning.config import Block, Method, NOfM, target_of

_RULE = "a rule skips it"
_FIRST, _LAST = "it is the first layer", "it is the last layer"
# The reasons that were asked for.
EXPECTED = (_RULE, _FIRST, _LAST)


@dataclass
class Placement:
    """The layers that are pruned.

    Args:
        layers: path -> layer.
        targets: path -> a sparsity of its own, by a rule.
        skipped: path -> reason, for layers with weights that stay dense.
    """

    layers: dict[str, Any] = field(default_factory=dict)
    targets: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def place(
    graph: Graph, method: Method, given: Sequence[Rule], keep_ends: bool
) -> Placement:
    """Decides for each layer of a graph.

    Args:
        graph: from `kacc.core.graph.trace`.
        method: the method.
        given: rules; one with a sparsity overrides `keep_ends`.
        keep_ends: whether the first and the last layer stay dense.

    Returns:
        The `Placement`.
    """
    chosen = rules.of_operations(given, graph.calls)
    ends = _ends(graph) if keep_ends else {}
    shared = left.read_elsewhere(graph)
    placement = Placement()
    seen: set[int] = set()
    for call in graph.calls:
        unknown = left.unknown_type(call.operation, "pruned")
        known = _has_weights(call.operation)
        if id(call.operation) in seen or not (known or unknown):
            continue
        seen.add(id(call.operation))
        rule = chosen.get(id(call.operation))
        target = None if rule is None else rule.sparsity
        reason = _reason(call, method, rule) or unknown
        if reason is None:
            reason = shared.get(id(call.operation))
        if reason is None and target is None:
            reason = ends.get(id(call.operation))
        if reason is not None:
            placement.skipped[call.path] = reason
            continue
        placement.layers[call.path] = call.operation
        if target is not None:
            placement.targets[call.path] = target_of(method, target)
    return placement


def _has_weights(operation: Any) -> bool:
    return any(True for _ in matrix_weights(operation))


def _reason(call: Call, method: Method, rule: Rule | None) -> str | None:
    if rule is not None and rule.skip:
        return _RULE
    if isinstance(method, (Block, NOfM)):
        reason = registry.unsupported_reason(call.operation)
        return reason and f"which axis has its inputs is not known: {reason}"
    return None


def _ends(graph: Graph) -> dict[int, str]:
    """The layers with no prunable layer before them, and those with none behind.

    The first sees few channels and the last makes the decision: pruning either costs
    more than it saves (Han et al. 2015, arXiv:1506.02626; Gale et al. 2019,
    arXiv:1902.09574). Neither holds for a table, which is often most of a model.
    """
    matrices = [call for call in graph.calls if _has_weights(call.operation)]
    calls = [call for call in matrices if not any(registry.tables(call.operation))]
    before = _reached(graph.calls, lambda c: c.inputs, lambda c: c.outputs)
    behind = _reached(graph.calls[::-1], lambda c: c.outputs, lambda c: c.inputs)
    ends: dict[int, str] = {}
    for reached, reason in ((behind, _LAST), (before, _FIRST)):
        inner = {id(call.operation) for call in calls if call in reached}
        for call in calls:
            if id(call.operation) not in inner:
                ends[id(call.operation)] = reason
    return ends


def _reached(calls: Iterable[Call], reads: Any, makes: Any) -> set[Call]:
    """The calls that are reached from a layer with weights, in the given direction."""
    touched: set[Tensor] = set()
    reached: set[Call] = set()
    for call in calls:
        if any(tensor in touched for tensor in reads(call)):
            reached.add(call)
        if call in reached or _has_weights(call.operation):
            touched.update(makes(call))
    return reached
