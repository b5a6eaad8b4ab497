"""Kernels as products of smaller ones: how much each rank keeps, and the factors.

A kernel is an array (*taps, inputs, outputs); a dense one has no taps. Every method
makes features of the inputs, first of all those that matter most, and regresses the
outputs on them. What the features up to each rank explain follows for all ranks from
one QR decomposition (reduced-rank regression; Izenman 1975,
doi:10.1016/0047-259X(75)90042-1), with weights or outputs as what is to be explained,
as `Inputs` says.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular

from kacc.factorization.inputs import Inputs
from kacc.factorization.svd import leading

Factors = list[np.ndarray]


@dataclass(frozen=True, eq=False)
class Spectrum:
    """What a method keeps of a kernel.

    Args:
        kept: the share of the energy that ranks 1, 2 ... keep, 0 to 1; with two axes
            for methods of two ranks, (inputs, outputs).
        factors: kernels of the layers in a row, for ranks.
    """

    kept: np.ndarray
    factors: Callable[..., Factors]

    def at(self, *ranks: int) -> float:
        """The share of the energy that ranks keep."""
        return float(self.kept[tuple(rank - 1 for rank in ranks)])


def split_outputs(kernel: np.ndarray, inputs: Inputs, limit: Any = None) -> Spectrum:
    """The kernel with fewer outputs, then a 1x1 kernel from these to the outputs.

    Zhang et al. 2015, arXiv:1505.06798; for matrices truncated SVD.

    Args:
        kernel: (*taps, inputs, outputs).
        inputs: what it multiplies.
        limit: the highest rank of interest, or None.

    Example:
        >>> kernel = np.array([[1.0, 2.0], [2.0, 4.0]])
        >>> spectrum = split_outputs(kernel, Inputs())
        >>> a, b = spectrum.factors(1)
        >>> (a @ b).round(6).tolist(), spectrum.kept.round(6).tolist()
        ([[1.0, 2.0], [2.0, 4.0]], [1.0, 1.0])
    """
    *taps, wide, count = kernel.shape
    whitened = inputs.whiten(kernel.reshape(-1, count))
    u, s, vt = leading(whitened, limit)

    def factors(rank: int) -> Factors:
        a, b = balanced(inputs.restore(u[:, :rank]), s[:rank, None] * vt[:rank])
        return [a.reshape(*taps, wide, rank), _pointwise(b, taps)]

    return Spectrum(_shares(s**2, whitened), factors)


def split_inputs(kernel: np.ndarray, inputs: Inputs, limit: Any = None) -> Spectrum:
    """A 1x1 kernel to fewer inputs, then the kernel on these.

    Args and example as of `split_outputs`.
    """
    taps = kernel.shape[:-2]
    whitened, basis, explained = _on_fewer_inputs(kernel, inputs, limit)

    def factors(rank: int) -> Factors:
        core = explained.solved(rank).reshape(rank, *taps, -1)
        a, core = balanced(basis[:, :rank], core)
        return [_pointwise(a, taps), np.moveaxis(core, 0, -2)]

    return Spectrum(_shares(explained.energies, whitened), factors)


def split_spatially(kernel: np.ndarray, inputs: Inputs, limit: Any = None) -> Spectrum:
    """A column of taps to some channels, then a row of taps to the outputs.

    Jaderberg et al. 2014, arXiv:1405.3866, their second scheme.

    Args:
        kernel: (height, width, inputs, outputs).
        inputs: what it multiplies.
        limit: the highest rank of interest, or None.
    """
    high, across, wide, count = kernel.shape
    columns = inputs.averaged(high, across, wide)
    matrix = kernel.transpose(0, 2, 1, 3).reshape(high * wide, across * count)
    basis = columns.restore(leading(columns.whiten(matrix), limit)[0])
    taps = basis.reshape(high, wide, -1)
    features = np.einsum("bc,air->abirc", np.eye(across), taps)
    whitened = inputs.whiten(kernel.reshape(-1, count))
    explained = _Explained.by(features.reshape(len(whitened), -1), whitened, inputs)
    explained = explained.grouped(across)

    def factors(rank: int) -> Factors:
        row = explained.solved(rank).reshape(rank, across * count)
        a, row = balanced(basis[:, :rank], row)
        return [
            a.reshape(high, 1, wide, rank),
            row.reshape(rank, 1, across, count).transpose(1, 2, 0, 3),
        ]

    return Spectrum(_shares(explained.energies, whitened), factors)


def tucker(kernel: np.ndarray, inputs: Inputs, limit: Any = None) -> Spectrum:
    """1x1 to fewer inputs, the kernel from these to fewer outputs, 1x1 to the outputs.

    Kim et al. 2016, arXiv:1511.06530 (Tucker-2), by features and regression in the
    place of two independent decompositions.

    Args:
        kernel: (*taps, inputs, outputs).
        inputs: what it multiplies.
        limit: the highest rank on the side of the inputs that is of interest, or None.
    """
    taps = kernel.shape[:-2]
    whitened, basis, explained = _on_fewer_inputs(kernel, inputs, limit)
    directions = np.linalg.svd(whitened, full_matrices=False)[2]
    energies = (explained.scores @ directions.T) ** 2
    steps = energies.reshape(-1, math.prod(taps), len(directions)).sum(1)
    kept = np.cumsum(np.cumsum(steps, 0), 1) / _energy(whitened)

    def factors(first: int, second: int) -> Factors:
        scores = explained.scores[: first * explained.group]
        back = np.linalg.svd(scores, full_matrices=False)[2][:second]
        core = explained.solved(first, scores @ back.T)
        a, core = balanced(basis[:, :first], core.reshape(first, *taps, len(back)))
        core, back = balanced(core, back)
        return [_pointwise(a, taps), np.moveaxis(core, 0, -2), _pointwise(back, taps)]

    return Spectrum(np.clip(kept, 0.0, 1.0), factors)


def product(factors: Factors) -> np.ndarray:
    """The kernel that kernels in a row make together.

    Example:
        >>> product([np.ones((1, 1, 2, 1)), np.ones((3, 3, 1, 4))]).shape
        (3, 3, 2, 4)
    """
    result = factors[0]
    for factor in factors[1:]:
        result = result @ factor  # where one has several taps, the other has one
    return result


def balanced(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two factors of equal norms along the axis between them, their product the same.

    A step of an optimizer moves both equally then.

    Args:
        a: (..., rank).
        b: (rank, ...) or (*taps, rank, ...) with ranks first.

    Example:
        >>> a, b = balanced(np.array([[8.0]]), np.array([[2.0]]))
        >>> a.tolist(), b.tolist()
        ([[4.0]], [[4.0]])
    """
    first = np.sqrt((a**2).sum(tuple(range(a.ndim - 1))))
    second = np.sqrt((b**2).reshape(len(b), -1).sum(1))
    usable = (first > 0) & (second > 0)
    scale = np.ones_like(first)
    scale[usable] = np.sqrt(second[usable] / first[usable])
    return a * scale, b / scale.reshape(-1, *[1] * (b.ndim - 1))


