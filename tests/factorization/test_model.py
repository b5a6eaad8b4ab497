"""`kacc.factorize`: budgets, ranks, energy, data, models of all kinds, wrong calls."""

import io

import keras
import numpy as np
import pytest
from keras import layers
from rich.console import Console

import kacc
from kacc.core import cost
from kacc.factorization import plan
from tests.core import models as small_models
from tests.factorization.kernels import low_rank, randomize


def _model(width=32):
    image = keras.Input((8, 8, 3))
    x = image
    for number in range(3):
        x = layers.Conv2D(width, 3, padding="same", name=f"conv_{number}")(x)
        x = layers.ReLU()(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(10, name="head")(x), name="model")


@pytest.mark.parametrize(
    ("name", "method"),
    [
        *(("macs", method) for method in ("auto", "channel", "spatial", "tucker")),
        ("params", "auto"),
        ("bytes", "auto"),
    ],
)
def test_budgets_by_name(name, method):
    model = _model()
    for share in (0.7, 0.3):
        smaller = kacc.factorize(model, **{name: share}, method=method)
        reached = cost.NAMED[name](smaller) / cost.NAMED[name](model)
        assert share * 0.95 <= reached <= share


def test_a_share_of_a_cost_is_the_same_budget():
    by_cost, by_name = (
        plan(_model(), share=0.5, cost="bytes"),
        plan(_model(), bytes=0.5),
    )
    assert [x.params for x in by_cost.layers] == [x.params for x in by_name.layers]


def test_auto_keeps_at_least_what_each_method_keeps():
    model = _model()

    def kept(method):
        found = plan(model, macs=0.5, method=method)
        return np.prod([layer.kept for layer in found.layers])

    # Each method's ranks are candidates of auto too; costs are rounded up to units.
    assert all(kept("auto") >= kept(m) - 1e-3 for m in ("channel", "spatial", "tucker"))


def test_with_the_whole_budget_nothing_is_factored():
    found = plan(_model(), macs=1.0)
    assert not found.chosen
    assert all(layer.reason for layer in found.layers)


def test_a_callable_is_the_cost():
    model, calls = _model(), []

    def entries(candidate):
        calls.append(candidate)
        return float(candidate.count_params())

    smaller = kacc.factorize(model, share=0.5, cost=entries)
    assert smaller.count_params() <= 0.5 * model.count_params()
    assert calls[0] is model
    assert len(calls) <= 9
    again = kacc.factorize(model, latency=0.5, cost=entries)
    assert again.count_params() == smaller.count_params()


def test_what_cannot_be_reached_is_said():
    with pytest.warns(UserWarning, match="of the cost is left where 0.001 was asked"):
        smaller = kacc.factorize(_model(), macs=0.001)
    assert cost.macs(smaller) < 0.1 * cost.macs(_model())


def test_why_a_layer_was_left_alone():
    def reasons(**arguments):
        return {row.path: row.reason for row in plan(_model(), **arguments).layers}

    assert reasons(ranks={"head": 2})["conv_1"] == "no rank was given for it"
    assert reasons(energy=0.999)["conv_1"].startswith(
        "factors that save keep less than"
    )
    assert reasons(macs=0.98)["head"] == "less is lost elsewhere"
    tiny = keras.Sequential([keras.Input((2,)), layers.Dense(2)])
    assert plan(tiny, macs=0.5).layers[0].reason == "factors would not save MACs"


def test_energy_keeps_at_least_that_at_the_least_rank():
    model = _model()
    found = plan(model, energy=0.8)
    assert found.chosen
    for one in found.chosen:
        assert one.option.kept >= 0.8
        assert one.option.costs["macs"] < one.target.costs["macs"]
    by_bytes = plan(model, energy=0.8, cost="bytes")
    assert sum(layer.params[1] for layer in by_bytes.layers) <= sum(
        layer.params[1] for layer in found.layers
    )
    # Factors that keep everything of a random kernel save nothing.
    assert not plan(model, energy=1.0).chosen


