"""The operators of an artefact as a table, as a record, and as a picture by layer."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.box import SIMPLE
from rich.table import Table

from kacc.converters.formats.base import Operation
from kacc.core.errors import UsageError
from kacc.report.plot import DOTS_PER_INCH, bars

_MOST_BARS = 60  # layers that a picture shows apart


@dataclass(frozen=True)
class LayerShare:
    """What a layer has of an artefact: its weights' bytes, and its products."""

    layer: str
    bytes: int
    macs: int


def by_layer(operations: Sequence[Operation]) -> list[LayerShare]:
    """Bytes and multiply-accumulates of each layer, in the order of their operators.

    Example:
        >>> row = Operation("conv", "CONV_2D", (1, 4), "int8", bytes=10, macs=40)
        >>> by_layer([row, row])
        [LayerShare(layer='conv', bytes=20, macs=80)]
    """
    totals: dict[str, tuple[int, int]] = {}
    for row in operations:
        weights, products = totals.get(row.layer, (0, 0))
        totals[row.layer] = weights + row.bytes, products + row.macs
    return [LayerShare(layer, *figures) for layer, figures in totals.items()]


def operators_table(operations: Sequence[Operation]) -> Table:
    """The operators in the order in which they run, and their sum."""
    weights = sum(row.bytes for row in operations)
    products = sum(row.macs for row in operations)
    columns = [
        ("layer", f"{len(operations)} operators", [row.layer for row in operations]),
        ("operator", "", [row.kind for row in operations]),
        ("output", "", [_shape(row) for row in operations]),
        ("type", "", [row.dtype for row in operations]),
        ("scale", "", [_number(row.scale, ".6g") for row in operations]),
        ("zero point", "", [_number(row.zero_point, "d") for row in operations]),
        ("weight bytes", f"{weights:,}", [_count(row.bytes) for row in operations]),
        ("MACs", f"{products:,}", [_count(row.macs) for row in operations]),
    ]
    shown = [column for column in columns if any(column[2])]
    table = Table(box=SIMPLE, show_footer=True)
    for heading, footer, _ in shown:
        numeric = heading in ("scale", "zero point", "weight bytes", "MACs")
        side: Literal["left", "right"] = "right" if numeric else "left"
        table.add_column(heading, footer, justify=side, overflow="fold")
    for cells in zip(*[column[2] for column in shown], strict=True):
        table.add_row(*cells)
    return table


def _shape(row: Operation) -> str:
    return " x ".join("any" if n is None else str(n) for n in row.output)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _count(value: int) -> str:
    return f"{value:,}" if value else ""


def operators_record(operations: Sequence[Operation]) -> list[dict[str, Any]]:
    """The operators as JSON can hold them."""
    return [asdict(row) for row in operations]


def layers_plot(operations: Sequence[Operation], title: str) -> bytes:
    """Draws weight bytes and multiply-accumulates by layer.

    Args:
        operations: of an artefact. Layers with neither are left out; of many layers
            the smallest are drawn as one.
        title: the heading.

    Returns:
        The content of a PNG file.

    Raises:
        UsageError: if no layer has weights or products.

    Example:
        >>> row = Operation("conv", "CONV_2D", (1, 4), "int8", bytes=10, macs=40)
        >>> layers_plot([row], "model")[1:4]
        b'PNG'
    """
    if not any(x.bytes or x.macs for x in operations):
        raise UsageError("There must be a layer with weights to draw", received=title)
    layers = _largest([x for x in by_layer(operations) if x.bytes or x.macs])
    figure = Figure(figsize=(10, 1.2 + 0.24 * len(layers)), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    names = [layer.layer for layer in layers]
    sizes = [layer.bytes / 1024 for layer in layers]
    products = [layer.macs / 1e6 for layer in layers]
    bars(left, "weights, KiB", names, sizes, [f"{x:,.1f}" for x in sizes], False)
    bars(right, "million MACs", names, products, [f"{x:,.2f}" for x in products], False)
    left.invert_yaxis()  # the axes share it
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, weight="bold")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DOTS_PER_INCH)
    return content.getvalue()


def _largest(layers: list[LayerShare]) -> list[LayerShare]:
    if len(layers) <= _MOST_BARS:
        return layers
    total = max(sum(x.bytes for x in layers), 1), max(sum(x.macs for x in layers), 1)
    ranked = sorted(
        layers, key=lambda x: x.bytes / total[0] + x.macs / total[1], reverse=True
    )
    kept = set(ranked[: _MOST_BARS - 1])
    rest = [x for x in layers if x not in kept]
    others = LayerShare(
        f"{len(rest)} others", sum(x.bytes for x in rest), sum(x.macs for x in rest)
    )
    return [*[x for x in layers if x in kept], others]
