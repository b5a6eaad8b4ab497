"""Variants of one model side by side: a console table and a JSON record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE
from rich.table import Table


@dataclass(frozen=True)
class Variant:
    """One row of a comparison.

    Args:
        name: what people call it.
        file: name of its file.
        accuracy: share of right answers, 0 to 1.
        size_bytes: size in bytes.
        latency_ms: median time of one inference of one sample, in milliseconds.
        argmax_agreement: share of the samples for which the file chooses the class that
            its Keras model chooses; None for a Keras model.
        within_one: share of the outputs at most one integer step away from the Keras
            model's; None where there are no integers.
    """

    name: str
    file: str
    accuracy: float
    size_bytes: int
    latency_ms: float
    argmax_agreement: float | None = None
    within_one: float | None = None


def comparison_table(variants: Sequence[Variant], title: str) -> Table:
    """Show variants as a console table; sizes are compared with the first one's.

    Args:
        variants: the rows, the original first.
        title: the line above the table.

    Returns:
        A rich table.

    Example:
        >>> from rich.console import Console
        >>> rows = [Variant("float", "a.keras", 0.9, 4000, 2.0)]
        >>> table = comparison_table(rows, "digits")
        >>> table.row_count
        1
    """
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE)
    table.add_column("variant", no_wrap=True)
    headings = (
        "accuracy",
        "bytes",
        "",
        "median\nlatency",
        "same\nclass",
        "within\n1 LSB",
    )
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    original = variants[0].size_bytes
    latencies = readable_latencies([v.latency_ms for v in variants])
    for variant, latency in zip(variants, latencies, strict=True):
        table.add_row(
            variant.name,
            f"{variant.accuracy:.2%}",
            f"{variant.size_bytes:,}",
            f"{variant.size_bytes / original:.2f}x",
            latency,
            _share(variant.argmax_agreement),
            _share(variant.within_one),
        )
    return table


def comparison_record(variants: Sequence[Variant]) -> list[dict[str, Any]]:
    """Give variants as plain JSON values.

    Args:
        variants: the rows.

    Returns:
        One dictionary for each, with the fields of `Variant`.

    Example:
        >>> row = Variant("float", "a.keras", 0.9, 4000, 2.0)
        >>> comparison_record([row])[0]["accuracy"]
        0.9
    """
    return [asdict(variant) for variant in variants]


def readable_latencies(milliseconds: Sequence[float]) -> list[str]:
    """Write latencies in one unit, so that they can be compared at a glance.

    Args:
        milliseconds: the latencies.

    Returns:
        A text for each, in microseconds if the shortest is below a tenth of a
        millisecond.

    Example:
        >>> readable_latencies([0.3662, 0.0037]), readable_latencies([12.5, 3.0])
        (['366.2 µs', '3.7 µs'], ['12.50 ms', '3.00 ms'])
    """
    if min(milliseconds) < 0.1:
        return [f"{value * 1000:.1f} µs" for value in milliseconds]
    return [f"{value:.2f} ms" for value in milliseconds]


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"