def test_ranks_by_pattern_share_and_pair():
    model = _model()
    found = plan(model, ranks={"conv_.*": 0.25, "conv_1": (4, 6), "conv_2": 3})
    rows = {row.path: row for row in found.layers}
    assert (rows["conv_0"].method, rows["conv_0"].ranks) == ("spatial", (2,))
    assert rows["conv_1"].method == "tucker"
    assert rows["conv_1"].ranks == (4, 6)
    assert (rows["conv_2"].method, rows["conv_2"].ranks) == ("spatial", (3,))
    assert rows["head"].method is None
    assert plan(model, ranks={"head": 99}).chosen[0].option.ranks == (10,)
    assert plan(model, ranks=(3, 2), method="tucker").layers[-1].ranks == (2,)


def test_ranks_are_rounded():
    found = plan(_model(), macs=0.5, round_to=4)
    ranks = [rank for row in found.layers for rank in row.ranks]
    assert ranks
    fulls = [full for row in found.layers for full in row.full]
    assert all(r % 4 == 0 or r == f for r, f in zip(ranks, fulls, strict=True))


def test_rules_leave_layers_alone():
    found = plan(_model(), macs=0.7, rules=[kacc.Rule("conv_1", skip=True)])
    rows = {row.path: row for row in found.layers}
    assert rows["conv_1"].reason == "a rule skips it"
    assert rows["conv_2"].method is not None


def _error(model, smaller, x):
    wanted = model.predict(x, verbose=0)
    return np.square(smaller.predict(x, verbose=0) - wanted).mean() / wanted.var()


def test_data_of_low_rank_is_kept_where_weights_alone_say_nothing():
    model = randomize(
        keras.Sequential([keras.Input((32,)), layers.Dense(24, name="dense")])
    )
    x = low_rank((400, 32), 6).astype("float32")
    aware = kacc.factorize(model, ranks=6, calibration=x)
    plain = kacc.factorize(model, ranks=6)
    assert _error(model, aware, x) < 1e-4
    assert _error(model, plain, x) > 0.05


def test_data_helps_every_method_on_images():
    rng = np.random.default_rng(0)
    image = keras.Input((8, 8, 12))
    conv = layers.Conv2D(12, 3, padding="same", name="conv")
    model = randomize(keras.Model(image, conv(image)))
    x = rng.normal(size=(64, 8, 8, 4)) @ rng.normal(size=(4, 12)) + 2.0
    x = x.astype("float32")
    for method in ("channel", "spatial", "tucker"):
        aware, plain = (
            kacc.factorize(model, macs=0.4, method=method, calibration=data)
            for data in (x[:32], None)
        )
        assert _error(model, aware, x[32:]) < 0.5 * _error(model, plain, x[32:])


def test_what_is_kept_is_measured_on_the_outputs(monkeypatch):
    """But for the ridge, a share of the errors of weights."""
    monkeypatch.setattr("kacc.factorization.inputs.RIDGE", 1e-6)
    model = randomize(
        keras.Sequential([keras.Input((16,)), layers.Dense(12, name="dense")])
    )
    x = low_rank((500, 16), 12).astype("float32")
    found = plan(model, ranks=4, calibration=x)
    lost = _error(model, found.build(), x)
    assert found.layers[0].kept == pytest.approx(1 - lost, abs=0.01)


def test_a_bias_takes_the_mean_error():
    model = randomize(
        keras.Sequential([keras.Input((16,)), layers.Dense(12, name="dense")])
    )
    x = small_models.vectors(300, 16) + 3.0
    small = kacc.factorize(model, ranks=2, calibration=x)
    gap = small.predict(x, verbose=0).mean(0) - model.predict(x, verbose=0).mean(0)
    np.testing.assert_allclose(gap, 0, atol=1e-4)


def test_kernels_that_are_too_large_go_without_data(monkeypatch):
    monkeypatch.setattr("kacc.factorization.measuring.LARGEST", 100)
    found = plan(_model(), macs=0.5, calibration=small_models.images())
    known = {t.target.path: t.target.inputs.moments for t in found.chosen}
    assert known["conv_1"] is None
    assert plan(_model(), ranks=1, calibration=small_models.images()).chosen[
        0
    ].target.inputs.moments.shape == (27, 27)


