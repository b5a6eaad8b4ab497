"""The callback: when masks move, what the logs say, and Keras's own beside it."""

import keras
import numpy as np
import pytest
from keras import layers

import kacc
from kacc.callbacks import Pruning
from kacc.core import recipe
from kacc.core.errors import UsageError
from kacc.core.optimizers import slots_of
from kacc.pruning import sparsity
from kacc.pruning.masks import pruned_layers
from kacc.pruning.plan import Plan
from kacc.schedules import Constant, PolynomialDecay
from tests.core.processes import run_python
from tests.core.test_fit_callbacks import Kill, KilledError, Record, assert_equal
from tests.core.test_optimizers import EVERY

X = np.random.default_rng(0).normal(size=(32, 8)).astype("float32")
Y = np.random.default_rng(1).normal(size=(32, 4)).astype("float32")


def compiled(optimizer=None, **options):
    keras.utils.set_random_seed(5)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(16, activation="relu", name="first"),
            layers.Dense(16, activation="relu", name="middle"),
            layers.Dense(4, name="last"),
        ]
    )
    options = {"jit_compile": False, "run_eagerly": True, **options}
    model.compile(optimizer or keras.optimizers.Adam(0.01), "mse", **options)
    return model


def fit(model, *callbacks, epochs=4, **options):
    """Four steps an epoch."""
    return model.fit(
        X,
        Y,
        batch_size=8,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
        **options,
    ).history


