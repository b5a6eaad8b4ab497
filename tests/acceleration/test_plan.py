"""Plans: what they try, what they keep, and that they leave no trace."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf

import kacc
from kacc.acceleration import Setting, mixed_precision, plan, restore
from kacc.acceleration import trial as trials
from kacc.acceleration.planning import Row, _choice, _together
from kacc.core.errors import UsageError
from tests.acceleration.conftest import assert_same_state, fit, state


def quick(model, data, **options):
    return plan(model, data, **{"rounds": 1, "verbose": False, **options})


@pytest.fixture
def few(monkeypatch):
    """Only two settings are tried, as XLA takes seconds."""
    settings = [Setting(), Setting(fused=True, dtype="bfloat16")]
    monkeypatch.setattr("kacc.acceleration.planning._singles", lambda *_: settings)


def looks(model):
    """What of a model is not the value of a variable."""
    layers = list(model._flatten_layers())
    return [
        *((type(x), x.dtype_policy.name, vars(x).get("call")) for x in layers),
        model.optimizer,
        model.optimizer.built,
        model.jit_compile,
        model.steps_per_execution,
        model.train_function,
        model.get_compile_config(),
        random.getstate(),
    ]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("trained", [True, False])
def test_a_plan_leaves_the_model_as_it_was(make, data, trained):
    model = make()
    if trained:
        fit(model, data)
        kacc.accelerate(model)
        fit(model, data)
    known, seen = state(model), looks(model)
    result = quick(model, data, memory=1e12)
    assert looks(model) == seen
    # What Keras makes on the first step, metrics, is there now; else nothing.
    assert_same_state(
        state(model)[: len(known)] if not trained else state(model), known
    )
    assert len(result.rows) >= 5
    twin = make()
    if trained:
        fit(twin, data)
        kacc.accelerate(twin)
        fit(twin, data)
    wanted, got = (fit(m, data).history["loss"] for m in (twin, model))
    np.testing.assert_array_equal(got, wanted)


def test_what_is_tried(make, data):
    rows = {str(row.setting): row for row in quick(make(), data, memory=1e12).rows}
    # What was faster alone is tried together, in a seventh row.
    assert list(rows)[:6] == [
        "as it is",
        "fused batch normalization",
        "fused batch normalization + bfloat16",
        "fused batch normalization + XLA",
        "fused batch normalization + 8 steps in a call",
        "fused batch normalization + rematerialization",
    ]
    base = rows["as it is"]
    assert base.ratio == base.low == base.high == 1
    fused = rows["fused batch normalization"]
    assert fused.loss == pytest.approx(base.loss, rel=1e-5)
    half = rows["fused batch normalization + bfloat16"]
    assert half.refused is None
    assert half.loss != base.loss
    assert all(row.median_ms > 0 for row in rows.values() if row.refused is None)


def test_what_a_model_has_already_is_not_tried(make, data):
    model = make()
    kacc.accelerate(model)
    mixed_precision(model)
    tried = [str(row.setting) for row in quick(model, data).rows]
    assert tried[:3] == ["as it is", "XLA", "8 steps in a call"]


@pytest.mark.parametrize("kind", ["arrays", "dataset"])
def test_texts(kind):
    """Layers of texts do not pass for half precision, which is tried with the rest."""
    x, y = np.array(["a b", "c d e"] * 8), np.array([0, 1] * 8)
    vocabulary = keras.layers.TextVectorization(20, output_sequence_length=4)
    vocabulary.adapt(x)
    inputs = keras.Input((), dtype="string")
    tokens = keras.layers.Embedding(20, 4)(vocabulary(inputs))
    pooled = keras.layers.GlobalAveragePooling1D()(tokens)
    model = keras.Model(inputs, keras.layers.Dense(2, "softmax")(pooled))
    model.compile("sgd", "sparse_categorical_crossentropy")
    data = (x, y)
    if kind == "dataset":
        data = tf.data.Dataset.from_tensor_slices(data).batch(8)
    rows = {str(row.setting): row for row in quick(model, data).rows}
    assert rows["bfloat16"].refused is None
    reason = "Keras says that a layer of the model cannot be compiled by XLA"
    assert rows["XLA"].refused == reason


def test_errors_in_the_table_are_short_and_without_colours():
    error = ValueError("Exception encountered\n\x1b[1mInvalid input\x1b[0m\nof a layer")
    assert trials._first_line(error) == "ValueError: Invalid input"
    assert len(trials._first_line(ValueError("a" * 5000))) < 400


def test_what_fails_is_a_row_with_its_reason(few, make, data, monkeypatch):
    def fail(self, model):
        if self.dtype:
            raise tf.errors.ResourceExhaustedError(None, None, "no memory\nat all")

    monkeypatch.setattr(Setting, "apply", fail)
    rows = quick(make(), data).rows
    (failed,) = [row for row in rows if row.setting.dtype]
    assert failed.refused == "ResourceExhaustedError: no memory"
    assert np.isnan(failed.ratio)
    assert not failed.is_faster


def test_operations_that_xla_lacks(data):
    @keras.saving.register_keras_serializable("kacc_tests_plan")
    class Where(keras.layers.Layer):
        def call(self, x):
            return x + tf.cast(tf.strings.length(tf.strings.as_string(x)), x.dtype)

    model = keras.Sequential([keras.Input(data[0].shape[1:]), Where()])
    model.add(keras.layers.Flatten())
    model.add(keras.layers.Dense(3))
    model.compile("sgd", "mse")
    x = data[0]
    rows = quick(model, (x, np.zeros((len(x), 3), "float32"))).rows
    (failed,) = [row for row in rows if row.setting.xla]
    assert failed.refused
    assert "\n" not in failed.refused


def test_another_loss_is_refused(few, make, data, monkeypatch):
    real = Setting.apply

    def apply(self, model):
        real(self, model)
        if self.dtype:
            model.get_layer("head").kernel.assign(model.get_layer("head").kernel + 1.0)
            model.get_layer("head").bias.assign([9.0, 0.0, 0.0])

    monkeypatch.setattr(Setting, "apply", apply)
    rows = quick(make(), data).rows
    (other,) = [row for row in rows if row.setting.dtype]
    assert other.refused.startswith("it computes another loss")


def test_roundings_of_quantized_models_may_differ(make):
    model, setting = make(), Setting(fused=True)
    assert setting.tolerance(trials._is_quantized(model)) == 1e-3
    kacc.prune(model, 0.5)
    assert not trials._is_quantized(model)
    kacc.quantize(model)
    assert setting.tolerance(trials._is_quantized(model)) == 3e-2
    assert Setting(dtype="bfloat16").tolerance(False) == 3e-2


@pytest.mark.parametrize("kind", ["arrays", "dataset", "pydataset"])
def test_kinds_of_data(few, make, data, kind):
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            part = slice(8 * index, 8 * index + 8)
            return data[0][part].astype("float64"), data[1][part]

    given = {
        "arrays": data,
        "dataset": tf.data.Dataset.from_tensor_slices(data).batch(8),
        "pydataset": Batches(),
    }[kind]
    result = quick(make(), given, batch_size=8)
    assert result.batch == 8
    first = make().train_on_batch(data[0][:8], data[1][:8])
    assert result.rows[0].loss == pytest.approx(float(first[0]), rel=1e-4)


def test_lists_of_arrays(few):
    inputs = [keras.Input((4,)), keras.Input((3,))]
    joined = keras.layers.Concatenate()(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, "softmax")(joined))
    model.compile("sgd", "sparse_categorical_crossentropy")
    x = [np.ones((8, 4), "float32"), np.ones((8, 3), "float32")]
    assert quick(model, (x, np.zeros(8))).batch == 8


def row(ratio, high=None, refused=None, **pieces):
    high = ratio if high is None else high
    return Row(Setting(**pieces), 1.0, ratio, ratio, high, 10, 1.0, refused)


def test_what_is_kept():
    base = row(1.0)
    assert _choice([base, row(0.99, fused=True)], None)[0] == Setting()
    assert _choice([base, row(0.8, high=1.1, fused=True)], None)[0] == Setting()
    fused, half = row(0.7, fused=True), row(0.6, fused=True, dtype="bfloat16")
    assert _choice([base, fused, half], None)[0] == half.setting
    near = row(0.69, fused=True, dtype="bfloat16")
    assert _choice([base, fused, near], None)[0] == fused.setting
    often = row(0.58, fused=True, dtype="bfloat16", steps=8)
    assert _choice([base, fused, half, often], None)[0] == half.setting
    short = row(0.3, fused=True, dtype="bfloat16", steps=8)
    assert _choice([base, fused, half, short], None)[0] == short.setting
    other = row(0.1, fused=True, xla=True, refused="it computes another loss")
    assert _choice([base, fused, other], None)[0] == fused.setting


def test_what_fits_the_memory():
    full = "it takes more memory than there is"
    base, slow = row(1.0, refused=full), row(1.3, rematerialized=True)
    keep, reason = _choice([base, slow], 5)
    assert keep == slow.setting
    assert "1.30" in reason
    keep, reason = _choice([base, row(0.5, refused=full, fused=True)], 5)
    assert keep == Setting()
    assert "accumulate_gradients" in reason


def test_what_is_tried_together():
    base, fused = row(1.0), row(0.7, fused=True)
    half, xla = row(0.6, fused=True, dtype="bfloat16"), row(0.5, fused=True, xla=True)
    assert _together([base, fused, half]) is None
    both = Setting(fused=True, dtype="bfloat16", xla=True)
    assert _together([base, fused, half, xla]) == [Setting(), both]
    no_gain = row(0.7, fused=True, steps=8)
    assert _together([base, fused, half, no_gain]) is None


def test_a_plan_is_applied_and_printed(few, make, data):
    model = make()
    result = quick(model, data)
    changed = kacc.acceleration.Plan(
        result.name,
        result.rows,
        Setting(fused=True, dtype="bfloat16"),
        "so",
        result.batch,
        result.device,
    )
    assert changed.apply(model) is model
    assert model.get_layer("conv").compute_dtype == "bfloat16"
    text = str(changed)
    assert "Keeps fused batch normalization + bfloat16: so." in text
    assert "kept" in text
    fit(model, data)
    restore(model)
    assert model.get_layer("conv").compute_dtype == "float32"


def test_accelerate_with_data_applies_the_plan(few, make, data, monkeypatch):
    model = make()
    monkeypatch.setattr(
        "kacc.acceleration.planning._choice",
        lambda rows, memory: (Setting(fused=True, dtype="bfloat16"), "so"),
    )
    assert kacc.accelerate(model, data, verbose=False) is model
    assert model.get_layer("conv").compute_dtype == "bfloat16"


@pytest.mark.parametrize("verbose", [True, False])
def test_progress_is_shown_on_stderr(few, make, data, verbose, capfd):
    kacc.acceleration.plan(make(), data, rounds=1, verbose=verbose)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert ("Keeps" in captured.err) == verbose


def test_an_interrupted_plan_leaves_the_model_as_it_was(few, make, data, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    model = make()
    fit(model, data)
    known, seen = state(model), looks(model)
    monkeypatch.setattr("kacc.acceleration.planning.measure", stop)
    with pytest.raises(KeyboardInterrupt):
        quick(model, data)
    assert looks(model) == seen
    assert_same_state(state(model), known)


def test_twins_of_optimizers_have_the_same_state(make, data):
    model = make()
    fit(model, data)
    twin = trials.twin_of(model.optimizer, model)
    for a, b in zip(twin.variables, model.optimizer.variables, strict=True):
        assert a is not b
        np.testing.assert_array_equal(a.value, b.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": 3}, "must be a tf.data.Dataset"),
        ({"data": tf.data.Dataset.range(3)}, "batches of"),
        ({"batch_size": 0}, "`batch_size`"),
        ({"rounds": 0}, "`rounds`"),
        ({"memory": -1}, "`memory`"),
        ({"memory": "2GB"}, "Pass 2e9 for 2 GB"),
        ({"data": (np.zeros((4, 2)), None)}, "of one length, without None"),
        ({"data": (np.zeros((4, 2)), np.zeros(3))}, r"\(4, 2\), \(3,\)"),
    ],
)
def test_wrong_arguments(make, data, change, message):
    arguments = {"data": data, **change}
    with pytest.raises(UsageError, match=message):
        plan(make(), **arguments)


def test_models_that_no_plan_is_for(make, data):
    with pytest.raises(UsageError, match="built and compiled"):
        plan(keras.Sequential([keras.layers.Dense(2)]), data)
    with pytest.raises(UsageError, match="runs eagerly"):
        plan(make(run_eagerly=True), data)
    with pytest.raises(UsageError, match="Only a Keras 3 model"):
        plan("model", data)
