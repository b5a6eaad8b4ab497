"""What the parts of a model cost, as figures and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kacc.measurement.measure import readable_bytes


@dataclass(frozen=True)
class PartReport:
    """What one part is and costs, for one sample.

    Args:
        name: of the part.
        layers: paths in the whole model of its layers and operators, in order.
        takes: names of the tensors that it takes, inputs of the model included.
        gives: names of those that it gives.
        macs: its multiply-accumulates.
        params_bytes: bytes of its variables.
        peak_bytes: the most bytes of activations alive at once, what it takes and
            gives included; of a quantized model bytes of integers.
        cut_bytes: bytes of all tensors that cross the cut behind it; 0 of the last.
    """

    name: str
    layers: tuple[str, ...]
    takes: tuple[str, ...]
    gives: tuple[str, ...]
    macs: int
    params_bytes: int
    peak_bytes: int
    cut_bytes: int


def text(model: str, parts: Sequence[PartReport]) -> str:
    """A line for the whole and one for each part."""
    lines = [_title(model, parts)]
    names = [name for name, _ in _COLUMNS]
    for part in parts:
        figures = zip(names[2:], _cells(part, parts)[2:], strict=True)
        said = ", ".join(f"{name} {value}" for name, value in figures)
        lines.append(f"  {part.name}: {_span(part)}; {said}")
    return "\n".join(lines)


def rich_view(model: str, parts: Sequence[PartReport]) -> Any:
    """A table for a rich console."""
    from rich.table import Table

    table = Table(title=_title(model, parts), box=None, title_justify="left")
    for name, justify in _COLUMNS:
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for part in parts:
        table.add_row(*_cells(part, parts))
    return table


_COLUMNS = (
    ("part", "left"),
    ("layers", "left"),
    ("MACs", "right"),
    ("parameters", "right"),
    ("peak activations", "right"),
    ("crossing the cut", "right"),
)


def _title(model: str, parts: Sequence[PartReport]) -> str:
    return f"{model!r} in {len(parts)} parts"


def _cells(part: PartReport, parts: Sequence[PartReport]) -> tuple[str, ...]:
    total = sum(one.macs for one in parts)
    share = f" ({part.macs / total:.0%})" if total else ""
    last = part is parts[-1]
    return (
        part.name,
        _span(part),
        f"{part.macs:,}{share}",
        readable_bytes(part.params_bytes),
        readable_bytes(part.peak_bytes),
        "-" if last else readable_bytes(part.cut_bytes),
    )


def _span(part: PartReport) -> str:
    if len(part.layers) == 1:
        return part.layers[0]
    return f"{part.layers[0]} .. {part.layers[-1]} ({len(part.layers)})"
