"""The callback: phases by epoch, what it writes into the logs, wrong epochs."""

import keras
import numpy as np
import pytest
from keras import layers

import kacc
from kacc.callbacks import QuantizationAwareTraining
from kacc.core.errors import UsageError
from kacc.quantization import scheme_of, unseen_ranges
from kacc.quantization.transform import quantize_of

X = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
Y = np.ones((16, 2), "float32")


def small():
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(4, activation="relu", name="hidden"),
            layers.Dense(2, name="head"),
        ]
    )
    model.compile("sgd", "mse", jit_compile=False, run_eagerly=True)
    return model


def fit(model, *callbacks, epochs=3, **options):
    return model.fit(
        X, Y, batch_size=8, epochs=epochs, verbose=0, callbacks=callbacks, **options
    ).history


class Phases(keras.callbacks.Callback):
    """Notes after each epoch whether quantization is on and ranges are frozen."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        transform = quantize_of(self.model.layers[0])
        self.seen.append((transform.enabled, transform.frozen))


@pytest.mark.parametrize(
    ("options", "phases"),
    [
        ({}, [(True, False)] * 3),
        ({"start_epoch": 1}, [(False, False), (True, False), (True, False)]),
        (
            {"start_epoch": 1, "freeze_epoch": 2},
            [(False, False), (True, False), (True, True)],
        ),
        ({"freeze_epoch": 1}, [(True, False), (True, True), (True, True)]),
        ({"start_epoch": 5}, [(False, False)] * 3),
    ],
)
def test_phases(options, phases):
    model, watch = small(), Phases()
    fit(model, QuantizationAwareTraining(**options), watch)
    assert watch.seen == phases


def test_a_later_fit_starts_in_the_phase_of_its_first_epoch():
    model, watch = small(), Phases()
    qat = QuantizationAwareTraining(start_epoch=1, freeze_epoch=2)
    fit(model, qat, epochs=3)
    fit(model, qat, watch, epochs=2)
    assert watch.seen == [(False, False), (True, False)]
    watch.seen.clear()
    fit(model, qat, watch, epochs=3, initial_epoch=2)
    assert watch.seen == [(True, True)]


def test_it_is_attached_before_any_training():
    """Checkpoints and resuming need the variables from the first step on."""
    model = small()
    callback = QuantizationAwareTraining(start_epoch=3)
    callback.set_model(model)
    assert scheme_of(model) == "int8"
    assert len(unseen_ranges(model)) == 3


def test_logs_have_the_largest_clipping_share_once_it_has_started():
    history = fit(small(), QuantizationAwareTraining(start_epoch=1))
    assert len(history["loss"]) == 3
    assert len(history["quantization_clipped"]) == 2
    assert all(0 <= share < 0.2 for share in history["quantization_clipped"])


def test_clipping_is_counted():
    """Ranges frozen on small values clip larger ones, as the logs then say."""
    model = small()
    fit(model, QuantizationAwareTraining(), epochs=1)
    qat = QuantizationAwareTraining(freeze_epoch=1)
    history = model.fit(
        20 * X,
        Y,
        batch_size=1,
        initial_epoch=1,
        epochs=8,
        callbacks=[qat],
        verbose=0,
    ).history
    shares = history["quantization_clipped"]
    assert shares[-1] > 0.3
    assert shares == sorted(shares)  # a moving average on its way up


def test_logs_have_every_range_if_asked_for():
    model = small()
    history = fit(model, QuantizationAwareTraining(log_ranges=True), epochs=2)
    names = {"hidden:input_0", "hidden:output", "head:output"}
    wanted = {f"{n}/{part}" for n in names for part in ("low", "high", "clipped")}
    assert set(history) == {"loss", "quantization_clipped"} | wanted
    low, high = quantize_of(model.layers[0]).ends("input_0")
    assert history["hidden:input_0/low"][-1] == low
    assert history["hidden:input_0/high"][-1] == high
    assert history["hidden:output/low"] == [0.0, 0.0]
    largest = max(history[f"{name}/clipped"][-1] for name in names)
    assert history["quantization_clipped"][-1] == largest


def test_ranges_of_layers_of_one_name_are_told_apart():
    def block():
        return keras.Sequential(
            [keras.Input((6,)), layers.Dense(6, name="dense")], name=None
        )

    first, second = block(), block()
    x = keras.Input((6,))
    model = keras.Model(x, layers.Dense(2, name="head")(second(first(x))))
    model.compile("sgd", "mse", run_eagerly=True)
    history = fit(model, QuantizationAwareTraining(log_ranges=True), epochs=1)
    for name in (first.name, second.name):
        assert f"{name}/dense:output/high" in history


@pytest.mark.parametrize("epoch", [-1, 1.5, "2", None, True])
def test_start_epochs_that_are_none(epoch):
    with pytest.raises(UsageError, match="`start_epoch` must be a whole number"):
        QuantizationAwareTraining(start_epoch=epoch)


@pytest.mark.parametrize("epoch", [2, 1, -1, 3.0, "4", False])
def test_freezing_comes_after_the_start(epoch):
    with pytest.raises(UsageError, match=r"`freeze_epoch` must be.*at least 3"):
        QuantizationAwareTraining(start_epoch=2, freeze_epoch=epoch)


def test_unknown_schemes():
    with pytest.raises(UsageError) as error:
        QuantizationAwareTraining("int9")
    assert str(error.value) == (
        "`scheme` must be one of int8, w4a8, int16x8. Received: 'int9'. Pass 'int8'."
    )


def test_rules_are_checked_where_they_are_given():
    with pytest.raises(UsageError, match=r"must be kacc\.Rule objects"):
        QuantizationAwareTraining(rules=["head"])
    callback = QuantizationAwareTraining(rules=[kacc.Rule("heads", skip=True)])
    with pytest.raises(UsageError, match=r"A rule must match a layer.*'heads'"):
        fit(small(), callback)


def test_rules_of_the_callback():
    model = small()
    rules = [kacc.Rule(".*", skip=True), kacc.Rule("hidden")]
    with pytest.warns(UserWarning, match=r"head \(a rule skips it\)"):
        fit(model, QuantizationAwareTraining(rules=rules), epochs=1)
    hidden, head = model.layers
    assert quantize_of(head) is None
    assert set(quantize_of(hidden).ranges) == {"input_0", "output"}


def test_the_callback_on_a_model_that_was_quantized_before():
    """As after loading: ranges, rules and settings of the callback take over."""
    model = kacc.quantize(small())
    fit(model, epochs=1)
    ends = quantize_of(model.layers[0]).ends("input_0")
    watch = Phases()
    fit(model, QuantizationAwareTraining(freeze_epoch=1), watch, epochs=1)
    moved = quantize_of(model.layers[0]).ends("input_0")
    assert watch.seen == [(True, False)]
    assert np.allclose(ends, moved, atol=0.2)
    assert unseen_ranges(model) == []
