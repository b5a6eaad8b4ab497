"""Plots as PNG files."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kacc.report.comparison import Variant, readable_latencies

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
    names = [v.name for v in variants]
    accuracies = [v.accuracy * 100 for v in variants]
    bars(left, "accuracy", names, accuracies, [f"{a:.1f}%" for a in accuracies])
    sizes = [v.size_bytes / 1024 for v in variants]
    bars(middle, "size", names, sizes, [f"{size:,.1f} KiB" for size in sizes])
    bars(right, "median latency", names, *_latency_bars(variants))
    left.invert_yaxis()  # the axes share it
    figure.suptitle(title, x=0.01, ha="left", color=INK, fontsize=12, weight="bold")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DOTS_PER_INCH)
    return content.getvalue()


def _latency_bars(variants: Sequence[Variant]) -> tuple[list[float], list[str]]:
    # Calling a small Keras model costs a hundred times what its file costs: drawn to
    # scale, it would make the files' bars invisible.
    labels = readable_latencies([v.latency_ms for v in variants])
    in_keras = [v.argmax_agreement is None for v in variants]
    lengths = [
        0.0 if keras else v.latency_ms
        for v, keras in zip(variants, in_keras, strict=True)
    ]
    labels = [
        f"{label} (not to scale)" if keras else label
        for label, keras in zip(labels, in_keras, strict=True)
    ]
    return lengths, labels


def bars(
    axes: Axes,
    heading: str,
    names: Sequence[str],
    values: Sequence[float],
    labels: Sequence[str],
    accent_last: bool = True,
) -> None:
    """Draw labelled bars from top to bottom, without a scale.

    Args:
        axes: where.
        heading: above the bars.
        names: of the bars.
        values: their lengths.
        labels: at their ends.
        accent_last: whether the last one is set off in colour, else all are.
    """
    pale = PALE if accent_last else ACCENT
    colours = [pale] * (len(names) - 1) + [ACCENT]
    drawn = axes.barh(names, values, color=colours, height=0.62)
    axes.bar_label(drawn, labels, padding=4, color=INK, fontsize=10)
    axes.set_title(heading, loc="left", color=INK, fontsize=10)
    axes.set_xlim(0, (max(values) or 1) * 1.4)
    axes.xaxis.set_visible(False)
    axes.tick_params(axis="y", length=0, labelcolor=INK, labelsize=10)
    axes.spines[:].set_visible(False)
