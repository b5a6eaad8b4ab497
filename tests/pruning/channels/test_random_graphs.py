"""Properties that hold for any model that channels can be followed through."""

import keras
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kacc
from kacc.core.channels.graph import dependencies
from kacc.core.cost import cost
from kacc.pruning.channels.ledger import Ledger
from kacc.pruning.channels.pruner import plan_channels
from kacc.pruning.channels.rebuild import Rebuild
from tests.pruning.channels import graphs

SOME = settings(
    max_examples=10, suppress_health_check=[HealthCheck.too_slow], deadline=None
)


def _outputs(model, x):
    return [np.asarray(y) for y in keras.tree.flatten(model(x, training=False))]


def _require_equal(model, other, x):
    for wanted, got in zip(_outputs(model, x), _outputs(other, x), strict=True):
        scale = max(1.0, float(np.abs(wanted).max()))
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * scale)


def _random_cut(found, draw):
    """For each group some channels that remain, at least one."""
    remaining = found.everything()
    for group in found.groups:
        keep = draw(st.integers(1, len(group.classes)))
        order = draw(st.permutations(range(len(group.classes))))
        remaining[group.classes[order[keep:]]] = False
    return remaining


def _zero(found, remaining, reading):
    """Sets the weights of the channels that go to zero.

    `reading`: also those by which layers read the channels. Without them a channel must
    be zero by itself, so the statistics of batch normalization are set too.
    """
    for axis in found.axes:
        gone = ~remaining[axis.channels]
        reads = axis.attribute.endswith("kernel") and not axis.produces
        if reads and not reading:
            continue
        if axis.attribute == "moving_variance":
            continue
        values = axis.variable.numpy()
        values[(..., gone, *[slice(None)] * (-axis.axis - 1))] = 0.0
        axis.variable.assign(values)


@SOME
@given(st.data())
def test_removing_channels_of_zero_weights_changes_nothing(data):
    model = data.draw(graphs.models())
    found = dependencies(model)
    remaining = _random_cut(found, data.draw)
    _zero(found, remaining, reading=True)
    smaller = Rebuild(found, remaining).model()
    _require_equal(model, smaller, graphs.data())
    assert cost(smaller).params <= cost(model).params


@SOME
@given(st.data())
def test_removing_channels_that_are_zero_changes_nothing(data):
    model = data.draw(graphs.models())
    found = dependencies(model)
    remaining = _random_cut(found, data.draw)
    _zero(found, remaining, reading=False)
    smaller = Rebuild(found, remaining).model()
    _require_equal(model, smaller, graphs.data())


@SOME
@given(graphs.models())
def test_with_the_whole_budget_the_model_stays_what_it_is(model):
    copy = kacc.prune_channels(model, macs=1.0)
    _require_equal(model, copy, graphs.data())
    assert [v.shape for v in copy.variables] == [v.shape for v in model.variables]


@SOME
@given(st.data())
def test_the_ledger_counts_what_the_smaller_model_costs(data):
    model = data.draw(graphs.models())
    found = dependencies(model)
    remaining = _random_cut(found, data.draw)
    kept = np.array([int(remaining[g.classes].sum()) for g in found.groups], int)
    counted = cost(Rebuild(found, remaining).model())
    for name in ("macs", "params", "bytes"):
        assert Ledger(found, name).cost(kept) == getattr(counted, name)


@SOME
@given(
    graphs.models(), st.sampled_from((1, 2, 4)), st.sampled_from(("global", "local"))
)
def test_layers_keep_multiples(model, round_to, scope):
    plan = plan_channels(
        model, params=0.6, round_to=round_to, scope=scope, importance="l1"
    )
    rebuild = Rebuild(plan.dependencies, plan.remaining)
    _outputs(rebuild.model(), graphs.data())
    shapes = {id(old): (old.shape, new.shape) for old, new in rebuild.variables()}
    for axis in plan.dependencies.axes:
        if axis.produces:
            before, after = (shape[axis.axis] for shape in shapes[id(axis.variable)])
            assert after == before or after % round_to == 0
