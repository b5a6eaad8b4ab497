"""Pure functions of clustering: k-means in one dimension, and weights by centroids."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

STARTS = ("kmeans++", "linear")

# Lloyd's steps at most; on weights of trained layers some 30 reach a standstill.
_ROUNDS = 300

# Draws of kmeans++, of which the best is kept: one alone is often off by half.
_DRAWS = 8


def kmeans(
    values: np.ndarray, count: int, start: str = "kmeans++", seed: int = 0
) -> np.ndarray:
    """Centroids of numbers: the sum of squared distances to the nearest is small.

    Args:
        values: numbers, of any shape.
        count: how many centroids, at least 1.
        start: "kmeans++" (Arthur and Vassilvitskii 2007), or "linear": evenly between
            the extremes (Han et al. 2016, arXiv:1510.00149).
        seed: of the numbers that kmeans++ draws.

    Returns:
        float32 centroids in rising order, `count` of them. Where there are fewer
        different values, the last one is repeated.

    Example:
        >>> import numpy as np
        >>> kmeans(np.array([0.0, 1.0, 10.0, 11.0]), 2).tolist()
        [0.5, 10.5]
    """
    ordered = np.sort(np.ravel(values).astype("float64"))
    distinct = np.unique(ordered)
    if len(distinct) <= count:
        padding = np.repeat(distinct[-1:], count - len(distinct))
        return np.concatenate([distinct, padding]).astype("float32")
    if start == "linear":
        starts = [np.linspace(ordered[0], ordered[-1], count)]
    else:
        random = np.random.default_rng(seed)
        starts = [_plus_plus(ordered, count, random) for _ in range(_DRAWS)]
    sums = [_running(ordered), _running(ordered**2)]
    found = [_settled(ordered, sums[0], centroids) for centroids in starts]
    best = min(found, key=lambda centroids: _error(ordered, sums, centroids))
    return best.astype("float32")


def _running(values: np.ndarray) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(values)])


def _settled(
    ordered: np.ndarray, sums: np.ndarray, centroids: np.ndarray
) -> np.ndarray:
    for _ in range(_ROUNDS):
        moved = _lloyd(ordered, sums, centroids)
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    return centroids


def _error(ordered: np.ndarray, sums: list[np.ndarray], centroids: np.ndarray) -> float:
    """The sum of squared distances to the nearest centroid."""
    ends = _ends(ordered, centroids)
    one, two = (np.diff(total[ends]) for total in sums)
    return float(np.sum(two - 2 * centroids * one + centroids**2 * np.diff(ends)))


def _plus_plus(
    ordered: np.ndarray, count: int, random: np.random.Generator
) -> np.ndarray:
    """Each next one drawn by its squared distance to the nearest before it."""
    chosen = [ordered[random.integers(len(ordered))]]
    distance = (ordered - chosen[0]) ** 2
    for _ in range(count - 1):
        ways = np.cumsum(distance)
        at = np.searchsorted(ways, random.random() * ways[-1], side="right")
        chosen.append(ordered[min(at, len(ordered) - 1)])
        distance = np.minimum(distance, (ordered - chosen[-1]) ** 2)
    return np.sort(np.array(chosen))


def _lloyd(ordered: np.ndarray, sums: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """One step of Lloyd's algorithm; a cluster without members stays where it is.

    In one dimension clusters are runs of the ordered values, so that running sums
    give their means.
    """
    ends = _ends(ordered, centroids)
    members = np.diff(ends)
    means = np.diff(sums[ends]) / np.maximum(members, 1)
    return np.sort(np.where(members > 0, means, centroids))


def _ends(ordered: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Where each cluster begins among the values, and where the last one ends."""
    between = (centroids[1:] + centroids[:-1]) / 2
    return np.concatenate([[0], np.searchsorted(ordered, between), [len(ordered)]])


def to_rows(value: Any, channels: tuple[int, ...]) -> tuple[Any, Any]:
    """A weight as rows that are clustered each by itself, and the way back.

    Args:
        value: a weight, tensor or array.
        channels: axes that are kept apart, counted from the end; none for one row.

    Returns:
        (rows, function that gives such rows the shape of the weight).

    Example:
        >>> import numpy as np
        >>> rows, back = to_rows(np.array([[1.0, 2.0], [3.0, 4.0]]), (-1,))
        >>> rows.numpy().tolist(), back(rows).numpy().tolist()
        ([[1.0, 3.0], [2.0, 4.0]], [[1.0, 2.0], [3.0, 4.0]])
    """
    rank = len(value.shape)
    kept = sorted(axis % rank for axis in channels)
    order = [*kept, *(axis for axis in range(rank) if axis not in kept)]
    turned = tf.transpose(value, order)
    count = int(np.prod([value.shape[axis] for axis in kept], dtype=int))

    def back(rows: Any) -> Any:
        return tf.transpose(tf.reshape(rows, turned.shape), np.argsort(order))

    return tf.reshape(turned, (count, -1)), back


@tf.custom_gradient
def replace_by_centroids(rows: Any, centroids: Any) -> Any:
    """Each value replaced by the nearest centroid of its row.

    The gradient goes straight through to the values, which so may change clusters, and
    to each centroid as the mean over its members: it moves as they would together.
    A centroid of exactly zero stays where it is, and zeros in its row stay zeros.

    Args:
        rows: float32 tensor (rows, values).
        centroids: float32 tensor (rows, clusters), in any order.

    Returns:
        A tensor of the shape of `rows`.

    Example:
        >>> import tensorflow as tf
        >>> rows = tf.constant([[0.1, 0.9, 1.2]])
        >>> replace_by_centroids(rows, tf.constant([[1.0, 0.0]])).numpy().tolist()
        [[0.0, 1.0, 1.0]]
    """
    order = tf.argsort(centroids, axis=-1)
    ordered = tf.gather(centroids, order, batch_dims=1)
    between = (ordered[:, 1:] + ordered[:, :-1]) / 2
    nearest = tf.searchsorted(between, rows)

    def gradient(upstream: Any) -> tuple[Any, Any]:
        count = centroids.shape[-1]
        zero = ordered == 0
        stays = tf.reduce_any(zero, axis=-1, keepdims=True) & (rows == 0)
        offsets = tf.range(rows.shape[0])[:, None] * count
        segments = tf.reshape(nearest + offsets, [-1])
        total = rows.shape[0] * count
        sums, members = (
            tf.math.unsorted_segment_sum(tf.reshape(x, [-1]), segments, total)
            for x in (upstream, tf.ones_like(upstream))
        )
        means = tf.reshape(sums / tf.maximum(members, 1), ordered.shape)
        means = tf.where(zero, tf.zeros_like(means), means)
        inverse = tf.argsort(order, axis=-1)
        back = tf.gather(means, inverse, batch_dims=1)
        return tf.where(stays, tf.zeros_like(upstream), upstream), back

    return tf.gather(ordered, nearest, batch_dims=1), gradient