@dataclass(frozen=True, eq=False)
class _Explained:
    """What features explain of the outputs, the first so many for each count.

    Args:
        scores: outputs in an orthonormal basis that follows the features.
        triangle: of the QR decomposition; None for features that are orthonormal.
        group: how many features go together as one rank.
    """

    scores: np.ndarray
    triangle: np.ndarray | None
    group: int = 1

    @classmethod
    def by(cls, features: np.ndarray, target: np.ndarray, inputs: Inputs) -> _Explained:
        """Regresses a whitened target on features, orthonormal ones without data."""
        if inputs.moments is None:
            return cls(features.T @ target, None)
        basis, triangle = np.linalg.qr(inputs.whiten(features))
        return cls(basis.T @ target, triangle)

    def grouped(self, group: int) -> _Explained:
        return _Explained(self.scores, self.triangle, group)

    @property
    def energies(self) -> np.ndarray:
        """What each rank adds."""
        each = (self.scores**2).sum(1)
        return np.asarray(each.reshape(-1, self.group).sum(1))

    def solved(self, rank: int, scores: np.ndarray | None = None) -> np.ndarray:
        """The weights of a rank's features, for all outputs or for other scores."""
        count = rank * self.group
        scores = self.scores[:count] if scores is None else scores
        if self.triangle is None:
            return scores
        return np.asarray(solve_triangular(self.triangle[:count, :count], scores))


def _on_fewer_inputs(
    kernel: np.ndarray, inputs: Inputs, limit: Any
) -> tuple[np.ndarray, np.ndarray, _Explained]:
    """The whitened kernel, a basis of the inputs, and what its features explain."""
    *taps, wide, count = kernel.shape
    places = math.prod(taps)
    channels = inputs.averaged(1, places, wide)
    matrix = np.moveaxis(kernel, -2, 0).reshape(wide, -1)
    basis = channels.restore(leading(channels.whiten(matrix), limit)[0])
    features = np.einsum("kl,ir->kirl", np.eye(places), basis)
    whitened = inputs.whiten(kernel.reshape(-1, count))
    explained = _Explained.by(features.reshape(len(whitened), -1), whitened, inputs)
    return whitened, basis, explained.grouped(places)


def _pointwise(matrix: np.ndarray, taps: Any) -> np.ndarray:
    return matrix.reshape(*[1] * len(taps), *matrix.shape)


def _energy(whitened: np.ndarray) -> float:
    return float((whitened**2).sum()) or 1.0


def _shares(energies: np.ndarray, whitened: np.ndarray) -> np.ndarray:
    return np.clip(np.cumsum(energies) / _energy(whitened), 0.0, 1.0)
