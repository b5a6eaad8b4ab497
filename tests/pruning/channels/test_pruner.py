"""`kacc.prune_channels`: budgets, costs and wrong calls."""

import keras
import numpy as np
import pytest
from keras import layers

import kacc
from kacc.core import cost
from kacc.pruning.channels.pruner import plan_channels
from tests.core import models as small_models


def _model(width=32):
    image = keras.Input((8, 8, 3))
    x = image
    for number in range(3):
        x = layers.Conv2D(width, 3, padding="same", name=f"conv_{number}")(x)
        x = layers.ReLU()(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(10)(x))


@pytest.mark.parametrize("name", ["macs", "params", "bytes"])
@pytest.mark.parametrize("scope", ["global", "local"])
def test_budgets_by_name(name, scope):
    model = _model()
    smaller = kacc.prune_channels(model, **{name: 0.5}, scope=scope, round_to=2)
    by_cost = kacc.prune_channels(model, share=0.5, cost=name, scope=scope, round_to=2)
    share = cost.NAMED[name](smaller) / cost.NAMED[name](model)
    assert 0.485 <= share <= 0.5
    assert [v.shape for v in smaller.variables] == [v.shape for v in by_cost.variables]


def test_a_callable_is_the_cost():
    model = _model()
    calls = []

    def widest(candidate):
        calls.append(candidate)
        return max(
            layer.filters for layer in candidate.layers if hasattr(layer, "filters")
        )

    smaller = kacc.prune_channels(model, share=0.5, cost=widest, scope="local")
    assert widest(smaller) == 16
    assert calls[0] is model
    assert len(calls) <= 11
    again = kacc.prune_channels(model, latency=0.5, cost=widest, scope="local")
    assert widest(again) == 16


# Latencies of tiny models jitter: that the budget is missed may be warned of.
@pytest.mark.filterwarnings("ignore:.*of the cost is left")
def test_latency_is_measured_in_litert():
    model = _model(16)
    smaller = kacc.prune_channels(model, latency=0.9)
    assert smaller.count_params() < model.count_params()


def test_what_cannot_be_reached_is_said():
    with pytest.warns(UserWarning, match=r"of the cost is left where 0\.010 was asked"):
        smaller = kacc.prune_channels(_model(), macs=0.01)
    assert [x.filters for x in smaller.layers if hasattr(x, "filters")] == [8, 8, 8]


def test_compiled_or_not_the_result_is_plain_and_the_old_model_stays():
    model = _model()
    model.compile("adam", "mse")
    weights = [w.copy() for w in model.get_weights()]
    smaller = kacc.prune_channels(model, macs=0.5)
    assert not smaller.compiled
    assert type(smaller) is type(model)
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(after, before)


BAD = [
    ({}, "Exactly one share"),
    ({"macs": 0.5, "params": 0.5}, "Exactly one share"),
    ({"macs": 0}, "above 0 and at most 1"),
    ({"macs": 2}, "above 0 and at most 1"),
    ({"macs": "half"}, "above 0 and at most 1"),
    ({"share": 0.5}, "`share` needs `cost`"),
    ({"share": 0.5, "cost": "watts"}, "`cost` must be one of"),
    ({"macs": 0.5, "cost": "macs"}, "is a cost already"),
    ({"macs": 0.5, "importance": "l3"}, "`importance` must be one of"),
    ({"macs": 0.5, "importance": "taylor"}, "measured on `data`"),
    ({"macs": 0.5, "round_to": 0}, "`round_to` must be a positive integer"),
    ({"macs": 0.5, "scope": "here"}, "`scope` must be one of"),
    ({"macs": 0.5, "rules": ["stem"]}, "`rules` must be kacc.Rule objects"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_wrong_calls(arguments, message):
    with pytest.raises(kacc.UsageError, match=message):
        kacc.prune_channels(small_models.small(), **arguments)


def test_models_with_transforms_and_unbuilt_ones_are_refused():
    with pytest.raises(kacc.UsageError, match="plain models"):
        kacc.prune_channels(kacc.quantize(small_models.small()), macs=0.5)
    with pytest.raises(kacc.UsageError, match="must be built"):
        kacc.prune_channels(keras.Sequential([layers.Dense(2)]), macs=0.5)


def _sum_of_branches(width, *branches):
    """A dense layer whose units are added to those of others, side by side."""
    x = keras.Input((16,))
    parts = [keras.layers.Dense(n, name=f"part_{n}")(x) for n in branches]
    y = keras.layers.Dense(width, name="whole")(x) + keras.ops.concatenate(parts, -1)
    return keras.Model(x, keras.layers.Dense(2, name="head")(y))


def _split(width, first):
    x = keras.Input((16,))
    y = keras.layers.Dense(width, name="whole")(x)
    a, b = y[:, :first], y[:, first:]
    heads = [keras.layers.Dense(n)(part) for n, part in ((32, a), (2, b))]
    return keras.Model(x, heads)


@pytest.mark.parametrize("scope", ["global", "local"])
@pytest.mark.parametrize(
    ("model", "round_to", "possible"),
    [
        (lambda: _sum_of_branches(7, 3, 4), 2, {7, 6, 4}),
        (lambda: _sum_of_branches(7, 1, 6), 2, {7}),
        (lambda: _sum_of_branches(20, 16, 4), 8, {20}),
        (lambda: _sum_of_branches(30, 18, 12), 4, {30, *range(4, 30, 4)}),
        (lambda: _split(6, 3), 2, {6, 4}),
        (lambda: _split(58, 29), 8, {58, *range(8, 58, 8)}),
    ],
    ids=["7=3+4", "7=1+6", "20=16+4", "30=18+12", "6=3|3", "58=29|29"],
)
def test_layers_of_several_groups_keep_a_multiple_or_all(
    model, round_to, possible, scope
):
    model = model()
    seen = set()
    for share in (1.0, 0.95, 0.85, 0.7, 0.5, 0.3):
        plan = plan_channels(model, params=share, round_to=round_to, scope=scope)
        smaller = plan.build()
        seen.add(smaller.get_layer("whole").units)
    assert seen <= possible
    assert len(seen) >= min(2, len(possible))  # they are cut where they can be
