"""Plots as PNG files."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kacc.report.comparison import Variant

INK, PALE, ACCENT = "#27313a", "#b9c4ce", "#0b7285"
DOTS_PER_INCH = 160


def comparison_plot(variants: Sequence[Variant], title: str) -> bytes:
    """Draw accuracy, bytes and latency of each variant.

    Args:
        variants: the bars from top to bottom; the last one is set off in colour.
        title: the heading.

    Returns:
        The content of a PNG file, about 1500 x 450 pixels.

    Example:
        >>> row = Variant("float", "a.keras", 0.9, 4000, 2.0)
        >>> comparison_plot([row], "digits")[1:4]
        b'PNG'
    """
    figure = Figure(figsize=(9.6, 0.9 + 0.45 * len(variants)), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3, sharey=True)
    _bars(left, "accuracy", variants, [v.accuracy * 100 for v in variants], "{:.1f}%")
    _bars(
        middle, "size", variants, [v.size_bytes / 1024 for v in variants], "{:.1f} KiB"
    )
    _bars(
        right, "median latency", variants, [v.latency_ms for v in variants], "{:.3g} ms"
    )
    left.invert_yaxis()  # the axes share it
    figure.suptitle(title, x=0.01, ha="left", color=INK, fontsize=12, weight="bold")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DOTS_PER_INCH)
    return content.getvalue()


def _bars(
    axes: Axes,
    heading: str,
    variants: Sequence[Variant],
    values: Sequence[float],
    label: str,
) -> None:
    colours = [PALE] * (len(variants) - 1) + [ACCENT]
    bars = axes.barh([v.name for v in variants], values, color=colours, height=0.62)
    axes.bar_label(
        bars,
        [label.format(value) for value in values],
        padding=4,
        color=INK,
        fontsize=10,
    )
    axes.set_title(heading, loc="left", color=INK, fontsize=10)
    axes.set_xlim(0, max(values) * 1.4)
    axes.xaxis.set_visible(False)
    axes.tick_params(axis="y", length=0, labelcolor=INK, labelsize=10)
    axes.spines[:].set_visible(False)
