"""`kacc.split`: a model cut into models that run one after another."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import tree

from kacc.converters.signature import signature_of
from kacc.core.errors import UsageError
from kacc.core.graph import require_built
from kacc.quantization.model import quantized, require_seen
from kacc.splitting.build import Builder
from kacc.splitting.layout import Layout, Stretch
from kacc.splitting.ranges import CutError, Ranges
from kacc.splitting.report import PartReport
from kacc.splitting.result import Split
from kacc.splitting.search import best_cuts
from kacc.splitting.usage import Usage

OBJECTIVES = ("macs", "memory")


def split(
    model: keras.Model,
    parts: int | None = None,
    *,
    at: Sequence[str] | None = None,
    by: str = "macs",
) -> Split:
    """Cuts a model into models that run one after another and compute the same.

    For a memory that is too small for the whole, or for several processors. A cut may
    carry several tensors, as where skip connections cross it. Each part takes by name
    what it reads: inputs of the model, and tensors that any part before it gave, which
    whoever runs the parts keeps as long as they are needed. So no part passes a tensor
    through, and an output of the model is there when its part has run.

    The parts have copies of the layers and of the weights, with masks of pruning
    applied: the model stays as it is. Of a quantized model the parts are quantized too,
    with the same ranges, so that the chain of their files equals the whole file to the
    bit. Weights that a `call` uses outside of any layer become constants.

    Args:
        model: a built Keras 3 model: Sequential, functional, nested or subclassed, with
            quantization attached or plain. Nested models are opened.
        parts: how many; 2 by default. The cuts are chosen so that the largest part is
            at most a tenth above the smallest largest part there is, and then that the
            fewest bytes cross. Never are layers with weights called on both sides, or
            operators separated that the file of the model has as one.
        at: in the place of `parts`, names or paths of layers, nested models too, after
            each of which is a cut. A layer with weights that is called on both sides
            is then copied into both parts, with a warning.
        by: what is large: "macs", the multiply-accumulates, for a pipeline; or
            "memory", the bytes of the weights and of the activations alive at once.

    Returns:
        A `Split`: a sequence of the parts, with `predict`, `convert` and a `report`.

    Raises:
        UsageError: for a wrong argument, a model that is not built or whose layers
            cannot be made again from their configs, a quantized model that was never
            trained or calibrated, or a model that cannot be cut so.

    Example:
        >>> import keras, kacc
        >>> dense = keras.layers.Dense
        >>> layers = [dense(8, name="a"), dense(8, name="b"), dense(2, name="c")]
        >>> parts = kacc.split(keras.Sequential([keras.Input((4,)), *layers]), 2)
        >>> [part.layers for part in parts.report]
        [('a',), ('b', 'c')]
    """
    count = _checked(parts, at, by)
    require_built(model)
    _require_seen(model)
    layout = Layout(model)
    if at is not None:
        return cut_at_positions(layout, _cuts_at(layout, at))
    refused: set[int] = set()
    while True:
        cuts = _chosen(layout, count, by, refused)
        try:
            return cut_at_positions(layout, cuts)
        except CutError:
            # Ranges show only once there are parts; such a graph is rare.
            refused.add(_unfit(layout, cuts))


def _checked(parts: Any, at: Any, by: Any) -> int:
    """How many parts are asked for."""
    if by not in OBJECTIVES:
        raise UsageError(f"`by` must be one of {OBJECTIVES}", received=by)
    if at is not None and parts is not None:
        raise UsageError(
            "Either `parts` or `at` can be given",
            received=f"parts={parts!r} and at={at!r}",
            fix="Leave one out",
        )
    if at is not None:
        named = not isinstance(at, str) and all(isinstance(x, str) for x in at)
        if not named or not len(at):
            raise UsageError(
                "`at` must be a list of names or paths of layers", received=at
            )
        return len(at) + 1
    count = 2 if parts is None else parts
    if isinstance(count, bool) or not isinstance(count, int) or count < 2:
        raise UsageError("`parts` must be an integer of at least 2", received=parts)
    return count


def _require_seen(model: keras.Model) -> None:
    if next(quantized(model), None) is not None:
        require_seen(
            model,
            "before it is split",
            "Train the model, or call kacc.quantization.calibrate(model, batches)",
        )


def _chosen(layout: Layout, count: int, by: str, refused: set[int]) -> list[int]:
    """The positions of the best cuts."""
    inner = [
        position
        for position in range(1, len(layout.calls))
        if position not in refused
        and not layout.shared(position)
        and not layout.fused(position)
        and not layout.refusal(position)
    ]
    usage = Usage(layout)
    points = [0, *inner, len(layout.calls)]
    sizes = _sizes(layout, usage, points, by)
    transfer = [0, *(usage.transfer(position) for position in inner), 0]
    cuts = best_cuts(sizes, transfer, count)
    if not cuts:
        raise UsageError(
            f"The model must have places for {count - 1} cuts, between operators "
            "whose layers are not shared",
            received=f"{layout.model.name!r} with {len(inner)} such places",
            fix="Ask for fewer parts",
        )
    return [points[number] for number in cuts]


def _sizes(layout: Layout, usage: Usage, points: Sequence[int], by: str) -> np.ndarray:
    """The size of each part that there can be, infinite where there can be none."""
    sizes = np.full((len(points), len(points)), np.inf)
    places = {position: number for number, position in enumerate(points)}
    for i, start in enumerate(points[:-1]):
        peaks = dict(usage.peaks(start)) if by == "memory" else {}
        for stop in points[i + 1 :]:
            if layout.is_quantized and not layout.has_weights(start, stop):
                continue  # nothing in it could be quantized
            sizes[i, places[stop]] = (
                peaks[stop] + usage.params_bytes(start, stop)
                if by == "memory"
                else usage.macs[start:stop].sum()
            )
    return sizes


def _cuts_at(layout: Layout, at: Sequence[str]) -> list[int]:
    """The positions after the layers that were named."""
    positions: dict[int, str] = {}
    for name in at:
        position = _after(layout, name)
        if position == len(layout.calls):
            raise UsageError(
                "There must be something after a cut",
                received=name,
                fix="Name an earlier layer",
            )
        if position in positions:
            raise UsageError(
                "Each cut must be given once",
                received=f"{positions[position]!r} and {name!r}",
            )
        positions[position] = name
        _check_cut(layout, position, name)
    ordered = sorted(positions)
    for start, stop in zip([0, *ordered], [*ordered, len(layout.calls)], strict=True):
        if layout.is_quantized and not layout.has_weights(start, stop):
            raise UsageError(
                "Each part of a quantized model must have a quantized layer with "
                "weights",
                received=f"{layout.calls[start].path} .. {layout.calls[stop - 1].path}",
                fix="Leave a cut out, or move it",
            )
    return ordered


def _after(layout: Layout, name: str) -> int:
    """The position after the last call of a layer or of a nested model's layers."""
    calls = layout.calls
    paths = [call.path for call in calls]
    found = [i for i, path in enumerate(paths) if f"{path}/".startswith(f"{name}/")]
    if not found:
        found = [i for i, path in enumerate(paths) if path.endswith(f"/{name}")]
        if len({paths[i] for i in found}) > 1:
            raise UsageError(
                "A name in `at` must be that of one layer",
                received=name,
                fix=f"Write the path: {', '.join(sorted({paths[i] for i in found}))}",
            )
    if not found:
        known = list(dict.fromkeys(paths))
        near = difflib.get_close_matches(name, known, 1, cutoff=0.4)
        fix = f"Did you mean {near[0]!r}?" if near else f"There are {known[:20]}"
        raise UsageError("`at` must name layers of the model", name, fix)
    return found[-1] + 1


