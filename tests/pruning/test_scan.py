"""How much each layer suffers, and the sparsities that follow from it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import kacc
from kacc.core.errors import UsageError
from kacc.pruning import Sensitivity, sensitivity

X = np.random.default_rng(0).normal(size=(64, 16)).astype("float32")


def network():
    """Of the layer "idle" nine weights of ten count for nothing; "busy" needs all."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((16,)),
            *[layers.Dense(16, name=name) for name in ("in", "idle", "busy", "out")],
        ]
    )
    weak = np.random.default_rng(2).permutation(256).reshape(16, 16) < 230
    idle = model.get_layer("idle").kernel
    idle.assign(np.where(weak, 1e-5, 1) * idle.numpy())
    busy = model.get_layer("busy").kernel
    busy.assign(np.sign(busy.numpy()) * 0.25)
    model.compile("adam", "mse")
    return model


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.fixture(scope="module")
def data(model):
    """What the model makes of the samples, so that its loss is zero."""
    return X, model.predict(X, verbose=0)


@pytest.fixture(scope="module")
def scan(model, data):
    return sensitivity(model, data, levels=(0.5, 0.9))


def loss_of(model, data):
    return float(model.evaluate(*data, verbose=0))


@pytest.mark.parametrize("method", ["magnitude", (1, 4), "2:4"])
def test_losses_are_those_of_one_layer_pruned_at_a_time(method, data, model):
    levels = (0.5,) if method == "2:4" else (0.5, 0.9)
    found = sensitivity(model, data, levels, method)
    assert set(found.losses) == {"idle", "busy"}
    assert found.sizes == {"idle": 256, "busy": 256}
    assert found.baseline == pytest.approx(0, abs=1e-9)
    for path, curve in found.losses.items():
        assert set(curve) == set(levels)
        for level, loss in curve.items():
            alone = network()
            rules = [kacc.Rule(".*", skip=True), kacc.Rule(path, sparsity=level)]
            kacc.prune(alone, level, method, rules)
            assert loss == pytest.approx(loss_of(alone, data), rel=1e-4, abs=1e-9)


def test_the_model_is_as_before(model, data):
    before = [v.numpy() for v in model.variables]
    sensitivity(model, data, levels=(0.5,))
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert not kacc.core.attach.is_attached(model)


def test_the_model_is_as_before_when_a_measurement_fails(model, data, monkeypatch):
    before = model.get_layer("idle").kernel.numpy()
    measured = iter([{"loss": 0.0}])
    monkeypatch.setattr(model, "evaluate", lambda *args, **options: next(measured))
    with pytest.raises(StopIteration):
        sensitivity(model, data, levels=(0.5,))
    np.testing.assert_array_equal(model.get_layer("idle").kernel.numpy(), before)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_is_refused(value, model, data):
    x, y = data[0].copy(), data[1]
    x[3, 2] = value
    with pytest.raises(UsageError, match=r"finite.*the model as it is"):
        sensitivity(model, (x, y))


def test_a_loss_that_pruning_makes_infinite_names_its_layer(model, data, monkeypatch):
    before = model.get_weights()
    monkeypatch.setattr("kacc.pruning.scan._pruned", lambda *_: np.full((16, 16), 1e30))
    with pytest.raises(UsageError, match=r"'idle' pruned to 0\.5"):
        sensitivity(model, data, levels=(0.5,))
    for wanted, got in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_its_rules_spare_the_layer_that_needs_its_weights(scan, data):
    rules = scan.rules(0.5)
    chosen = {rule.pattern: rule.sparsity for rule in rules}
    assert chosen["idle"] > 0.85
    assert chosen["busy"] < 0.15
    by_scan, uniform = network(), network()
    kacc.prune(by_scan, rules=rules)
    kacc.prune(uniform, 0.5, scope="layer")
    assert kacc.pruning.sparsity(by_scan) == pytest.approx(0.5, abs=0.005)
    assert loss_of(by_scan, data) < loss_of(uniform, data) / 2


def test_datasets_and_ends_and_rules(model, data):
    dataset = tf.data.Dataset.from_tensor_slices(data).batch(16)
    rules = [kacc.Rule("idle", skip=True)]
    found = sensitivity(model, dataset, (0.5,), rules=rules, keep_ends=False)
    assert set(found.losses) == {"in", "busy", "out"}
    arrays = sensitivity(model, data, (0.5,), rules=rules, keep_ends=False)
    for path, curve in arrays.losses.items():
        assert found.losses[path][0.5] == pytest.approx(curve[0.5], rel=1e-4)


CURVE = st.lists(st.floats(0, 10), min_size=3, max_size=3)


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from("abcd"), CURVE, min_size=1),
    st.floats(0, 0.9),
    st.lists(st.integers(1, 1000), min_size=4, max_size=4),
)
def test_rules_reach_the_sparsity_whatever_the_losses(curves, wanted, numbers):
    losses = {
        path: dict(zip((0.3, 0.6, 0.9), curve, strict=True))
        for path, curve in curves.items()
    }
    sizes = dict(zip(curves, numbers, strict=False))
    chosen = Sensitivity(1.0, losses, sizes).rules(wanted)
    shares = {rule.pattern: rule.sparsity for rule in chosen}
    assert set(shares) == set(curves)
    assert all(0 <= share <= 0.9 + 1e-9 for share in shares.values())
    reached = sum(shares[path] * sizes[path] for path in sizes)
    assert reached == pytest.approx(wanted * sum(sizes.values()), abs=1e-6)


def test_paths_are_taken_literally():
    scan = Sensitivity(0.0, {"a.b": {0.5: 1.0}}, {"a.b": 4})
    (rule,) = scan.rules(0.5)
    assert rule.pattern == r"a\.b"


def test_the_table_has_a_row_for_each_layer(scan):
    first, levels, *rows = str(scan).splitlines()
    assert first == "loss as it is: 0.0000"
    assert levels.split() == ["0.5", "0.9"]
    assert [row.split()[0] for row in rows] == ["idle", "busy"]
    assert rows[1].split()[1:] == [f"{v:.4f}" for v in scan.losses["busy"].values()]


def test_wrong_arguments(scan, model, data):
    with pytest.raises(UsageError, match=r"reach the sparsity.*0\.95.*at most 0\.9"):
        scan.rules(0.95)
    with pytest.raises(UsageError, match=r"A level must be the share.*1\.5"):
        sensitivity(model, data, levels=(0.5, 1.5))
    with pytest.raises(UsageError, match=r"needs levels.*levels \[\]"):
        sensitivity(model, data, levels=())
    plain = keras.Sequential([keras.Input((16,)), layers.Dense(16)])
    with pytest.raises(UsageError, match=r"compiled with a loss.*model\.compile"):
        sensitivity(plain, data)
    plain.compile(loss="mse")
    with pytest.raises(UsageError, match=r"a layer to prune.*keep_ends=False"):
        sensitivity(plain, data)
