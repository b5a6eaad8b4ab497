"""The graph that targets other than TFLite start from."""

from __future__ import annotations

from kacc.converters.request import Request
from kacc.converters.trace import FrozenGraph


def for_export(request: Request) -> FrozenGraph:
    """The model's inference after the passes that leave its outputs equal."""
    return request.graph
