"""Chains of multiplications and additions of constants, made shorter."""

from __future__ import annotations

import numpy as np

from kacc.converters.passes.graph import Graph
from kacc.converters.passes.linear import FLOAT
from kacc.converters.passes.operations import (
    Affine,
    affine,
    affine_of,
    loses_digits,
)


def merge_affine(graph: Graph) -> None:
    """Makes a chain one multiplication and one addition, where it has more.

    Such chains are Rescaling and Normalization, one behind the other, and batch
    normalizations that stand for themselves.

    Args:
        graph: is changed.
    """
    merged: set[str] = set()
    for node in graph.ordered():
        shape = graph.shape(node.name)
        if node.name in merged or node.name not in graph.nodes or not shape:
            continue
        like = tuple(size or 1 for size in shape)
        first = affine_of(graph, node, like)
        if first is None or graph.shape(node.input[first.data]) != shape:
            continue
        chain = _chain(graph, first, like)
        merged.update(found.node.name for found in chain)
        _merge(graph, chain)


def _chain(graph: Graph, first: Affine, like: tuple[int, ...]) -> list[Affine]:
    chain = [first]
    while (reader := graph.only_reader(chain[-1].node.name)) is not None:
        found = affine(graph, *reader, like)
        if found is None:
            break
        chain.append(found)
    return chain


def _merge(graph: Graph, chain: list[Affine]) -> None:
    scale, shift, behind = np.ones(()), np.zeros(()), np.ones(())
    for index, found in reversed(list(enumerate(chain))):
        shifted = any(np.any(x.scale != 1) for x in chain[:index])
        if np.any(found.shift) and loses_digits(found, behind, shifted):
            return
        behind = behind * found.scale
    for found in chain:
        scale, shift = scale * found.scale, shift * found.scale + found.shift
    wanted = [
        (kind, name, value.astype(np.float32))
        for kind, name, value, neutral in (
            ("Mul", "scale", scale, 1.0),
            ("AddV2", "shift", shift, 0.0),
        )
        if np.any(value != neutral)
    ]
    if len(wanted) >= len(chain) or not wanted:
        return
    if not all(np.all(np.isfinite(value)) for *_, value in wanted):
        return
    last = chain[-1].node
    tensor = chain[0].node.input[chain[0].data]
    shape = graph.shape(last.name)
    for kind, name, value in wanted:
        constant = graph.add_constant(f"{last.name}/{name}", np.asarray(value))
        inputs = [tensor, constant]
        tensor = graph.add(kind, f"{last.name}/{kind}", inputs, shape, T=FLOAT)
    graph.replace(last.name, tensor)
