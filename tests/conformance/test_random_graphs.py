"""Random graphs of the registry's layers: the file equals the simulation to the bit.

200 graphs in packs, which are spread over processes; `scripts/bench/random_graphs.py`
tries many more. What fails is printed with its `Branch`, by which it is made again.
"""

import hypothesis
import pytest
from hypothesis import strategies as st

from tests.conformance.graph_checks import check, pack
from tests.conformance.random_graphs import FORMS, SHAPES, Branch, Step

GRAPHS = 25  # of a pack

# Seed -> how it is quantized, and the kernels: XNNPACK always, the others in turn.
PACKS = {
    0: ("int8", ("xnnpack", "builtin", "reference")),
    1: ("int8", ("xnnpack", "builtin")),
    2: ("int8", ("xnnpack", "builtin")),
    3: ("int8", ("xnnpack", "reference")),
    4: ("int8-learned", ("xnnpack", "builtin")),
    5: ("int8-learned", ("xnnpack", "reference")),
    6: ("w4a8", ("xnnpack", "builtin")),
    7: ("w4a8", ("xnnpack", "reference")),
}

NEAR = st.sampled_from([0, 0, 0, 1, 1, 2, 3])
STEPS = st.builds(
    Step,
    kind=st.integers(0, 2**16 - 1),
    sources=st.tuples(NEAR, NEAR, NEAR),
    reuse=st.sampled_from([*7 * [0], 1, 2]),
    shown=st.sampled_from([*9 * [False], True]),
)
BRANCHES = st.builds(
    Branch,
    shape=st.integers(0, len(SHAPES) - 1),
    form=st.sampled_from([*3 * [0], *range(len(FORMS))]),
    steps=st.lists(STEPS, min_size=2, max_size=9).map(tuple),
    seed=st.integers(0, 2**31 - 1),
)


def drawn(seed):
    """Different branches: a pack takes hardly longer to convert than one of them."""
    found = {}

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=3 * GRAPHS,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(BRANCHES)
    def collect(branch):
        found[branch] = None

    collect()
    return list(found)[-GRAPHS:]


@pytest.mark.parametrize("seed", PACKS)
def test_random_graphs_equal_their_file(seed):
    recipe, kernels = PACKS[seed]
    failures = check(drawn(seed), kernels, recipe)
    assert not failures, "\n".join(map(str, failures))


def test_packs_are_full_and_hold_most_of_the_registry():
    """So that 200 graphs are 200, and say something."""
    packs = [pack(drawn(seed)) for seed in PACKS]
    assert all(len(p.graphs) + len(p.excluded) == GRAPHS for p in packs)
    assert sum(len(p.excluded) for p in packs) < 0.05 * GRAPHS * len(PACKS)
