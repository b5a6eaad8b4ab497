"""XLA, steps in a call, accumulation, rematerialization, schedules, averages."""

import keras
import numpy as np
import pytest

import kacc
from kacc.acceleration import (
    accumulate_gradients,
    average_weights,
    compile_step,
    rematerialize,
    restore,
    set_schedule,
    several_steps,
    warmup_cosine,
)
from kacc.acceleration.memory import peak_of
from kacc.core.errors import UsageError
from tests.acceleration.conftest import assert_same_state, fit, state


# XLA draws other random numbers for dropout.
@pytest.mark.parametrize(
    ("change", "dropout"),
    [
        (compile_step, 0.0),
        *((lambda m: several_steps(m, 2), dropout) for dropout in (0.0, 0.2)),
        *((rematerialize, dropout) for dropout in (0.0, 0.2)),
    ],
    ids=["xla", "steps", "steps-dropout", "rematerialize", "rematerialize-dropout"],
)
def test_training_stays_the_same(make, data, change, dropout):
    plain, changed = make("sgd", dropout), make("sgd", dropout)
    for model in (plain, changed):
        fit(model, data)
    change(changed)
    wanted, got = (fit(m, data).history["loss"] for m in (plain, changed))
    np.testing.assert_allclose(got, wanted, rtol=1e-5)
    for a, b in zip(changed.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    restore(changed)
    assert (changed.jit_compile, changed.steps_per_execution) == (False, 1)
    wanted, got = (fit(m, data).history["loss"] for m in (plain, changed))
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_accumulated_gradients_are_those_of_the_whole_batch(make, data):
    def trained(accumulate):
        model = make("adam", dropout=0.0)
        model.get_layer("bn").trainable = False  # it would see smaller batches
        options = {"shuffle": False, "verbose": 0}
        model.fit(*data, batch_size=16, **options)
        if accumulate:
            accumulate_gradients(model, 2)
        model.fit(*data, batch_size=8 if accumulate else 16, **options)
        return model

    whole, parts = trained(False), trained(True)
    assert int(parts.optimizer.iterations) == int(whole.optimizer.iterations) == 4
    for a, b in zip(parts.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    known = state(whole)
    restore(parts)
    assert parts.optimizer.gradient_accumulation_steps is None
    assert len(state(parts)) == len(known)
    for model in (whole, parts):
        model.fit(*data, batch_size=16, shuffle=False, verbose=0)
    for a, b in zip(parts.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_accumulation_goes_with_learned_steps(make, data):
    model = make()
    fit(model, data)
    accumulate_gradients(model, 2)
    kacc.quantize(model, learned_steps=True)
    fit(model, data)
    optimizer = model.optimizer
    # 4 updates, and 4 steps for 2 more.
    assert int(optimizer.iterations) == 4 + 2
    assert any(v is optimizer._iterations for v in optimizer.variables)


def deep(make_activation="gelu"):
    block = keras.Sequential(
        [
            keras.Input((64, 4)),
            keras.layers.Dense(32, make_activation),
            keras.layers.Dense(4),
        ]
    )
    inputs = keras.Input((64, 4))
    model = keras.Model(inputs, block(block(block(inputs))))
    model.compile("sgd", "mse")
    return model


def test_rematerialization_takes_less_memory():
    import tensorflow as tf

    x = np.ones((256, 64, 4), "float32")
    peaks = []
    for treatment in (lambda m: m, rematerialize):
        model = deep()
        treatment(model)
        batches = iter(tf.data.Dataset.from_tensors((x, x)).repeat())
        model.make_train_function()
        run = lambda m=model, b=batches: float(m.train_function(b)["loss"])  # noqa: E731
        run()
        peaks.append(peak_of(run))
    if None in peaks:
        pytest.skip("TensorFlow does not count memory here")
    assert peaks[1] < 0.8 * peaks[0]


def test_what_has_state_is_not_computed_twice(make):
    model = make()
    done = rematerialize(model)
    assert set(done.layers) == {"inner", "head"}
    named = rematerialize(model, ["bn", "dropout", "conv"])
    assert set(named.layers) == {"conv"}
    assert set(named.skipped) == {"bn", "dropout"}
    assert set(named.skipped.values()) == {"a call changes its state"}
    with pytest.raises(UsageError, match="must match a layer"):
        rematerialize(model, ["nothing"])


def test_rematerialized_models_are_saved_as_they_are(make, data, tmp_path):
    model = make()
    rematerialize(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        loaded.predict(data[0], verbose=0), model.predict(data[0], verbose=0)
    )
    assert "call" not in vars(loaded.get_layer("inner"))


def test_schedule_of_warm_up_and_cosine():
    schedule = warmup_cosine(0.1, 1000)
    values = np.array([float(schedule(i)) for i in range(0, 1001, 10)])
    assert values[0] == 0
    np.testing.assert_allclose(values[5], 0.1, rtol=1e-6)
    np.testing.assert_allclose(values[-1], 0.001, rtol=1e-5)
    assert (np.diff(values[:6]) > 0).all()
    assert (np.diff(values[5:]) < 0).all()
    assert float(warmup_cosine(0.1, 10, warmup=0)(0)) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((0.0, 100), "peak"),
        (("1e-3", 100), "peak"),
        ((0.1, 1), "steps"),
        ((0.1, 100, 100), "warmup"),
        ((0.1, 100, -1), "warmup"),
        ((0.1, 100, 5, 2.0), "final"),
    ],
)
def test_figures_that_make_no_schedule(arguments, name):
    with pytest.raises(UsageError, match=f"`{name}`"):
        warmup_cosine(*arguments)


def test_a_schedule_on_a_used_optimizer(make, data, tmp_path):
    model = make()
    fit(model, data)
    set_schedule(model, warmup_cosine(1e-2, 20, 10))
    assert float(model.optimizer.learning_rate) == pytest.approx(4e-3)
    fit(model, data)
    assert float(model.optimizer.learning_rate) == pytest.approx(8e-3)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert float(loaded.optimizer.learning_rate) == pytest.approx(8e-3)
    with pytest.raises(UsageError, match="schedule"):
        set_schedule(model, 0.1)


@pytest.mark.parametrize("built", [False, True])
def test_averages_are_those_of_the_weights(make, data, built):
    model, momentum = make(keras.optimizers.SGD(0.1)), 0.5
    if built:
        fit(model, data)
    seen = [[np.array(w) for w in model.trainable_weights]]

    class Keep(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append([np.array(w) for w in self.model.trainable_weights])

    swap = average_weights(model, momentum)
    fit(model, data, callbacks=[Keep(), swap])
    # Keras starts from the first update's weights where the optimizer is new.
    average = seen[0] if built else seen[1]
    for weights in seen[1:] if built else seen[2:]:
        pairs = zip(average, weights, strict=True)
        average = [momentum * a + (1 - momentum) * w for a, w in pairs]
    for a, w in zip(average, model.trainable_weights, strict=True):
        np.testing.assert_allclose(w, a, atol=1e-6)


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    "technique",
    [
        lambda m: kacc.quantize(m),
        lambda m: kacc.quantize(m, learned_steps=True),
        lambda m: kacc.prune(m, 0.5),
    ],
    ids=["quantize", "learned", "prune"],
)
@pytest.mark.parametrize("first", [True, False])
def test_averages_with_other_techniques(make, data, technique, first):
    model = make()
    fit(model, data)
    if first:
        technique(model)
    swap = average_weights(model, 0.5)
    if not first:
        technique(model)
    fit(model, data, epochs=3, callbacks=[swap])
    optimizer = model.optimizer
    assert len(optimizer._model_variables_moving_average) == len(
        model.trainable_variables
    )
    accuracy = model.evaluate(*data, verbose=0)[1]
    assert np.isfinite(model.predict(data[0], verbose=0)).all()
    assert accuracy > 0.3
    restore(model)
    assert not optimizer.use_ema
    fit(model, data)


def test_restoring_gives_everything_back(make, data):
    model = make()
    fit(model, data)
    classes = [type(x) for x in model._flatten_layers()]
    known = state(model)
    kacc.accelerate(model)
    compile_step(model)
    several_steps(model, 4)
    rematerialize(model)
    accumulate_gradients(model, 2)
    average_weights(model)
    assert restore(model) is model
    assert [type(x) for x in model._flatten_layers()] == classes
    assert (model.jit_compile, model.steps_per_execution) == (False, 1)
    assert_same_state(state(model), known)
    assert restore(model) is model


@pytest.mark.parametrize(
    "call",
    [
        compile_step,
        lambda m: several_steps(m, 2),
        lambda m: accumulate_gradients(m, 2),
        average_weights,
        lambda m: set_schedule(m, warmup_cosine(0.1, 10)),
    ],
)
def test_models_must_be_compiled(call):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(UsageError, match="built and compiled"):
        call(model)


@pytest.mark.parametrize("bad", [0, -1, 1.5, True, "2"])
def test_numbers_of_steps(make, bad):
    for call in (several_steps, accumulate_gradients):
        with pytest.raises(UsageError, match="whole number"):
            call(make(), bad)


def test_xla_and_eager_steps_exclude_one_another(make):
    with pytest.raises(UsageError, match="runs eagerly"):
        compile_step(make(run_eagerly=True))


def test_momentum_of_averages(make):
    for bad in (1.0, "0.9"):
        with pytest.raises(UsageError, match="momentum"):
            average_weights(make(), bad)
