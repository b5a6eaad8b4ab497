"""How much each member of an ensemble should count."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_ROUNDS = 500
_STILL = 1e-7


def mixture_weights(
    probabilities: Sequence[np.ndarray], labels: np.ndarray
) -> np.ndarray:
    """The weights of a mixture of classifiers under which labels are most likely.

    The likelihood is concave in them, and expectation maximization climbs it (Dempster
    et al. 1977).

    Args:
        probabilities: of each member, (examples, ..., classes).
        labels: class numbers, (examples, ...).

    Returns:
        A weight for each member, from 0, with the sum 1.

    Example:
        >>> import numpy as np
        >>> right, wrong = np.array([[0.9, 0.1]]), np.array([[0.1, 0.9]])
        >>> mixture_weights([right, wrong], np.array([0])).round(3).tolist()
        [1.0, 0.0]
    """
    labels = np.asarray(labels).astype(int)
    likely = np.stack(
        [
            np.take_along_axis(np.asarray(p, "float64"), labels[..., None], -1).ravel()
            for p in probabilities
        ]
    )
    weights = np.full(len(likely), 1 / len(likely))
    for _ in range(_ROUNDS):
        share = weights[:, None] * np.maximum(likely, 1e-12)
        moved = (share / share.sum(0)).mean(1)
        if np.abs(moved - weights).max() < _STILL:
            break
        weights = moved
    return moved


def least_squares_weights(
    values: Sequence[np.ndarray], targets: np.ndarray
) -> np.ndarray:
    """The weights of a mean of predictions that is closest to the targets.

    Args:
        values: predictions of each member.
        targets: of the shape of a member's predictions.

    Returns:
        A weight for each member, from 0, with the sum 1.

    Example:
        >>> import numpy as np
        >>> a, b = np.array([1.0, 2.0]), np.array([3.0, 0.0])
        >>> least_squares_weights([a, b], np.array([2.0, 1.0])).round(3).tolist()
        [0.5, 0.5]
    """
    from scipy.optimize import nnls

    matrix = np.stack([np.ravel(v).astype("float64") for v in values], axis=1)
    target = np.ravel(targets).astype("float64")
    # A row that weighs more than all others holds the sum at 1.
    heavy = 1e4 * max(1.0, float(np.abs(matrix).max())) * np.sqrt(len(target))
    matrix = np.concatenate([matrix, np.full((1, len(values)), heavy)])
    weights = nnls(matrix, np.append(target, heavy))[0]
    return weights / weights.sum()
