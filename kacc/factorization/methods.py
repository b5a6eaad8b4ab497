"""The methods: which layers stand for one, and what they multiply where."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kacc.factorization import functional as fn

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Method:
    """One way to write a kernel as a product.

    Args:
        spectrum: the function that finds the factors.
        names: what is added to the layer's name for each part; the last one keeps the
            name as it is, so that outputs and rules stay what they were called.
        where: where each part is applied: at the layer's "inputs" or "outputs", at rows
            of the outputs and columns of the inputs ("between"), or where the kernel
            was, with fewer outputs ("reduced").
        shapes: kernel shape, ranks -> those of the parts.
        full: kernel shape -> the ranks that keep everything.
    """

    spectrum: Callable[..., fn.Spectrum]
    names: tuple[str, ...]
    where: tuple[str, ...]
    shapes: Callable[..., list[Shape]]
    full: Callable[[Shape], Shape]


def _ones(shape: Shape) -> Shape:
    return (1,) * (len(shape) - 2)


def _rows(shape: Shape) -> int:
    return math.prod(shape[:-1])


METHODS: dict[str, Method] = {
    "svd": Method(
        fn.split_outputs,
        ("reduce", ""),
        ("reduced", "outputs"),
        lambda s, r: [(*s[:-1], r), (*_ones(s), r, s[-1])],
        lambda s: (min(_rows(s), s[-1]),),
    ),
    "channel_out": Method(
        fn.split_outputs,
        ("reduce", ""),
        ("reduced", "outputs"),
        lambda s, r: [(*s[:-1], r), (*_ones(s), r, s[-1])],
        lambda s: (min(_rows(s), s[-1]),),
    ),
    "channel_in": Method(
        fn.split_inputs,
        ("reduce", ""),
        ("inputs", "outputs"),
        lambda s, r: [(*_ones(s), s[-2], r), (*s[:-2], r, s[-1])],
        lambda s: (min(s[-2], math.prod(s[:-2]) * s[-1]),),
    ),
    "spatial": Method(
        fn.split_spatially,
        ("vertical", ""),
        ("between", "outputs"),
        lambda s, r: [(s[0], 1, s[2], r), (1, s[1], r, s[3])],
        lambda s: (min(s[0] * s[2], s[1] * s[3]),),
    ),
    "tucker": Method(
        fn.tucker,
        ("reduce", "core", ""),
        ("inputs", "outputs", "outputs"),
        lambda s, r, q: [
            (*_ones(s), s[-2], r),
            (*s[:-2], r, q),
            (*_ones(s), q, s[-1]),
        ],
        lambda s: (min(s[-2], math.prod(s[:-2]) * s[-1]), min(_rows(s), s[-1])),
    ),
}

# What may be asked for -> the methods that are tried.
ASKED: dict[str, tuple[str, ...]] = {
    "auto": ("channel_out", "channel_in", "spatial", "tucker"),
    "channel": ("channel_out", "channel_in"),
    "spatial": ("spatial",),
    "tucker": ("tucker",),
}


def methods_for(shape: Sequence[int], asked: str) -> tuple[str, ...]:
    """The methods for a kernel, of those that were asked for.

    Matrices and 1x1 kernels have one; a kernel of one row or column of taps has no
    spatial one, and is split by channels where that was asked for.

    Example:
        >>> methods_for((1, 1, 8, 8), "tucker"), methods_for((3, 8, 8), "spatial")
        (('svd',), ('channel_out', 'channel_in'))
    """
    taps = tuple(shape)[:-2]
    if math.prod(taps) == 1:
        return ("svd",)
    usable = len(taps) == 2 and min(taps) > 1
    names = [name for name in ASKED[asked] if usable or name != "spatial"]
    return tuple(names) or ASKED["channel"]
