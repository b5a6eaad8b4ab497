"""What was done to each layer, as figures and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kacc.core.shown import change


@dataclass(frozen=True)
class LayerReport:
    """What one option did to one layer, for one sample.

    Args:
        option: name of its class.
        path: of the layer in the model that the option was given.
        type: name of the layer's class.
        done: what was done, or "" if it was left alone.
        macs: multiply-accumulates of the layer, and of what stands in its place.
        params: entries of variables of the same.
        reason: why it was left alone, or "".
    """

    option: str
    path: str
    type: str
    done: str
    macs: tuple[int, int]
    params: tuple[int, int]
    reason: str = ""


def text(title: str, layers: Sequence[LayerReport]) -> str:
    """A line for the whole and one for each layer."""
    lines = [title]
    for layer in layers:
        start = f"  {layer.option}, {layer.path}: "
        if not layer.done:
            lines.append(f"{start}left alone, {layer.reason}")
            continue
        macs, params = change(layer.macs), change(layer.params)
        lines.append(f"{start}{layer.done}, MACs {macs}, parameters {params}")
    return "\n".join(lines)


def rich_view(title: str, layers: Sequence[LayerReport]) -> Any:
    """A table for a rich console."""
    from rich.table import Table

    table = Table(title=title, box=None, title_justify="left")
    for name, justify in _COLUMNS:
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    before = None
    for layer in layers:
        option = layer.option if layer.option != before else ""
        before = layer.option
        table.add_row(
            option,
            layer.path,
            layer.done or "-",
            change(layer.macs),
            change(layer.params),
            layer.reason,
        )
    return table


_COLUMNS = (
    ("option", "left"),
    ("layer", "left"),
    ("done", "left"),
    ("MACs", "right"),
    ("parameters", "right"),
    ("left alone because", "left"),
)