@pytest.mark.parametrize("make", small_models.MODELS, ids=lambda make: make.__name__)
def test_every_kind_of_model(make, tmp_path):
    model = make()
    x = small_models.inputs_for(model)
    before = small_models.variables(model)
    full = kacc.factorize(model, ranks=1.0, calibration=x)
    for wanted, got in zip(
        small_models.outputs(model, x), small_models.outputs(full, x), strict=True
    ):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
    small = kacc.factorize(model, ranks=1)
    assert cost.params(small) < cost.params(model)
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    for wanted, got in zip(
        small_models.outputs(small, x), small_models.outputs(loaded, x), strict=True
    ):
        np.testing.assert_array_equal(got, wanted)
    after = small_models.variables(model)
    assert before.keys() == after.keys()
    assert all((before[path] == after[path]).all() for path in before)


def test_kinds_and_names_stay():
    assert isinstance(
        kacc.factorize(small_models.sequential(), ranks=1), keras.Sequential
    )
    small = kacc.factorize(small_models.nested(), ranks=1)
    stem = small.get_layer("body").get_layer("stem")
    assert isinstance(stem, keras.Sequential)
    assert [layer.name for layer in stem.layers] == ["conv_vertical", "conv", "relu"]
    several = kacc.factorize(small_models.several(), ranks=1)
    assert several.output_names == small_models.several().output_names
    assert set(several.output) == {"kind", "amount"}


def test_a_shared_layer_is_factored_once_and_costs_what_it_costs():
    model = small_models.shared()
    found = plan(model, ranks={"conv": 2})
    small = found.build()
    assert [layer.name for layer in small.layers].count("conv") == 1
    (row,) = [row for row in found.layers if row.path == "conv"]
    assert row.macs[0] == 2 * 64 * 81
    rest = cost.macs(model) - row.macs[0]
    assert cost.macs(small) == row.macs[1] + rest


def test_a_subclassed_model_becomes_functional_where_something_is_factored():
    small = kacc.factorize(small_models.subclassed(), ranks=1)
    assert type(small).__name__ == "Functional"
    image = keras.Input((8, 8, 3))
    x = small_models.Residual(name="block")(image)
    x = layers.Dense(4, name="head")(layers.Flatten()(x))
    model = keras.Model(image, x)
    small = kacc.factorize(model, ranks={"head": 2})
    assert isinstance(small.get_layer("block"), small_models.Residual)


def test_names_that_are_taken_are_not_given_again():
    image = keras.Input((8,))
    x = layers.Dense(8, name="a")(layers.Dense(8, name="a_reduce")(image))
    small = kacc.factorize(keras.Model(image, x), ranks=2)
    names = [layer.name for layer in small.layers][1:]
    assert names == ["a_reduce_reduce", "a_reduce", "a_reduce_2", "a"]


def test_the_report_is_a_text_and_a_table():
    found = plan(_model(), macs=0.6, rules=[kacc.Rule("conv_1", skip=True)])
    assert "conv_1: left alone, a rule skips it" in str(found)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(found)
    shown = console.export_text()
    for row in found.layers:
        assert row.path in shown
        assert (row.method or "a rule skips it") in shown


def test_the_factored_model_trains_quantizes_prunes_and_converts(tmp_path):
    model = _model(16)
    small = kacc.factorize(model, macs=0.5, calibration=small_models.images())
    images, labels = small_models.images(32), np.arange(32) % 3
    small.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))
    small.fit(images, labels, verbose=0)
    ptq = kacc.convert(small, tmp_path / "a.tflite", "tflite-int8", images)
    assert ptq.manifest.inputs[0].dtype == "int8"
    pruning = kacc.callbacks.Pruning(0.5)
    qat = kacc.callbacks.QuantizationAwareTraining("int8")
    small.fit(images, labels, verbose=0, callbacks=[pruning, qat])
    trained = kacc.convert(small, tmp_path / "b.tflite", "tflite-int8")
    assert kacc.parity(small, trained, images).equal == 1.0
    fewer = kacc.prune_channels(kacc.strip(small), macs=0.8, round_to=1)
    assert cost.macs(fewer) < cost.macs(small)


