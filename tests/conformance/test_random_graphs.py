"""Random graphs of the registry's layers: the file equals the simulation to the bit.

200 graphs in packs, which are spread over processes; `scripts/bench/random_graphs.py`
tries many more. What fails is printed with its `Branch`, by which it is made again.
"""

import pytest

from tests.conformance.graph_checks import check, pack
from tests.conformance.random_graphs import kinds, random_branches

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
    8: ("int16x8", ("xnnpack", "reference")),
}

# XNNPACK refuses such a ratio of scales: see tests/converters/test_quantized.py.
CRASHES = {(5, 12)}


def drawn(seed):
    """Number -> branch. By numpy: what hypothesis draws depends on loaded modules."""
    branches = enumerate(random_branches(seed, GRAPHS))
    return {i: branch for i, branch in branches if (seed, i) not in CRASHES}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("seed", PACKS)
def test_random_graphs_equal_their_file(seed):
    recipe, kernels = PACKS[seed]
    branches = drawn(seed)
    failures = check(list(branches.values()), kernels, recipe)
    assert not failures, "\n".join(map(str, failures))


def test_packs_are_full_and_hold_most_of_the_registry():
    """So that they say something; some have no integer file, or no output."""
    packs = [pack(drawn(seed).values(), PACKS[seed][0]) for seed in PACKS]
    assert sum(len(p.graphs) for p in packs) >= 200
    tried = {kind for p in packs for graph in p.graphs.values() for kind in graph.kinds}
    assert len(tried) > 0.8 * len({kind.name for kind in kinds()})
