"""Parity as text and as a table for a rich console."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kacc.converters.layer_table import LAYER_SAMPLES

if TYPE_CHECKING:
    from kacc.converters.layer_table import LayerParity
    from kacc.converters.parity import OutputParity, Parity


def share(value: float) -> str:
    """A share as a percentage that says 100 % only of all of them.

    Example:
        >>> share(1.0), share(0.99999), share(0.8876)
        ('100 %', '99.99 %', '88.76 %')
    """
    if value == 1:
        return "100 %"
    return f"{int(value * 1e4) / 100:.2f} %"


def text(parity: Parity) -> str:
    """Some lines: what was compared, one line per output, where it starts to differ."""
    lines = [_title(parity)]
    width = max(len(output.name) for output in parity.outputs)
    lines += [f"  {o.name:<{width}}  {_figures(o)}" for o in parity.outputs]
    if parity.layers:
        lines.append("  " + _verdict(parity))
    return "\n".join(lines)


def rich_view(parity: Parity) -> Any:
    """A table of the outputs and one of the layers, for a rich console."""
    from rich.console import Group
    from rich.text import Text

    parts = [Text(_title(parity), style="bold"), _output_table(parity)]
    if parity.layers:  # only TFLite files tell them apart
        parts += [_layer_view(parity), Text(_verdict(parity))]
    return Group(*parts)


def _title(parity: Parity) -> str:
    return (
        f"Parity of Keras and {parity.target}: {parity.samples} samples, "
        f"{parity.kernels} kernels, {parity.host}"
    )


def _figures(output: OutputParity) -> str:
    if output.largest_lsb is None or output.within_one is None:
        parts = [
            f"largest difference {output.max_abs:.3g}",
            f"{output.max_rel:.2g} of the largest value",
        ]
    else:
        parts = [
            f"{share(output.equal)} equal",
            f"{share(output.within_one)} within 1 LSB",
            f"largest {output.largest_lsb} LSB",
        ]
    if output.argmax_agreement is not None:
        parts.append(f"same class {share(output.argmax_agreement)}")
    return ", ".join(parts)


def _verdict(parity: Parity) -> str:
    first = parity.first_difference
    if first is None:
        return f"No layer differs in the first {LAYER_SAMPLES} samples."
    steps = "" if first.largest_lsb is None else f", largest {first.largest_lsb} LSB"
    return (
        f"First layer that differs: {first.layer} ({first.operator}, "
        f"{share(first.equal)} equal{steps})"
    )


def _output_table(parity: Parity) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("output")
    integer = parity.largest_lsb is not None
    headings = (
        ("equal", "within 1 LSB", "largest LSB")
        if integer
        else ("largest difference", "of the largest value")
    )
    for heading in (*headings, "same class"):
        table.add_column(heading, justify="right")
    for output in parity.outputs:
        table.add_row(output.name, *_cells(output), _or_dash(output.argmax_agreement))
    return table


def _cells(output: OutputParity) -> tuple[str, ...]:
    if output.largest_lsb is None:
        return f"{output.max_abs:.3g}", f"{output.max_rel:.2g}"
    within = _or_dash(output.within_one)
    return share(output.equal), within, str(output.largest_lsb)


def _or_dash(value: float | None) -> str:
    return "-" if value is None else share(value)


def _layer_view(parity: Parity) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("layer")
    table.add_column("operator")
    for heading in ("equal", "largest LSB", "largest difference"):
        table.add_column(heading, justify="right")
    first = parity.first_difference
    for layer in parity.layers:
        table.add_row(*_layer_cells(layer), style="bold red" if layer == first else "")
    return table


def _layer_cells(layer: LayerParity) -> tuple[str, ...]:
    steps = "-" if layer.largest_lsb is None else str(layer.largest_lsb)
    distance = f"{layer.max_abs:.3g}"
    return layer.layer, layer.operator, share(layer.equal), steps, distance