def test_text_and_einsum_are_quantized_with_parity(tmp_path):
    words = keras.Input((6,), dtype="int32", name="words")
    x = layers.Embedding(50, 16, name="table")(words)
    x = layers.EinsumDense("abc,cd->abd", (6, 16), bias_axes="d", name="mix")(x)
    x = layers.GlobalAveragePooling1D()(layers.ReLU()(x))
    model = keras.Model(words, layers.Dense(2, name="head")(x))
    data = np.random.default_rng(0).integers(0, 50, (64, 6)).astype("int32")
    small = kacc.factorize(model, params=0.5, calibration=data)
    assert {layer.name for layer in small.layers} >= {"table_reduce", "mix_reduce"}
    small.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))
    qat = kacc.callbacks.QuantizationAwareTraining("int8")
    small.fit(data, data[:, 0] % 2, verbose=0, callbacks=[qat])
    file = kacc.convert(small, tmp_path / "a.tflite", "tflite-int8")
    assert kacc.parity(small, file, data).equal == 1.0


BAD = [
    ({}, "Exactly one of"),
    ({"macs": 0.5, "energy": 0.9}, "Exactly one of"),
    ({"macs": 0.5, "params": 0.5}, "Exactly one of"),
    ({"macs": 0}, "above 0 and at most 1"),
    ({"macs": 2}, "above 0 and at most 1"),
    ({"share": 0.5}, "`share` needs `cost`"),
    ({"share": 0.5, "cost": "watts"}, "`cost` must be one of"),
    ({"macs": 0.5, "cost": "macs"}, "is a cost already"),
    ({"energy": 0.9, "cost": "watts"}, "`cost` must be one of"),
    ({"energy": 0.9, "cost": lambda m: 1.0}, "A callable is a cost for a budget"),
    ({"energy": 1.5}, "`energy` is the share"),
    ({"energy": True}, "`energy` is the share"),
    ({"ranks": 0}, "A rank is"),
    ({"ranks": True}, "A rank is"),
    ({"ranks": 1.5}, "A rank is"),
    ({"ranks": "8"}, "A rank is"),
    ({"ranks": (1, 2, 3)}, "A rank is"),
    ({"ranks": (0, 2)}, "A rank is"),
    ({"ranks": {}}, "must name a layer"),
    ({"ranks": {"nowhere": 2}}, "must match a layer"),
    ({"ranks": {"(": 2}}, "regular expressions"),
    ({"ranks": (2, 2), "method": "spatial"}, "has one rank"),
    ({"macs": 0.5, "method": "cp"}, "`method` must be one of"),
    ({"macs": 0.5, "round_to": 0}, "`round_to` must be a positive integer"),
    ({"macs": 0.5, "rules": ["stem"]}, "`rules` must be kacc.Rule objects"),
    ({"macs": 0.5, "rules": [kacc.Rule("stem", skip=True)]}, "must match a layer"),
    ({"macs": 0.5, "rules": kacc.Rule("stem", skip=True)}, "must be kacc.Rule objects"),
    ({"macs": 0.5, "calibration": np.zeros((0, 8))}, "must hold samples"),
    ({"macs": 0.5, "calibration": np.zeros((4, 7))}, "must fit the inputs"),
    ({"macs": 0.5, "calibration": [np.zeros((4, 8))] * 2}, "must fit the inputs"),
    (
        {"macs": 0.5, "calibration": np.full((4, 8), np.nan)},
        "must hold finite numbers",
    ),
    ({"macs": 0.5, "calibration": "images"}, "must be arrays"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_wrong_calls(arguments, message):
    with pytest.raises(kacc.UsageError, match=message):
        kacc.factorize(small_models.small(), **arguments)


def test_models_with_transforms_and_unbuilt_ones_are_refused():
    with pytest.raises(kacc.UsageError, match="Plain models are factored"):
        kacc.factorize(kacc.quantize(small_models.small()), macs=0.5)
    with pytest.raises(kacc.UsageError, match="must be built"):
        kacc.factorize(keras.Sequential([layers.Dense(2)]), macs=0.5)
