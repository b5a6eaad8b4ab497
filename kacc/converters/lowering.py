"""Lowering a frozen graph to StableHLO by TensorFlow's XLA bridge."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from kacc.converters.chatter import to_log
from kacc.converters.trace import FrozenGraph
from kacc.core.errors import ConversionError


def lower(
    graph: FrozenGraph, platforms: Iterable[str], batch: int, target: str
) -> dict[str, bytes]:
    """Lowers a graph for platforms, which need not be on this machine.

    Args:
        graph: the model's inference.
        platforms: "CPU" and "GPU", as TensorFlow names them.
        batch: the batch size; shapes are fixed.
        target: the target's name, for errors.

    Returns:
        By platform the StableHLO module as a portable artifact, weights included.

    Raises:
        ConversionError: if XLA lacks an operator, which it names with its layer.
    """
    import tensorflow as tf

    specs = [tf.TensorSpec((batch, *i.shape[1:]), i.dtype) for i in graph.inputs]
    function = tf.function(graph.calling, jit_compile=True, autograph=False)
    with to_log():
        try:
            compiler = function.experimental_get_compiler_ir(*specs)
            return {
                name: compiler(stage="stablehlo_serialized", platform_name=name)
                for name in platforms
            }
        except Exception as error:
            raise _failed(error, graph, target) from error


def _failed(error: Exception, graph: FrozenGraph, target: str) -> ConversionError:
    text = str(error)
    found = re.findall(r"(\w+) \(No registered.*?\{\{node ([^}]*)\}\}\)", text, re.S)
    # The last node named is the innermost; functions may stand before it.
    culprits = {
        f"{kind} from {graph.layer_of(node) or node}" for kind, node in _nodes(found)
    }
    if culprits:
        return ConversionError(
            f"XLA must have every operator of a model for the target {target!r}",
            received=", ".join(sorted(culprits)),
            fix="Replace these layers, or convert to another target",
        )
    line = next((x.strip() for x in text.splitlines() if x.strip()), "")
    node = re.search(r"\{\{node ([^}]*)\}\}", text)
    layer = graph.layer_of(node.group(1)) if node else None
    return ConversionError(
        f"XLA must be able to compile the model for the target {target!r}",
        received=f"{f'in {layer}: ' if layer else ''}{line}"[:300],
        fix="Set the logger 'kacc.converters' to DEBUG to see what it printed",
    )


def _nodes(found: list[tuple[str, str]]) -> Any:
    for kind, node in found:
        yield kind, node.rsplit("{{node ", 1)[-1]