class Watch(keras.callbacks.Callback):
    """The share of zeros in the variables after each step."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        kernel = self.model.get_layer("middle").kernel.numpy()
        self.seen.append(float((kernel == 0).mean()))


def assert_zeros(model):
    for _, transform in pruned_layers(model):
        for one in transform.pruned.values():
            assert (one.variable.numpy()[one.zeros] == 0).all()


# When


def test_the_sparsity_after_each_step_is_that_of_the_schedule():
    schedule = PolynomialDecay(0.0, 0.75, 3, 11)
    model, watch = compiled(), Watch()
    history = fit(model, Pruning(schedule, frequency=2), watch)
    # Updates at 3, 5, 7, 9 and 11; the k-th entry is after step k + 1.
    want = [0.0] * 16
    for step in range(1, 17):
        last = max((s for s in (3, 5, 7, 9, 11) if s <= step), default=None)
        count = 0 if last is None else np.floor(schedule(last) * 256 + 0.5)
        want[step - 1] = count / 256
    assert watch.seen == want
    assert history["sparsity"] == [want[3], want[7], want[11], want[15]]
    assert history["sparsity"][-1] == 0.75


def test_a_number_is_reached_in_the_first_half():
    model, watch = compiled(), Watch()
    fit(model, Pruning(0.5, frequency=1), watch)
    assert 0.4 < watch.seen[5] < 0.5
    assert watch.seen[7:] == [0.5] * 9
    assert (np.diff(watch.seen) >= 0).all()


def test_an_end_that_the_frequency_does_not_meet_is_reached_too():
    model, watch = compiled(), Watch()
    fit(model, Pruning(0.5, end_step=10), watch)
    assert watch.seen == [0.0] * 9 + [0.5] * 7


def test_pruning_at_once():
    model, watch = compiled(), Watch()
    fit(model, Pruning(0.5, begin_step=2, end_step=2), watch)
    assert watch.seen == [0.0] + [0.5] * 15


def test_a_fit_goes_on_where_the_last_one_stopped():
    model, watch = compiled(), Watch()
    pruning = Pruning(PolynomialDecay(0.0, 0.5, 4, 12), frequency=4)
    fit(model, pruning, watch, epochs=2)
    fit(model, pruning, watch, epochs=2)
    once, other = compiled(), Watch()
    fit(once, Pruning(PolynomialDecay(0.0, 0.5, 4, 12), frequency=4), other)
    assert watch.seen == other.seen
    assert_equal(numbers(model), numbers(once))


def test_steps_count_from_the_fit_that_prunes_first():
    model, watch = compiled(), Watch()
    fit(model, epochs=3)
    fit(model, Pruning(Constant(0.5, 4)), watch, epochs=2)
    assert watch.seen == [0.0] * 3 + [0.5] * 5
    assert recipe.recipe_of(model)["pruning"]["first_step"] == 12


def test_steps_per_execution():
    model, watch = compiled(steps_per_execution=4, run_eagerly=False), Watch()
    fit(model, Pruning(Constant(0.5, 5)), watch)
    assert watch.seen == [0.0, 0.5, 0.5, 0.5]


def test_accumulated_gradients_make_one_step():
    optimizer = keras.optimizers.Adam(0.01, gradient_accumulation_steps=2)
    model, watch = compiled(optimizer), Watch()
    fit(model, Pruning(Constant(0.5, 3)), watch)
    assert watch.seen == [0.0] * 5 + [0.5] * 11


def test_functions_are_not_made_anew_while_masks_move():
    model = compiled(run_eagerly=False)
    functions = []

    class Note(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            functions.append(self.model.train_function)

    fit(model, Pruning(0.5, frequency=1), Note())
    assert len(set(map(id, functions))) == 1


@pytest.mark.parametrize("kind", ["constant", "polynomial"])
def test_schedules_of_tfmot(kind):
    from tensorflow_model_optimization.sparsity import keras as tfmot

    schedule, want = {
        "constant": (
            tfmot.ConstantSparsity(0.5, 2, end_step=6, frequency=3),
            [0.0] + [0.5] * 15,
        ),
        "polynomial": (
            tfmot.PolynomialDecay(0.25, 0.75, 2, 8, power=1, frequency=3),
            [0.0] + [0.25] * 3 + [0.5] * 3 + [0.75] * 9,
        ),
    }[kind]
    model, watch = compiled(), Watch()
    fit(model, Pruning(schedule), watch)
    assert watch.seen == want


def test_any_function_is_a_schedule():
    model, watch = compiled(), Watch()
    fit(model, Pruning(lambda step: min(0.5, 0.1 * step), frequency=5), watch)
    assert watch.seen[3:6] == [0.0, 0.5, 0.5]


def test_plans_do_not_depend_on_how_often_they_are_asked():
    plan = Plan(PolynomialDecay(0.0, 0.5, 3, 17), 5)
    steps = [s for s in range(40) if plan.due(s - 1, s)]
    assert steps == [3, 8, 13, 17]
    for stride in (2, 3, 7):
        asked = range(-stride, 40, stride)
        due = [s + stride for s in asked if plan.due(s, s + stride)]
        assert due == sorted({-(-s // stride) * stride for s in steps})


# What


@pytest.mark.parametrize("method", ["magnitude", "soft", "2:4", (1, 4), (4, 1)])
def test_every_method_reaches_its_sparsity(method):
    model = compiled()
    history = fit(model, Pruning(0.5, method, frequency=1))
    assert history["sparsity"][-1] == 0.5
    assert_zeros(model)
    kernel = kacc.strip(model).get_layer("middle").kernel.numpy()
    assert (kernel == 0).mean() == 0.5


def test_a_pattern_needs_no_sparsity():
    assert fit(compiled(), Pruning(method="1:4"))["sparsity"][-1] == 0.75


def test_logs_by_layer():
    pruning = Pruning(
        0.5,
        rules=[kacc.Rule("first", sparsity=0.25)],
        keep_ends=False,
        scope="layer",
        log_layers=True,
    )
    history = fit(compiled(), pruning, epochs=2)
    got = {k: v[-1] for k, v in history.items() if k.endswith("/sparsity")}
    assert got == {
        "first/sparsity": 0.25,
        "middle/sparsity": 0.5,
        "last/sparsity": 0.5,
    }


def test_wrapped_layers_alone():
    keras.utils.set_random_seed(5)
    inner = kacc.layers.PruneWrapper(layers.Dense(16), 0.5)
    model = keras.Sequential([keras.Input((8,)), inner, layers.Dense(4)])
    model.compile("adam", "mse", jit_compile=False)
    history = fit(model, Pruning(end_step=8, frequency=1))
    assert 0 < history["sparsity"][0] < 0.5
    assert history["sparsity"][1:] == [0.5] * 3
    assert [(x.kernel.numpy() == 0).mean() for x in model.layers] == [0.5, 0]


# Variables that stay zero


@pytest.mark.parametrize("kind", EVERY)
def test_pruned_weights_and_their_slots_stay_quiet(kind):
    """With every optimizer, and with a regularizer that pulls at all weights."""
    keras.utils.set_random_seed(5)
    model = compiled(EVERY[kind]())
    middle = model.get_layer("middle")
    middle.kernel_regularizer = keras.regularizers.L1L2(0.1, 0.1)
    fit(model, Pruning(0.5, end_step=4, frequency=1), epochs=3)
    assert all(np.isfinite(v.numpy()).all() for v in model.variables)
    assert_zeros(model)
    ((_, transform),) = pruned_layers(model)
    one = transform.pruned["kernel"]
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    for slot, initial in slots_of(optimizer, one.variable):
        values = slot.numpy()
        assert np.isfinite(values).all()
        if kind != "adafactor":  # whose slots are products of rows and columns
            np.testing.assert_array_equal(values[one.zeros], np.float32(initial))
    if kind not in ("sgd", "adafactor", "accumulating"):  # without, or empty by now
        assert (values[~one.zeros] != np.float32(initial)).mean() > 0.5


def test_weights_stay_zero_after_the_callback_is_gone():
    model = compiled()
    fit(model, Pruning(0.5))
    before = model.get_layer("middle").kernel.numpy()
    fit(model, epochs=3)
    after = model.get_layer("middle").kernel.numpy()
    np.testing.assert_array_equal(before == 0, after == 0)
    assert (before != after).any()


def test_masks_can_be_frozen():
    model, watch = compiled(), Watch()
    schedule = PolynomialDecay(0.0, 0.75, 0, 12)
    fit(model, Pruning(schedule, frequency=1, freeze_step=6), watch)
    assert watch.seen[5:] == [watch.seen[5]] * 11
    assert watch.seen[4] < watch.seen[5] < 0.75


def test_regrowth_ends_when_masks_are_frozen():
    model, watch = compiled(), Watch()
    pruning = Pruning(0.5, frequency=1, freeze_step=10, regrow=True)
    history = fit(model, pruning, watch)
    assert watch.seen == [0.0] * 9 + [0.5] * 7
    assert history["sparsity"][1:] == [0.5] * 3
    assert_zeros(model)


# Keras around it


def numbers(model):
    return [v.numpy() for v in [*model.variables, *model.optimizer.variables]]


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("first", "killed_at", "regrow"),
    [("kacc", 1, False), ("keras", 3, False), ("kacc", 3, True), ("keras", 1, True)],
)
def test_a_killed_fit_resumes_where_it_was(first, killed_at, regrow, tmp_path):
    def callbacks(*more):
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        schedule = PolynomialDecay(0.0, 0.75, 2, 14)
        pruning = Pruning(schedule, frequency=3, freeze_step=15, regrow=regrow)
        return [*([pruning, backup] if first == "kacc" else [backup, pruning]), *more]

    whole = compiled()
    fit(whole, callbacks()[first == "keras"])
    with pytest.raises(KilledError):
        fit(compiled(), *callbacks(Kill(killed_at)))
    keras.utils.set_random_seed(77)
    model = keras.models.clone_model(compiled())  # starts from other numbers
    model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=True)
    history = fit(model, *callbacks())
    assert len(history["loss"]) == 4 - killed_at
    assert sparsity(model) == 0.75
    assert_equal(numbers(model), numbers(whole))


@pytest.mark.parametrize("first", ["kacc", "keras"])
def test_checkpoints_hold_the_masks_of_their_epoch(first, tmp_path):
    model, record = compiled(), Record()
    callbacks = [
        Pruning(0.75, frequency=1, end_step=12),
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras"),
        record,
    ]
    history = fit(model, *(callbacks if first == "kacc" else callbacks[::-1]), epochs=3)
    for epoch in range(3):
        loaded = keras.models.load_model(tmp_path / f"{epoch + 1}.keras")
        assert sparsity(loaded) == history["sparsity"][epoch]
        assert_equal([v.numpy() for v in loaded.variables], record.epochs[epoch])
    assert len(set(history["sparsity"])) == 3


def test_a_loaded_checkpoint_is_pruned_on(tmp_path):
    def pruning():
        return Pruning(PolynomialDecay(0.0, 0.75, 0, 12), frequency=3)

    whole = compiled()
    fit(whole, pruning())
    model = compiled()
    fit(model, pruning(), epochs=2)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    fit(loaded, pruning(), epochs=4, initial_epoch=2)
    assert_equal(numbers(loaded), numbers(whole))


def test_early_stopping_restores_weights_and_masks():
    model, record = compiled(), Record()
    stop = keras.callbacks.EarlyStopping(  # the first epoch is the best
        "loss", mode="max", patience=2, restore_best_weights=True
    )
    history = fit(model, Pruning(0.5, end_step=14, frequency=1), stop, record)
    best = int(np.argmax(history["loss"]))
    assert best == 0
    assert len(history["loss"]) == 3
    assert sparsity(model) == history["sparsity"][best]
    assert_equal([v.numpy() for v in model.variables], record.epochs[best])


@pytest.mark.parametrize("jit", [False, True])
def test_graphs_and_xla_give_what_single_operators_give(jit):
    want, model = compiled(), compiled(jit_compile=jit, run_eagerly=False)
    fit(want, Pruning(0.5, frequency=2))
    fit(model, Pruning(0.5, frequency=2))
    assert sparsity(model) == 0.5
    for a, b in zip(numbers(model), numbers(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_regrowth_under_xla():
    model = compiled(jit_compile=True, run_eagerly=False)
    fit(model, Pruning(0.5, frequency=2, regrow=True, freeze_step=8))
    assert_zeros(model)
    assert sparsity(model) == 0.5


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"begin_step": -1}, "`begin_step` must be a whole number"),
        ({"begin_step": 5, "end_step": 4}, "`end_step`.*at least 5"),
        ({"frequency": 0}, "`frequency` must be a whole number"),
        ({"freeze_step": 1.5}, "`freeze_step` must be a whole number"),
    ],
)
def test_wrong_steps(options, text):
    with pytest.raises(UsageError, match=text):
        Pruning(0.5, **options)


def test_a_schedule_brings_its_own_steps():
    with pytest.raises(UsageError, match="A schedule has its own steps"):
        Pruning(PolynomialDecay(0.0, 0.5, 0, 10), end_step=20)


def test_data_of_unknown_length_need_an_end():
    def batches():
        yield from [(X[:8], Y[:8])] * 4

    with pytest.raises(UsageError, match="Pass end_step"):
        compiled().fit(batches(), callbacks=[Pruning(0.5)], verbose=0)
    history = (
        compiled()
        .fit(batches(), callbacks=[Pruning(0.5, end_step=2)], verbose=0)
        .history
    )
    assert history["sparsity"] == [0.5]


def test_replicas_have_the_same_masks():
    """Under MirroredStrategy: masks, weights and slots are the same in both."""
    run_python(
        """
        import numpy as np
        import tensorflow as tf
        cpus = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(
            cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2
        )
        import keras
        import kacc
        from tests.core import models

        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        with strategy.scope():
            model = models.small()
            model.compile("adam", "mse", jit_compile=False)
        x, y = models.vectors(16), np.ones((16, 3), "float32")
        schedule = kacc.schedules.PolynomialDecay(0.0, 0.75, 1, 6)
        for regrow in (True, False):
            model.fit(
                x, y, batch_size=8, epochs=4, verbose=0,
                callbacks=[kacc.callbacks.Pruning(
                    schedule, frequency=1, keep_ends=False, regrow=regrow,
                    freeze_step=7 if regrow else None,
                )],
            )
        assert kacc.pruning.sparsity(model) == 0.75
        for variable in [*model.variables, *model.optimizer.variables]:
            parts = strategy.experimental_local_results(variable.value)
            if len(parts) == 2:
                np.testing.assert_array_equal(*[p.numpy() for p in parts])
        zeros = sum((v.numpy() == 0).sum() for v in model.trainable_variables[::2])
        assert zeros == 33, zeros
        masks = [v for v in model.variables if v.name.endswith("_mask")]
        assert len(masks) == 2
        parts = [strategy.experimental_local_results(v.value) for v in masks]
        assert [len(p) for p in parts] == [2, 2]
        kacc.strip(model)
        """
    )
