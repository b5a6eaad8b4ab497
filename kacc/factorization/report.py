"""What was done to each layer, as figures and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kacc.core.shown import change


@dataclass(frozen=True)
class LayerReport:
    """One layer with kernels, before and after, for one sample.

    Args:
        path: of the layer in the old model.
        type: name of its class.
        method: "svd", "channel_out", "channel_in", "spatial" or "tucker"; None for a
            layer that was left alone.
        ranks: of the factors, one or two.
        full: the ranks that would keep everything.
        macs: multiply-accumulates before and after.
        params: entries of its variables before and after.
        kept: the share of the energy of its weights that is kept, or with calibration
            of its outputs and, for a part, weights; 1 of a layer that was left alone.
        reason: why it was left alone, or "".
    """

    path: str
    type: str
    method: str | None
    ranks: tuple[int, ...]
    full: tuple[int, ...]
    macs: tuple[int, int]
    params: tuple[int, int]
    kept: float
    reason: str = ""


def text(title: str, layers: Sequence[LayerReport]) -> str:
    """A line for the whole and one for each layer."""
    lines = [title]
    for layer in layers:
        if layer.method is None:
            lines.append(f"  {layer.path}: left alone, {layer.reason}")
            continue
        figures = zip(
            [name for name, _ in _COLUMNS[2:-1]], _cells(layer)[2:-1], strict=True
        )
        said = ", ".join(f"{name} {value}" for name, value in figures)
        lines.append(f"  {layer.path}: {layer.method}, {said}")
    return "\n".join(lines)


def rich_view(title: str, layers: Sequence[LayerReport]) -> Any:
    """A table for a rich console."""
    from rich.table import Table

    table = Table(title=title, box=None, title_justify="left")
    for name, justify in _COLUMNS:
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for layer in layers:
        table.add_row(*_cells(layer))
    return table


_COLUMNS = (
    ("layer", "left"),
    ("method", "left"),
    ("rank", "right"),
    ("MACs", "right"),
    ("parameters", "right"),
    ("energy kept", "right"),
    ("left alone because", "left"),
)


def _cells(layer: LayerReport) -> tuple[str, ...]:
    if layer.method is None:
        macs, params = f"{layer.macs[0]:,}", f"{layer.params[0]:,}"
        return layer.path, "-", "-", macs, params, "-", layer.reason
    ranks, full = ("x".join(map(str, numbers)) for numbers in (layer.ranks, layer.full))
    return (
        layer.path,
        layer.method,
        f"{ranks} of {full}",
        change(layer.macs),
        change(layer.params),
        f"{layer.kept:.1%}",
        "",
    )
