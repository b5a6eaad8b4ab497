import keras
import numpy as np
import pytest
from keras import layers

from kacc.callbacks import QuantizationAwareTraining, Unfreezing
from kacc.core.errors import UsageError

X = np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype("float32")
Y = np.arange(32) % 3


def network(optimizer=None):
    keras.utils.set_random_seed(0)
    body = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, name="one"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(),
            layers.Conv2D(4, 3, name="two"),
            layers.GlobalAveragePooling2D(),
        ],
        name="body",
    )
    body.trainable = False
    inputs = keras.Input((8, 8, 3))
    outputs = layers.Dense(3, activation="softmax", name="head")(body(inputs))
    model = keras.Model(inputs, outputs)
    model.compile(
        optimizer or keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy"
    )
    return model


def fit(model, *callbacks, **options):
    return model.fit(
        X, Y, batch_size=16, shuffle=False, verbose=0, callbacks=callbacks, **options
    )


def kernels(model):
    body = model.get_layer("body")
    return {name: body.get_layer(name).kernel.numpy() for name in ("one", "two")}


class Changes(keras.callbacks.Callback):
    """Which kernels of the backbone each epoch changed."""

    def on_train_begin(self, logs=None):
        self.found, self.before = [], kernels(self.model)

    def on_epoch_end(self, epoch, logs=None):
        now = kernels(self.model)
        self.found.append(
            [k for k in now if not np.array_equal(now[k], self.before[k])]
        )
        self.before = now


@pytest.mark.parametrize(
    ("share", "trained"), [(1.0, ["one", "two"]), (0.5, ["two"]), (0.01, ["two"])]
)
def test_the_head_first_and_then_the_last_layers(share, trained):
    model, changes = network(), Changes()
    norm = model.get_layer("body").get_layer("norm")
    before = [w.copy() for w in norm.get_weights()]
    fit(model, Unfreezing(1, 1e-3, share), changes, epochs=3)
    assert changes.found == [[], trained, trained]
    assert float(model.optimizer.learning_rate) == pytest.approx(1e-3)
    for a, b in zip(before, norm.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_until_then_it_trains_as_without_it():
    plain, model = network(), network()
    fit(plain, epochs=2)
    fit(model, Unfreezing(2), epochs=2)
    for a, b in zip(plain.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("stop_at", [1, 3])
def test_resumed_before_and_after(stop_at, tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == stop_at:
                raise KeyboardInterrupt

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    whole, first, second = network(), network(), network()
    fit(whole, Unfreezing(2), epochs=4)
    with pytest.raises(KeyboardInterrupt):
        fit(first, backup(), Unfreezing(2), Stop(), epochs=4)
    fit(second, backup(), Unfreezing(2), epochs=4)
    for a, b in zip(whole.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_an_optimizer_that_is_built_goes_on():
    model = network()
    fit(model)
    steps = int(model.optimizer.iterations)
    fit(model, Unfreezing(0), epochs=1)
    assert int(model.optimizer.iterations) == 2 * steps


@pytest.mark.parametrize("make", [keras.optimizers.SGD, keras.optimizers.AdamW])
def test_other_optimizers(make):
    model, changes = network(make(0.01)), Changes()
    fit(model, Unfreezing(1), changes, epochs=2)
    assert changes.found == [[], ["one", "two"]]


@pytest.mark.parametrize("order", [1, -1])
def test_with_quantization(order):
    model, changes = network(), Changes()
    callbacks = [Unfreezing(1), QuantizationAwareTraining(learned_steps=True)][::order]
    fit(model, *callbacks, changes, epochs=2)
    assert changes.found == [[], ["one", "two"]]


def test_a_schedule_keeps_its_rates():
    rate = keras.optimizers.schedules.CosineDecay(0.01, 10)
    model = network(keras.optimizers.Adam(rate))
    with pytest.raises(UsageError, match="learning rate of a schedule"):
        fit(model, Unfreezing(1, 1e-3))
    fit(model, Unfreezing(1), epochs=2)


@pytest.mark.parametrize(
    "wrong",
    [
        *((-1,), (1.5,), (True,), (1, 0), (1, "1e-4"), (1, True)),
        *((1, None, 0), (1, None, 1.5), (1, None, "half")),
    ],
)
def test_wrong_arguments(wrong):
    with pytest.raises(UsageError, match=r"`(start_epoch|learning_rate|share)`"):
        Unfreezing(*wrong)


def test_nothing_frozen():
    model = network()
    model.get_layer("body").trainable = True
    with pytest.raises(UsageError, match="something frozen"):
        fit(model, Unfreezing(1))


def test_an_unbuilt_model_is_refused_before_the_first_step():
    model = keras.Sequential([layers.Flatten(), layers.Dense(3, trainable=False)])
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(UsageError, match="model must be built"):
        fit(model, Unfreezing(1))
    assert not model.built
