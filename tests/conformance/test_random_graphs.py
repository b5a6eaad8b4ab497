"""Random graphs of the registry's layers: the file equals the simulation to the bit.

200 graphs in packs, which are spread over processes; `scripts/bench/random_graphs.py`
tries many more. What fails is printed with its `Branch`, by which it is made again.
"""

import functools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from tests.conformance.graph_checks import check, pack
from tests.conformance.random_graphs import kinds, random_branch

GRAPHS = 28  # of a pack: 200 in all, but for those without an integer file

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

# A number for each branch: what is drawn next to it is a different one, and not a copy
# with one step changed.
BRANCHES = st.integers(0, 2**32 - 1).map(
    lambda seed: random_branch(np.random.default_rng(seed))
)


@functools.cache
def drawn(seed):
    """Different branches: a pack takes hardly longer to convert than one of them."""
    found = {}

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=2 * GRAPHS,
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
    """So that they say something; some have no integer file, or no output."""
    packs = [pack(drawn(seed)) for seed in PACKS]
    assert sum(len(p.graphs) for p in packs) >= 200
    tried = {kind for p in packs for graph in p.graphs.values() for kind in graph.kinds}
    assert len(tried) > 0.8 * len({kind.name for kind in kinds()})
