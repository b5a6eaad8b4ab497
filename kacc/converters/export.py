"""The graph that targets other than TFLite start from."""

from __future__ import annotations

from kacc.converters.frozen_graph import FrozenGraph
from kacc.converters.passes import applied, optimized
from kacc.converters.passes.precision import in_half_precision
from kacc.converters.request import Request


def for_export(request: Request) -> FrozenGraph:
    """The model's inference after the passes, in the type that it is to compute in."""
    graph = optimized(request.graph, quantized=request.scheme is not None)
    compute = request.export.compute or "float32"
    return graph if compute == "float32" else applied(graph, in_half_precision(compute))
