"""The knapsack: against all combinations."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kacc.factorization.selection import UNITS, choose

_layer = st.lists(
    st.tuples(st.integers(0, 30), st.floats(0, 10)), min_size=1, max_size=4
)


@given(st.lists(_layer, min_size=1, max_size=4), st.integers(1, 100))
def test_no_combination_within_the_budget_loses_less(layers, budget):
    costs = [[cost for cost, _ in layer] for layer in layers]
    losses = [[loss for _, loss in layer] for layer in layers]
    numbers = choose(costs, losses, budget)
    cost = sum(layer[n] for layer, n in zip(costs, numbers, strict=True))
    loss = sum(layer[n] for layer, n in zip(losses, numbers, strict=True))
    totals = [
        (
            sum(layer[n] for layer, n in zip(costs, combination, strict=True)),
            sum(layer[n] for layer, n in zip(losses, combination, strict=True)),
        )
        for combination in itertools.product(*(range(len(c)) for c in costs))
    ]
    if sum(map(min, costs)) > budget:
        assert cost == sum(map(min, costs))
        return
    assert cost <= budget
    # Costs are rounded up to units, of which each layer may lose one.
    surely = budget * (1 - len(layers) / UNITS)
    within = [other for spent, other in totals if spent <= surely]
    assert loss <= min(within, default=np.inf) + 1e-9


def test_many_layers_keep_the_budget_nearly_whole():
    rng = np.random.default_rng(0)
    costs = [np.sort(rng.uniform(0, 1, 20)) for _ in range(50)]
    losses = [np.sort(rng.uniform(0, 1, 20))[::-1] for _ in range(50)]
    numbers = choose(costs, losses, 20.0)
    spent = sum(layer[n] for layer, n in zip(costs, numbers, strict=True))
    assert 19.8 <= spent <= 20.0


def test_nothing_to_choose():
    assert choose([], [], 5.0) == []