def _check_cut(layout: Layout, position: int, name: str) -> None:
    reason = layout.refusal(position)
    if reason is not None:
        raise UsageError(f"No cut can be after {name!r}: {reason}", received=name)
    fused = layout.fused(position)
    if fused is not None and layout.is_quantized:
        raise UsageError(
            "A cut must be at a tensor that is integers in the file of the whole; "
            f"{fused[0]!r} to {fused[1]!r} are one operator there",
            received=name,
            fix=f"Cut after {fused[1]!r}",
        )
    shared = layout.shared(position)
    if shared:
        warnings.warn(
            f"kacc copies layers that are called before and after {name!r} into both "
            f"parts: {', '.join(shared)}",
            stacklevel=4,
        )


def cut_at_positions(layout: Layout, cuts: Sequence[int]) -> Split:
    """The parts between the cuts."""
    model = layout.model
    ranges = Ranges(model) if layout.is_quantized else None
    usage = Usage(layout)
    parts, reports = [], []
    for number, stretch in enumerate(layout.stretches(cuts)):
        builder = Builder(layout, stretch, f"{model.name}_part_{number}")
        part = builder.model()
        if ranges is not None:
            ranges.attach(builder, part)
        parts.append(part)
        reports.append(_report(layout, usage, stretch, part))
    names = layout.tensor_names
    outputs = tree.map_structure(lambda t: names[t], layout.graph.output_structure)
    return Split(model.name, parts, reports, signature_of(model, None), outputs)


def _report(
    layout: Layout, usage: Usage, stretch: Stretch, part: keras.Model
) -> PartReport:
    start, stop = stretch.start, stretch.stop
    own = Layout(part)  # what is fused in the part alone
    return PartReport(
        name=part.name,
        layers=tuple(dict.fromkeys(c.path for c in layout.calls[start:stop])),
        takes=tuple(layout.tensor_names[t] for t in stretch.takes),
        gives=tuple(layout.tensor_names[t] for t in stretch.gives),
        macs=int(usage.macs[start:stop].sum()),
        params_bytes=usage.params_bytes(start, stop),
        peak_bytes=Usage(own).peak(0, len(own.calls)),
        cut_bytes=usage.transfer(stop),
    )


def _unfit(layout: Layout, cuts: Sequence[int]) -> int:
    """The first cut that does not fit by itself; the first one if all do."""
    for cut in cuts:
        try:
            cut_at_positions(layout, [cut])
        except CutError:
            return cut
    return cuts[0]
