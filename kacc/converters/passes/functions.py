"""Calls of functions, replaced by what the functions do."""

from __future__ import annotations

from typing import Any

from kacc.converters.passes.graph import Graph, canonical


def inline_functions(graph: Graph) -> None:
    """Puts the operations of called functions in the place of the calls.

    Keras calls its grouped convolutions as functions that XLA compiles. A function of
    several results, one with a state and one that calls others stays a function, as do
    the bodies of loops.

    Args:
        graph: is changed.
    """
    functions = {f.signature.name: f for f in graph.library.function}
    for node in graph.of("PartitionedCall", "StatefulPartitionedCall"):
        function = functions.get(node.attr["f"].func.name)
        if function is None or graph.is_tied(node) or not _is_plain(function):
            continue
        nodes, result = _body(function, node)
        graph.inline(node.name, nodes, result)


def _is_plain(function: Any) -> bool:
    from tensorflow.python.framework import op_def_registry

    if len(function.signature.output_arg) != 1:
        return False
    for node in function.node_def:
        definition = op_def_registry.get(node.op)
        if definition is None or definition.is_stateful:
            return False
        if any(attr.HasField("func") for attr in node.attr.values()):
            return False
    return True


def _body(function: Any, call: Any) -> tuple[list[Any], str]:
    """The function's nodes, named below the call, and the tensor that it returns."""
    from tensorflow.python.framework.function_def_to_graph import (
        function_def_to_graph_def,
    )

    body, flat = function_def_to_graph_def(function)
    arguments = [arg.name for arg in function.signature.input_arg]
    given = dict(zip(arguments, call.input, strict=False))

    def renamed(tensor: str) -> str:
        if tensor[0] == "^":
            return f"^{call.name}/{tensor[1:]}"
        tensor = canonical(tensor)
        return given.get(tensor, f"{call.name}/{tensor}")

    nodes = []
    for node in body.node:
        if node.name in given:
            continue
        inputs = [renamed(tensor) for tensor in node.input]
        node.name = f"{call.name}/{node.name}"
        del node.input[:]
        # An order among operations without a state says nothing.
        node.input.extend(tensor for tensor in inputs if tensor[0] != "^")
        nodes.append(node)
    (returned,) = function.ret.values()
    return nodes, renamed(flat[returned])
