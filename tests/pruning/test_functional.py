"""The pure functions: exact counts, patterns, ties, shapes of every kind."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kacc.pruning import functional as f

SHAPES = hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=9)
SPARSITIES = st.floats(0, 1)
# Few different values, so that there are ties.
WEIGHTS = SHAPES.flatmap(
    lambda shape: hnp.arrays(
        np.float32, shape, elements=st.sampled_from([-2.0, -0.5, 0.0, 0.5, 1.0, 3.0])
    )
)


def zeros_of(units, sparsity):
    count = f.count_of(sparsity, int(units.sizes.sum()))
    return units.expand(f.smallest(units.scores, count, units.sizes))


@given(WEIGHTS, SPARSITIES)
def test_magnitude_takes_just_as_many_and_the_smallest(value, sparsity):
    zeros = zeros_of(f.weight_units(value), sparsity)
    assert zeros.shape == value.shape
    assert zeros.sum() == f.count_of(sparsity, value.size)
    if zeros.any() and not zeros.all():
        assert np.abs(value)[zeros].max() <= np.abs(value)[~zeros].min()


@given(WEIGHTS, SPARSITIES)
def test_of_equal_weights_the_first_go(value, sparsity):
    zeros = zeros_of(f.weight_units(value), sparsity).ravel()
    magnitudes = np.abs(value).ravel()
    for size in set(magnitudes):
        tied = zeros[magnitudes == size]
        assert (np.diff(tied.astype(int)) <= 0).all()


@given(WEIGHTS, SPARSITIES, SPARSITIES)
def test_masks_are_nested(value, first, second):
    """What is pruned stays so, although the weights change in between."""
    low, high = sorted((first, second))
    before = zeros_of(f.weight_units(value), low)
    later = value[::-1] * 0.7
    after = zeros_of(f.weight_units(later, before), high)
    assert (after | ~before).all()
    assert after.sum() == f.count_of(high, value.size)


@given(
    WEIGHTS,
    SPARSITIES,
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.sampled_from([(-2, -1), (-1, -2), (0, 1)]),
)
def test_blocks_go_as_a_whole(value, sparsity, block, axes):
    units = f.block_units(value, block, axes)
    assert units.sizes.sum() == value.size
    zeros = zeros_of(units, sparsity)
    assert zeros.shape == value.shape
    moved = np.moveaxis(zeros, axes, (-2, -1))
    rows, columns = moved.shape[-2:]
    for i in range(0, rows, block[0]):
        for j in range(0, columns, block[1]):
            part = moved[..., i : i + block[0], j : j + block[1]]
            flat = part.reshape(*part.shape[:-2], -1)
            assert (flat == flat[..., :1]).all()
    # No other number of blocks comes nearer.
    off = abs(int(zeros.sum()) - f.count_of(sparsity, value.size))
    assert off <= block[0] * block[1] / 2


@given(WEIGHTS, st.tuples(st.integers(1, 4), st.integers(1, 4)))
def test_blocks_of_one_weight_are_magnitude(value, block):
    units = f.block_units(value, (1, 1))
    np.testing.assert_array_equal(
        zeros_of(units, 0.5), zeros_of(f.weight_units(value), 0.5)
    )


def test_blocks_are_ranked_by_their_mean_magnitude():
    value = np.array([[1.0, -1.0, 3.0], [5.0, 0.0, 0.5]])
    units = f.block_units(value, (1, 2))
    np.testing.assert_allclose(units.scores, [1.0, 3.0, 2.5, 0.5])
    np.testing.assert_array_equal(units.sizes, [2, 1, 2, 1])
    np.testing.assert_array_equal(
        zeros_of(units, 0.5), [[True, True, False], [False, False, True]]
    )


@given(
    WEIGHTS,
    st.sampled_from([(2, 4), (1, 4), (1, 2), (3, 4), (2, 3)]),
    st.sampled_from([-2, -1, 0]),
)
def test_n_of_m_holds_in_each_group(value, pattern, axis):
    n, m = pattern
    units = f.n_of_m_units(value, n, m, axis)
    free = np.isfinite(units.scores)
    zeros = units.expand(f.smallest(units.scores, int(free.sum())))
    moved = np.moveaxis(zeros, axis, -1)
    sizes = np.moveaxis(np.abs(value), axis, -1)
    for start in range(0, moved.shape[-1], m):
        group = moved[..., start : start + m]
        length = group.shape[-1]
        assert (group.sum(-1) == max(0, length - n)).all()
        kept = np.where(group, np.inf, sizes[..., start : start + m])
        gone = np.where(group, sizes[..., start : start + m], -np.inf)
        assert (gone.max(-1) <= kept.min(-1)).all()


def test_two_of_four_is_exactly_half():
    value = np.random.default_rng(0).normal(size=(3, 3, 16, 8))
    units = f.n_of_m_units(value, 2, 4)
    assert np.isfinite(units.scores).sum() * 2 == value.size


@given(WEIGHTS, st.floats(0, 1))
def test_n_of_m_prunes_the_smallest_first(value, part):
    """On the way to the pattern."""
    units = f.n_of_m_units(value, 2, 4)
    free = np.isfinite(units.scores)
    count = f.count_of(part, int(free.sum()))
    zeros = f.smallest(units.scores, count)
    assert zeros.sum() == count
    assert not zeros[~free].any()


@given(WEIGHTS, st.floats(0, 4))
def test_soft_threshold_is_the_proximal_operator(value, threshold):
    """It minimizes (x - w)^2 / 2 + t |x|: no neighbour is better."""
    got = f.soft_threshold(value, threshold)
    assert got.dtype == value.dtype

    def cost(x):
        return (x - value) ** 2 / 2 + threshold * np.abs(x)

    for step in (-1e-2, 1e-2):
        assert (cost(got) <= cost(got + step) + 1e-6).all()


@pytest.mark.parametrize("count", [0, 3])
def test_smallest_of_none_and_all(count):
    np.testing.assert_array_equal(f.smallest(np.zeros(3), count), [count > 0] * 3)


def test_sparsity_counts_negative_zeros():
    assert f.sparsity_of(np.array([0.0, -0.0, 1.0, 2.0])) == 0.5
