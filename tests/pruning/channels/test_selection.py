"""Choosing channels under a budget."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kacc.core.channels.graph import Group
from kacc.pruning.channels import selection


def _problem(widths, steps, seed):
    rng = np.random.default_rng(seed)
    groups = [Group(np.arange(w), (f"g{i}",), (1,)) for i, w in enumerate(widths)]
    scores = [rng.uniform(0.1, 2.0, w) for w in widths]
    chunks = selection.chunks_of(groups, scores, steps, np.ones(len(widths)))
    prices = rng.uniform(1, 10, len(widths))
    return np.array(widths), chunks, lambda kept: float(prices @ kept)


@given(
    st.lists(st.integers(1, 70), min_size=1, max_size=6),
    st.sampled_from((1, 4, 8)),
    st.floats(0.2, 0.95),
    st.integers(0, 9),
    st.sampled_from((selection.select_globally, selection.select_locally)),
)
def test_the_budget_is_kept_and_nearly_spent(widths, step, share, seed, select):
    widths, chunks, cost = _problem(widths, [step] * len(widths), seed)
    budget = share * cost(widths)
    kept = selection.approach(
        select(widths, chunks, cost, budget), chunks, cost, budget
    )
    least = np.array(
        [min([w, *(c.after for c in g)]) for w, g in zip(widths, chunks, strict=True)]
    )
    if cost(least) > budget:
        np.testing.assert_array_equal(kept, least)
        return
    assert cost(kept) <= budget
    assert (kept >= least).all()
    allowed = [selection.counts_allowed(int(w), step) for w in widths]
    assert all(n in counts for n, counts in zip(kept, allowed, strict=True))
    # No chunk that was taken can be given back.
    for group in chunks:
        for chunk in group:
            if chunk.after == kept[chunk.group]:
                more = kept.copy()
                more[chunk.group] = chunk.before
                assert cost(more) > budget or cost(kept) >= 0.997 * budget


def test_the_least_important_go_first():
    groups = [Group(np.arange(4), ("a",), (1,)), Group(np.arange(4), ("b",), (1,))]
    scores = [np.array([1.0, 2.0, 3.0, 4.0]), np.array([9.0, 9.0, 9.0, 0.5])]
    chunks = selection.chunks_of(groups, scores, [1, 1], np.ones(2))
    kept = selection.select_globally(
        np.array([4, 4]), chunks, lambda kept: float(kept.sum()), 5.0
    )
    assert kept.tolist() == [2, 3]
    assert selection.highest(scores[0], 2).tolist() == [False, False, True, True]


def test_locally_every_group_loses_the_same_share():
    widths, chunks, cost = _problem([64, 32, 16], [1, 1, 1], 0)
    kept = selection.select_locally(widths, chunks, cost, 0.5 * cost(widths))
    assert np.ptp(kept / widths) < 0.07


@pytest.mark.parametrize(
    ("width", "step", "counts"),
    [(20, 8, [20, 16, 8]), (8, 8, [8]), (5, 8, [5]), (100, 8, list(range(96, 8, -8)))],
)
def test_counts_are_multiples_and_not_below_the_least(width, step, counts):
    expected = counts if counts[0] == width else [width, *counts]
    assert selection.counts_allowed(width, step) == expected
