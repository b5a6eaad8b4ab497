"""Lowering a frozen graph to StableHLO by TensorFlow's XLA bridge."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from kacc.converters.chatter import logger, to_log
from kacc.converters.frozen_graph import FrozenGraph
from kacc.converters.stablehlo_weights import Module, with_constants
from kacc.core.errors import ConversionError


def lower(
    graph: FrozenGraph, platforms: Iterable[str], batch: int, target: str
) -> dict[str, Module]:
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
    platforms = list(platforms)
    with to_log():
        try:
            return _lowered_apart(graph, platforms, batch)
        except Exception as error:  # of an operator that XLA lacks: then it comes again
            logger.info("weights are lowered with the graph: %s", error)
        try:
            return _lowered_whole(graph, platforms, batch)
        except Exception as error:
            raise _failed(error, graph, target) from error


def _lowered_apart(
    graph: FrozenGraph, platforms: list[str], batch: int
) -> dict[str, Module]:
    """Lowers a graph without its weights, for which there are places in the modules."""
    import tensorflow as tf

    weights = {name: graph.weights[name] for name in graph.read_weights}
    specs = [
        *_specs(graph, batch),
        *(tf.TensorSpec(w.shape, w.dtype) for w in weights.values()),
    ]
    names = [*graph.input_tensors, *(f"{name}:0" for name in weights)]

    def call(*tensors: Any) -> list[Any]:
        return graph.given(dict(zip(names, tensors, strict=True)))

    compiler = _compiler(call, specs)
    return {
        name: with_constants(
            str(compiler(stage="stablehlo", platform_name=name)), [*weights.values()]
        )
        for name in platforms
    }


def _lowered_whole(
    graph: FrozenGraph, platforms: list[str], batch: int
) -> dict[str, Module]:
    compiler = _compiler(graph.calling, _specs(graph, batch))
    return {
        name: Module(compiler(stage="stablehlo_serialized", platform_name=name))
        for name in platforms
    }


def _specs(graph: FrozenGraph, batch: int) -> list[Any]:
    import tensorflow as tf

    return [tf.TensorSpec((batch, *i.shape[1:]), i.dtype) for i in graph.inputs]


def _compiler(call: Callable[..., Any], specs: list[Any]) -> Any:
    import tensorflow as tf

    function = tf.function(call, jit_compile=True, autograph=False)
    return function.experimental_get_compiler_ir(*specs)


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
