"""Passes over a frozen graph that targets share: less to compute, the same outputs.

Each pass takes a `Graph`, a working copy, and changes it. `optimized` runs all of them;
`applied` runs those that are named.
"""

from __future__ import annotations

from kacc.converters.frozen_graph import FrozenGraph
from kacc.converters.passes.affine import fold_affine
from kacc.converters.passes.constants import fold_constants
from kacc.converters.passes.functions import inline_functions
from kacc.converters.passes.graph import Graph, Pass
from kacc.converters.passes.identities import drop_identities
from kacc.converters.passes.merging import merge_affine
from kacc.converters.passes.shapes import fix_reshapes

__all__ = [
    "applied",
    "drop_identities",
    "fix_reshapes",
    "fold_affine",
    "fold_constants",
    "inline_functions",
    "merge_affine",
    "optimized",
]

_KEEPING_NUMBERS: tuple[Pass, ...] = (
    inline_functions,
    drop_identities,
    fold_constants,
    fix_reshapes,
    drop_identities,
)
# A chain in front of padding is to be short before its factor can be folded.
_FOLDING: tuple[Pass, ...] = (fold_affine, merge_affine, fold_affine)


def optimized(graph: FrozenGraph, quantized: bool = False) -> FrozenGraph:
    """The graph with as little to compute as is known to leave its outputs equal.

    Functions are inlined, identities dropped, operations on constants computed once,
    and factors and summands, such as those of batch normalization, Rescaling and
    Normalization, folded into kernels and biases.

    Args:
        graph: stays as it is.
        quantized: whether the model is quantized. Its weights lie on grids that a
            factor would move them off, so that nothing is folded into them.

    Returns:
        A graph of the same inputs and outputs. Tensors that are outputs may have other
        names; an operation that was folded into keeps its own.

    Example:
        >>> import keras
        >>> from kacc.converters.trace import freeze
        >>> model = keras.Sequential([keras.Input((8, 8, 3)),
        ...                           keras.layers.Conv2D(4, 3, use_bias=False),
        ...                           keras.layers.BatchNormalization()])
        >>> [n.op for n in optimized(freeze(model)).graph_def.node if n.op != "Const"]
        ['Placeholder', 'Conv2D']
    """
    passes = _KEEPING_NUMBERS if quantized else (*_KEEPING_NUMBERS, *_FOLDING)
    return applied(graph, *passes)


def applied(graph: FrozenGraph, *passes: Pass) -> FrozenGraph:
    """The graph after some passes, in that order.

    Args:
        graph: stays as it is.
        passes: such as `fold_constants`.

    Returns:
        A new graph.
    """
    working = Graph(graph)
    for change in passes:
        change(working)
    return working.frozen()
