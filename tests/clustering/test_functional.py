import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given
from hypothesis import strategies as st

from kacc.clustering.functional import kmeans, replace_by_centroids, to_rows

# TensorFlow takes numbers below the smallest normal one, 1.2e-38, for zero.
floats = st.floats(-100, 100, width=32, allow_subnormal=False)


def error(values, centroids):
    return (np.abs(np.ravel(values)[:, None] - centroids).min(-1) ** 2).sum()


def best_error(values, count):
    """Of all ways to cut the ordered values into runs."""
    ordered = np.sort(values)
    best = np.inf
    for cuts in itertools.combinations(range(1, len(ordered)), count - 1):
        runs = np.split(ordered, cuts)
        best = min(best, sum(((run - run.mean()) ** 2).sum() for run in runs))
    return best


@pytest.mark.parametrize("start", ["kmeans++", "linear"])
def test_groups_that_lie_apart_are_found(start):
    groups = np.concatenate([np.linspace(c - 0.1, c + 0.1, 9) for c in (-3, 0, 5)])
    np.testing.assert_allclose(kmeans(groups, 3, start), [-3, 0, 5], atol=1e-6)


@given(st.lists(floats, min_size=5, max_size=9, unique=True), st.integers(2, 4))
def test_centroids_are_a_standstill_of_lloyd_and_no_better_than_the_best(values, count):
    values = np.array(values, "float32")
    centroids = kmeans(values, count)
    assert np.all(np.diff(centroids) >= 0)
    nearest = np.abs(values[:, None] - centroids).argmin(-1)
    # A tie may belong to either side, so means are compared where there is none.
    gaps = np.sort(np.abs(values[:, None] - centroids))
    if np.all(gaps[:, 1] - gaps[:, 0] > 1e-3):
        for i in set(nearest):
            np.testing.assert_allclose(
                centroids[i], values[nearest == i].mean(), rtol=1e-4, atol=1e-4
            )
    if len(values) > count:
        assert error(values, centroids) >= best_error(values, count) * 0.999 - 1e-3


def test_plus_plus_is_near_the_best():
    random = np.random.default_rng(0)
    for _ in range(5):
        values = random.normal(size=12)
        assert error(values, kmeans(values, 3)) <= 2 * best_error(values, 3)


def test_fewer_values_than_clusters_are_all_kept():
    assert kmeans(np.array([2.0, 1.0, 2.0]), 4).tolist() == [1, 2, 2, 2]


@example([0.0], [1.2e-38, 0.0])
@given(
    st.lists(floats, min_size=1, max_size=30),
    st.lists(floats, min_size=2, max_size=8, unique=True),
)
def test_each_value_gets_the_nearest_centroid(values, centroids):
    rows = np.array([values], "float32")
    centroids = np.array([centroids], "float32")
    found = replace_by_centroids(rows, centroids).numpy()[0]
    distances = np.abs(rows[0][:, None].astype("float64") - centroids[0])
    assert set(found) <= set(centroids[0])
    np.testing.assert_allclose(
        np.abs(rows[0].astype("float64") - found),
        distances.min(-1),
        rtol=1e-6,
        atol=2e-38,
    )


def gradients(rows, centroids, upstream):
    rows, centroids = tf.constant(rows), tf.constant(centroids)
    with tf.GradientTape() as tape:
        tape.watch([rows, centroids])
        loss = tf.reduce_sum(replace_by_centroids(rows, centroids) * upstream)
    return [g.numpy().tolist() for g in tape.gradient(loss, [rows, centroids])]


def test_gradients_go_to_values_and_as_means_to_centroids():
    given_, to = gradients(
        [[0.9, 1.2, 4.8], [7.0, 7.0, 7.0]],
        [[5.0, 1.0], [1.0, 8.0]],
        tf.constant([[1.0, 3.0, 5.0], [1.0, 2.0, 6.0]]),
    )
    assert given_ == [[1, 3, 5], [1, 2, 6]]
    assert to == [[5, 2], [0, 3]]


def test_zero_stays_where_it_is_with_its_zeros():
    given_, to = gradients([[0.0, 0.1, 2.0]], [[1.5, 0.0]], tf.constant([[7.0, 5, 3]]))
    assert given_ == [[0, 5, 3]]
    assert to == [[3, 0]]


def test_without_a_centroid_at_zero_zeros_move():
    given_, to = gradients([[0.0, 2.0]], [[1.5, 0.5]], tf.constant([[7.0, 3]]))
    assert given_ == [[7, 3]]
    assert to == [[3, 7]]


@pytest.mark.parametrize("channels", [(), (-1,), (-2, -1), (0, 2)])
def test_rows_and_back(channels):
    value = np.arange(24.0).reshape(2, 3, 4)
    rows, back = to_rows(value, channels)
    assert rows.shape[0] == np.prod([value.shape[c] for c in channels], dtype=int)
    np.testing.assert_array_equal(back(rows), value)


def test_xla_computes_the_same():
    random = np.random.default_rng(0)
    rows = random.normal(size=(3, 50)).astype("float32")
    centroids = random.normal(size=(3, 7)).astype("float32")

    def run(rows, centroids):
        with tf.GradientTape() as tape:
            tape.watch([rows, centroids])
            loss = tf.reduce_sum(replace_by_centroids(rows, centroids) ** 2)
        return tape.gradient(loss, [rows, centroids])

    given_ = [tf.constant(rows), tf.constant(centroids)]
    compiled = tf.function(run, jit_compile=True)(*given_)
    for own, other in zip(run(*given_), compiled, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-5, atol=1e-6)
