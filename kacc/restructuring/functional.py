"""Kernels of depthwise-separable convolutions, from those of standard ones."""

from __future__ import annotations

import numpy as np

RIDGE = 1e-6  # towards what was before, in shares of the mean diagonal
LARGEST = 2500  # depthwise weights that are solved for together


def separable(
    kernel: np.ndarray, multiplier: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The nearest depthwise-separable kernel, by weights.

    Each input channel's taps x outputs are a matrix of its own, so that the best
    approximation of each by `multiplier` products (Eckart and Young 1936) is the best
    one of the whole kernel.

    Args:
        kernel: (taps, inputs, outputs).
        multiplier: products for each input channel.

    Returns:
        The depthwise kernel (taps, inputs, multiplier), the pointwise one (inputs,
        multiplier, outputs), and the share of the energy that is kept with the first
        1, 2, ... products of each channel.

    Example:
        >>> kernel = np.ones((4, 2, 3))
        >>> depthwise, pointwise, kept = separable(kernel, 1)
        >>> np.allclose(product(depthwise, pointwise), kernel), kept.round(6).tolist()
        (True, [1.0, 1.0, 1.0])
    """
    u, s, v = np.linalg.svd(kernel.transpose(1, 0, 2), full_matrices=False)
    energies = (s**2).sum(axis=0)
    kept = np.cumsum(energies) / max(float(energies.sum()), 1e-30)
    roots = np.sqrt(s)
    wide = max(0, multiplier - s.shape[1])  # more than there are: of zeros
    depthwise = np.pad(
        (u * roots[:, None])[..., :multiplier], ((0, 0), (0, 0), (0, wide))
    )
    pointwise = np.pad(
        (v * roots[..., None])[:, :multiplier], ((0, 0), (0, wide), (0, 0))
    )
    return depthwise.transpose(1, 0, 2), pointwise, kept


def product(depthwise: np.ndarray, pointwise: np.ndarray) -> np.ndarray:
    """The standard kernel (taps, inputs, outputs) that does the same."""
    return np.asarray(np.einsum("tim,imo->tio", depthwise, pointwise))


def refined(
    kernel: np.ndarray,
    depthwise: np.ndarray,
    pointwise: np.ndarray,
    moments: np.ndarray,
    rounds: int = 4,
) -> tuple[np.ndarray, np.ndarray]:
    """The kernels after alternating least squares on the errors of outputs.

    With the moments C of the patches and the error E of the kernel the squared error of
    the outputs is trace(E' C E): quadratic in either kernel, the other one given.

    Args:
        kernel: (taps, inputs, outputs).
        depthwise: (taps, inputs, multiplier), to begin with.
        pointwise: (inputs, multiplier, outputs), to begin with.
        moments: (taps * inputs, taps * inputs).
        rounds: how often each is solved for.

    Returns:
        The depthwise and the pointwise kernel. Of very large depthwise kernels only the
        pointwise one is fitted.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> kernel, x = rng.normal(size=(3, 2, 4)), rng.normal(size=(9, 6))
        >>> first = separable(kernel, 1)[:2]
        >>> better = refined(kernel, *first, x.T @ x)
        >>> before, after = (error(kernel, *k, x.T @ x) for k in (first, better))
        >>> bool(after < before)
        True
    """
    for _ in range(rounds):
        pointwise = _fit_pointwise(kernel, depthwise, pointwise, moments)
        if depthwise.size > LARGEST:
            break
        depthwise = _fit_depthwise(kernel, depthwise, pointwise, moments)
    return depthwise, _fit_pointwise(kernel, depthwise, pointwise, moments)


def error(
    kernel: np.ndarray,
    depthwise: np.ndarray,
    pointwise: np.ndarray,
    moments: np.ndarray,
) -> float:
    """The squared error of the outputs of a separable convolution."""
    missing = (kernel - product(depthwise, pointwise)).reshape(len(moments), -1)
    return float(np.einsum("ao,ab,bo->", missing, moments, missing, optimize=True))


def _fit_pointwise(
    kernel: np.ndarray, depthwise: np.ndarray, near: np.ndarray, moments: np.ndarray
) -> np.ndarray:
    taps, inputs, multiplier = depthwise.shape
    # (taps * inputs, inputs * multiplier): what the depthwise part makes of patches.
    spread = np.einsum("tim,ij->tijm", depthwise, np.eye(inputs))
    spread = spread.reshape(taps * inputs, inputs * multiplier)
    weighed = spread.T @ moments
    flat = near.reshape(-1, near.shape[-1])
    target = weighed @ kernel.reshape(taps * inputs, -1)
    return solved(weighed @ spread, target, flat).reshape(near.shape)


def _fit_depthwise(
    kernel: np.ndarray, near: np.ndarray, pointwise: np.ndarray, moments: np.ndarray
) -> np.ndarray:
    taps, inputs, _ = near.shape
    blocks = moments.reshape(taps, inputs, taps, inputs)
    rows = np.einsum("imo,jno->imjn", pointwise, pointwise)
    gram = np.einsum("tisj,imjn->timsjn", blocks, rows)
    target = moments @ kernel.reshape(taps * inputs, -1)
    target = np.einsum("tio,imo->tim", target.reshape(kernel.shape), pointwise)
    size = near.size
    return solved(
        gram.reshape(size, size), target.reshape(size, 1), near.reshape(size, 1)
    ).reshape(near.shape)


def solved(
    gram: np.ndarray, target: np.ndarray, near: np.ndarray, ridge: float = RIDGE
) -> np.ndarray:
    """Least squares by normal equations, drawn to a solution that is near."""
    strength = ridge * max(float(gram.trace()) / len(gram), 1e-12)
    step = np.linalg.solve(gram + strength * np.eye(len(gram)), target - gram @ near)
    return np.asarray(near + step)
