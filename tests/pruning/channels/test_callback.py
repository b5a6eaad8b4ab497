"""`ChannelPruning`: channels switched off during fit, and cut with their slots."""

import keras
import numpy as np
import pytest
from keras import layers

import kacc
from kacc.core.cost import cost
from kacc.core.optimizers import slots
from tests.core import models as small_models

BATCH = 8


def _model(optimizer="adam"):
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3, padding="same", name="a")(image)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU()(x)
    y = layers.Conv2D(16, 3, padding="same", activation="swish", name="b")(x)
    x = layers.GlobalAveragePooling2D()(x + y)
    model = keras.Model(image, layers.Dense(3, name="head")(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


def _fit(model, *callbacks, epochs=2, samples=32, **options):
    x, y = small_models.images(samples), np.arange(samples) % 3
    return model.fit(
        x, y, batch_size=BATCH, epochs=epochs, callbacks=callbacks, verbose=0, **options
    )


def _pruning(**options):
    options = {"macs": 0.5, "end_step": 6, "frequency": 2, "round_to": 4, **options}
    return kacc.callbacks.ChannelPruning(**options)


def _predicted(model):
    return model.predict(small_models.images(16), verbose=0)


@pytest.mark.parametrize("importance", ["l2", "bn_scale", "reconstruction"])
def test_the_smaller_model_is_the_one_that_was_trained(importance):
    model, pruning = (
        _model(),
        _pruning(importance=importance, data=small_models.images(16)),
    )
    history = _fit(model, pruning)
    smaller = pruning.result()
    share = cost(smaller).macs / cost(model).macs
    assert share <= 0.5
    assert history.history["macs_share"][-1] == pytest.approx(share)
    np.testing.assert_allclose(_predicted(smaller), _predicted(model), atol=1e-5)
    x, y = small_models.images(32), np.arange(32) % 3
    np.testing.assert_allclose(
        smaller.evaluate(x, y, verbose=0), model.evaluate(x, y, verbose=0), rtol=1e-5
    )


def test_taylor_is_measured_again_each_time():
    model = _model()
    data = small_models.images(16), np.arange(16) % 3
    pruning = _pruning(importance="taylor", data=data)
    _fit(model, pruning)
    np.testing.assert_allclose(
        _predicted(pruning.result()), _predicted(model), atol=1e-5
    )


class _Watch(keras.callbacks.Callback):
    def __init__(self, pruning):
        super().__init__()
        self.pruning, self.seen = pruning, []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(self.pruning.remaining.copy())


def test_what_is_off_stays_off_and_more_and_more_goes():
    pruning = _pruning(end_step=8, round_to=1)
    watch = _Watch(pruning)
    _fit(_model(), pruning, watch, epochs=3)
    counts = [int(mask.sum()) for mask in watch.seen]
    assert len(set(counts)) > 3
    for before, after in zip(watch.seen, watch.seen[1:], strict=False):
        assert not (after & ~before).any()


def test_before_the_first_step_nothing_changes():
    keras.utils.set_random_seed(1)
    plain = _model()
    keras.utils.set_random_seed(1)
    model = _model()
    pruning = _pruning(begin_step=100, end_step=200)
    _fit(plain, shuffle=False)
    _fit(model, pruning, shuffle=False)
    for wanted, got in zip(plain.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert [v.shape for v in pruning.result().variables] == [
        v.shape for v in model.variables
    ]


OPTIMIZERS = [
    lambda: keras.optimizers.SGD(0.01, momentum=0.9),
    lambda: keras.optimizers.Adam(0.01),
    lambda: keras.optimizers.RMSprop(0.01, momentum=0.5),
    lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.AdamW(0.01)),
]


# Lion steps by a sign, which a rounding error turns where a gradient is near zero.
@pytest.mark.sampled(3)
@pytest.mark.parametrize("make", [*OPTIMIZERS, lambda: keras.optimizers.Lion(1e-3)])
def test_slots_are_cut_as_the_weights_are(make):
    model, pruning = _model(make()), _pruning()
    _fit(model, pruning)
    smaller = pruning.result()
    old, new = slots(model.optimizer), slots(smaller.optimizer)
    assert old.keys() == new.keys()
    cut = 0
    for key, slot in new.items():
        whole = old[key].numpy()
        cut += slot.shape != whole.shape
        # What was cut was zero, so that what is left has all of the sum.
        np.testing.assert_allclose(np.sum(slot), whole.sum(), rtol=1e-5, atol=1e-7)
        assert np.count_nonzero(slot) == np.count_nonzero(whole)
    assert cut > 0


@pytest.mark.sampled(2)
@pytest.mark.parametrize("make", OPTIMIZERS)
def test_training_goes_on_as_if_nothing_had_been_cut(make):
    """One step of the masked model, and one of the smaller: the same weights."""
    model, pruning = _model(make()), _pruning()
    _fit(model, pruning)
    smaller = pruning.result()
    assert int(smaller.optimizer.iterations) == int(model.optimizer.iterations)
    old = {key[1] for key in slots(model.optimizer)}
    assert old == {key[1] for key in slots(smaller.optimizer)}
    _fit(model, pruning, epochs=1, samples=BATCH, shuffle=False)
    _fit(smaller, epochs=1, samples=BATCH, shuffle=False)
    np.testing.assert_allclose(_predicted(smaller), _predicted(model), atol=1e-4)


def test_slots_of_what_is_off_are_zero():
    model, pruning = _model(), _pruning()
    _fit(model, pruning)
    kernel = model.get_layer("a").kernel
    gone = ~np.abs(kernel.numpy()).any(axis=(0, 1, 2))
    assert gone.sum() >= 4
    position = [v is kernel for v in model.trainable_variables].index(True)
    for (_, _, number), slot in slots(model.optimizer).items():
        if number == position:
            assert not slot.numpy()[..., gone].any()


def test_a_fit_is_resumed(tmp_path):
    keras.utils.set_random_seed(3)
    whole, pruning = _model(), _pruning(end_step=8)
    _fit(whole, pruning, epochs=3, shuffle=False)
    keras.utils.set_random_seed(3)
    model = _model()

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path, delete_checkpoint=False)

    with pytest.raises(KeyboardInterrupt):
        _fit(model, backup(), _pruning(end_step=8), Stop(), epochs=3, shuffle=False)
    keras.utils.set_random_seed(99)
    model, resumed = _model(), _pruning(end_step=8)
    _fit(model, backup(), resumed, epochs=3, shuffle=False)
    assert resumed.kept.tolist() == pruning.kept.tolist()
    np.testing.assert_allclose(_predicted(model), _predicted(whole), atol=1e-4)


def test_restored_weights_keep_their_zeros():
    model, pruning = _model(), _pruning(end_step=8)
    stopping = keras.callbacks.EarlyStopping(
        "loss", mode="max", patience=1, restore_best_weights=True
    )
    _fit(model, stopping, pruning, epochs=5)
    np.testing.assert_allclose(
        _predicted(pruning.result()), _predicted(model), atol=1e-5
    )


def test_the_masked_model_quantizes_without_a_zero_scale(tmp_path):
    """Channels of zeros have no largest weight to make a scale of."""
    model, pruning = _model(), _pruning()
    _fit(model, pruning)
    images = small_models.images(32)
    file = kacc.convert(model, tmp_path / "ptq.tflite", "tflite-int8", images)
    assert np.isfinite(file.predict(images)).all()
    kacc.quantize(model)
    history = _fit(model, epochs=1)
    assert np.isfinite(history.history["loss"]).all()
    trained = kacc.convert(model, tmp_path / "qat.tflite", "tflite-int8")
    assert kacc.parity(model, trained, images).equal == 1.0


BAD = [
    ({"macs": None}, "Exactly one share"),
    ({"frequency": 0}, "`frequency` must be a whole number"),
    ({"begin_step": 9}, "`end_step` must not come before"),
    ({"importance": "taylor"}, "measured on `data`"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_wrong_calls(options, message):
    with pytest.raises(kacc.UsageError, match=message):
        _pruning(**options)


def test_a_result_needs_a_fit_and_a_plain_model():
    with pytest.raises(kacc.UsageError, match="once `fit` has run"):
        _pruning().result()
    with pytest.raises(kacc.UsageError, match="plain models"):
        _fit(kacc.quantize(_model()), _pruning())


@pytest.mark.parametrize("channels_first", [True, False])
def test_pruning_in_the_same_fit_is_refused_and_works_in_the_next(channels_first):
    channels, weights = _pruning(), kacc.callbacks.Pruning(0.5, keep_ends=False)
    order = (channels, weights) if channels_first else (weights, channels)
    with pytest.raises(kacc.UsageError, match=r"needs a fit of its own.*Pruning"):
        _fit(_model(), *order)
    _fit(_model(), channels)
    smaller = channels.result()
    history = _fit(smaller, kacc.callbacks.Pruning(0.5, keep_ends=False))
    assert history.history["sparsity"][-1] == pytest.approx(0.5, abs=0.01)


def test_a_model_pruned_by_masks_is_asked_to_be_stripped():
    model = kacc.prune(_model(), 0.5, keep_ends=False)
    with pytest.raises(kacc.UsageError, match=r"Call kacc\.strip\(model\) first"):
        kacc.prune_channels(model, macs=0.5)
    smaller = kacc.prune_channels(kacc.strip(model), macs=0.5, round_to=4)
    assert cost(smaller).macs < cost(model).macs
