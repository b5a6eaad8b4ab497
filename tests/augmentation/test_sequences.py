"""Policies of sounds and texts."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kacc
from kacc.augmentation import (
    Flip,
    NoiseAtSNR,
    Policy,
    SpecAugment,
    TimeShift,
    TokenDropout,
)
from kacc.augmentation.sequences import augment

RNG = np.random.default_rng(0)
WAVES = RNG.normal(size=(64, 500)).astype("float32")
SPECTROGRAMS = RNG.normal(size=(64, 40, 20)).astype("float32") + 5
TOKENS = RNG.integers(1, 100, (64, 30))

EXAMPLES = [
    (TimeShift(0.2), WAVES),
    (NoiseAtSNR((0, 20)), WAVES),
    (SpecAugment(), SPECTROGRAMS),
    (SpecAugment(value=None), SPECTROGRAMS[..., None]),
    (TokenDropout(0.3, token=100), TOKENS),
]
EACH = pytest.mark.parametrize(
    ("transform", "batch"), EXAMPLES, ids=[type(e[0]).__name__ for e in EXAMPLES]
)


def run(policy, batch, seed=(1, 2, 3)):
    policy = policy if isinstance(policy, Policy) else Policy([policy])
    return augment(policy, tf.constant(batch), tf.constant(seed)).numpy()


@EACH
def test_one_seed_gives_one_result_whatever_runs_it(transform, batch):
    policy = Policy([transform])
    plain = run(policy, batch)
    assert plain.shape == batch.shape
    assert plain.dtype == batch.dtype
    assert (plain != batch).any()
    assert (run(policy, batch, (1, 2, 4)) != plain).any()
    seed = tf.constant((1, 2, 3))
    for jit in (False, True):
        wrapped = tf.function(lambda x: augment(policy, x, seed), jit_compile=jit)
        np.testing.assert_array_equal(wrapped(batch), plain)
    data = tf.data.Dataset.from_tensors(batch).map(lambda x: augment(policy, x, seed))
    np.testing.assert_array_equal(next(iter(data)), plain)


@EACH
def test_probability_is_the_share_of_changed_samples(transform, batch):
    import dataclasses

    half = dataclasses.replace(transform, probability=0.5)
    whole, some = run(transform, batch), run(half, batch)
    none = run(dataclasses.replace(transform, probability=0), batch)
    np.testing.assert_array_equal(none, batch)
    axes = tuple(range(1, batch.ndim))
    always = (whole != batch).any(axes).mean()
    sometimes = (some != batch).any(axes).mean()
    assert always > 0.9
    assert 0.25 < sometimes < 0.75  # four deviations of 64 images


@EACH
def test_policies_survive_json(transform, batch):
    import json

    policy = Policy([transform], seed=3)
    config = json.loads(json.dumps(policy.get_config()))
    again = Policy.from_config(config)
    assert again == policy
    assert hash(again) == hash(policy)


# The three uses of a policy


def classifier(batch):
    tokens = batch.dtype.kind == "i"
    first = keras.layers.Embedding(101, 4) if tokens else keras.layers.Identity()
    dtype = "int64" if tokens else "float32"
    return keras.Sequential(
        [
            keras.Input(batch.shape[1:], dtype=dtype),
            first,
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )


@EACH
def test_datasets_layers_and_callbacks_change_data(transform, batch):
    policy = Policy([transform])
    labels = np.arange(len(batch)) % 2
    data = tf.data.Dataset.from_tensor_slices((batch, labels)).batch(24)
    epochs = [list(policy.map(data).as_numpy_iterator()) for _ in range(2)]
    for one, two in zip(*epochs, strict=True):
        np.testing.assert_array_equal(one[0], two[0])
    changed = np.concatenate([x for x, _ in epochs[0]])
    assert changed.shape == batch.shape
    assert changed.dtype == batch.dtype
    assert (changed != batch).any()
    np.testing.assert_array_equal(np.concatenate([y for _, y in epochs[0]]), labels)
    for engine in ("graph", "auto"):
        same = next(iter(policy.map(data, engine)))[0]
        np.testing.assert_array_equal(same, epochs[0][0][0])

    layer = kacc.layers.Augmentation(policy)
    np.testing.assert_array_equal(layer(batch), batch)
    np.testing.assert_array_equal(layer(batch, training=False), batch)
    assert (np.asarray(layer(batch, training=True)) != batch).any()

    model = classifier(batch)
    plain = model.predict(batch, verbose=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.0), loss)
    unchanged = model.fit(batch, labels, batch_size=64, verbose=0).history["loss"]
    augmentation = kacc.callbacks.DataAugmentation(policy)
    validation = (batch, labels)
    history = model.fit(
        batch,
        labels,
        batch_size=64,
        verbose=0,
        callbacks=[augmentation],
        validation_data=validation,
    ).history
    assert history["loss"] != unchanged
    np.testing.assert_allclose(history["val_loss"], unchanged, rtol=1e-5)
    np.testing.assert_array_equal(model.predict(batch, verbose=0), plain)


def test_a_layer_with_it_is_saved_and_loaded(tmp_path):
    model = keras.Sequential(
        [keras.Input((500,)), kacc.layers.Augmentation([NoiseAtSNR((0, 20))])]
    )
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.layers[0].policy == model.layers[0].policy
    np.testing.assert_array_equal(again.predict(WAVES, verbose=0), WAVES)


def test_sounds_cannot_be_drawn(tmp_path):
    with pytest.raises(kacc.UsageError):
        Policy([TimeShift()]).preview(WAVES, tmp_path / "a.png")


def test_shifts_are_within_bounds_and_whole():
    ramp = np.tile(np.arange(1, 1001, dtype="float32"), (64, 1))
    moved = run(TimeShift((-0.1, 0.2), wrap=True), ramp)
    steps = 1 - moved[:, 0]
    steps = np.where(steps < -500, steps + 1000, steps)
    assert steps.min() >= -100
    assert steps.max() <= 200
    assert steps.min() < -50
    assert steps.max() > 150
    np.testing.assert_array_equal(steps, np.rint(steps))


def test_noise_lies_within_the_range_of_ratios():
    noise = run(NoiseAtSNR((10, 30)), WAVES) - WAVES
    ratios = 10 * np.log10((WAVES**2).mean(1) / (noise**2).mean(1))
    assert 9.99 <= ratios.min() < 14
    assert 26 < ratios.max() <= 30.01
    exact = run(NoiseAtSNR(20), WAVES) - WAVES
    ratios = 10 * np.log10((WAVES**2).mean(1) / (exact**2).mean(1))
    np.testing.assert_allclose(ratios, 20, atol=0.01)


def spans(hidden):
    """The lengths of runs of True in a vector."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], hidden, [0]])))
    return edges[1::2] - edges[::2]


@pytest.mark.parametrize(
    ("options", "widest"),
    [
        ({"time_width": 8, "frequency_masks": 0, "time_masks": 1}, 8),
        ({"time_width": 0.2, "frequency_masks": 0, "time_masks": 1}, 8),
        ({"time_width": 100, "frequency_masks": 0, "time_masks": 1}, 40),
        (
            {
                "time_width": 100,
                "time_share": 0.25,
                "frequency_masks": 0,
                "time_masks": 1,
            },
            10,
        ),
        ({"frequency_width": 5, "frequency_masks": 1, "time_masks": 0}, 5),
        ({"frequency_width": 0.5, "frequency_masks": 1, "time_masks": 0}, 10),
    ],
    ids=str,
)
def test_masks_have_all_widths_up_to_the_widest(options, widest):
    batch = np.concatenate([SPECTROGRAMS] * 16)
    found = run(SpecAugment(**options), batch) == 0
    axis = 2 if options["time_masks"] else 1
    hidden = found.all(axis)
    np.testing.assert_array_equal(found.any(axis), hidden)  # whole rows or columns
    widths = [spans(row) for row in hidden]
    assert all(len(width) <= 1 for width in widths)
    seen = {int(width[0]) if len(width) else 0 for width in widths}
    assert seen == set(range(widest + 1))
    assert hidden[:, 0].any()  # spans reach both ends
    assert hidden[:, -1].any()


def test_masks_of_both_kinds_stay_within_their_bound():
    found = run(SpecAugment(2, 3, time_width=4, frequency_width=2), SPECTROGRAMS) == 0
    times, frequencies = found.all(2).sum(1), found.all(1).sum(1)
    assert times.max() <= 8
    assert frequencies.max() <= 6
    assert times.max() > 4  # more than one mask can have made
    assert frequencies.max() > 2


def test_masks_have_the_mean_where_it_is_asked_for():
    found = run(SpecAugment(1, 0, time_width=0.99, value=None), SPECTROGRAMS)
    changed = found != SPECTROGRAMS
    means = np.broadcast_to(SPECTROGRAMS.mean((1, 2))[:, None, None], found.shape)
    np.testing.assert_allclose(found[changed], means[changed], rtol=1e-5)
    assert changed.any()


def test_dropped_tokens_have_the_rate_and_padding_stays():
    tokens = TOKENS.copy()
    tokens[:, 20:] = 0
    found = run(TokenDropout(0.25, token=100), tokens)
    assert (found[:, 20:] == 0).all()
    share = (found[:, :20] == 100).mean()
    assert share == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / 1280))


def test_transforms_of_one_policy_are_done_one_after_another():
    both = run(Policy([TimeShift(0.2), NoiseAtSNR(20)]), WAVES)
    first = run(Policy([TimeShift(0.2)]), WAVES)
    noise = both - first
    assert (noise != 0).all()
    ratios = 10 * np.log10((first**2).mean(1) / (noise**2).mean(1))
    np.testing.assert_allclose(ratios, 20, atol=0.01)


# Wrong calls


@pytest.mark.parametrize(
    "transforms",
    [[TimeShift(), SpecAugment()], [TokenDropout(), Flip()], [NoiseAtSNR(), Flip()]],
)
def test_kinds_are_not_mixed(transforms):
    with pytest.raises(kacc.UsageError, match="must be for one kind of data"):
        Policy(transforms)


@pytest.mark.parametrize(
    ("policy", "batch"),
    [
        (TimeShift(), TOKENS),
        (TimeShift(), WAVES[0]),
        (NoiseAtSNR(), WAVES[..., None, None]),
        (SpecAugment(), WAVES),
        (TokenDropout(), WAVES),
        (TokenDropout(), TOKENS[..., None]),
    ],
)
def test_wrong_data_is_refused(policy, batch):
    with pytest.raises(kacc.UsageError, match="A policy for data of the kind"):
        run(policy, batch)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TimeShift(2), "`fraction` must be a range"),
        (lambda: TimeShift("far"), "`fraction` must be a number"),
        (lambda: TimeShift(0.1, probability=2), "`probability` must be a number"),
        (lambda: NoiseAtSNR((30, 10)), "`snr_db` must be a range"),
        (lambda: NoiseAtSNR("loud"), "`snr_db` must be"),
        (lambda: SpecAugment(time_masks=-1), "`time_masks` must be"),
        (lambda: SpecAugment(time_masks=1.5), "`time_masks` must be a whole number"),
        (lambda: SpecAugment(time_width=2.5), "a whole number of steps, or a share"),
        (lambda: SpecAugment(frequency_width=-1), "`frequency_width` must be"),
        (lambda: SpecAugment(time_share=2), "`time_share` must be"),
        (lambda: SpecAugment(value="mean"), "`value` must be a number"),
        (lambda: TokenDropout(2), "`rate` must be"),
        (lambda: TokenDropout(token=-1), "`token` must be"),
        (lambda: TokenDropout(keep=3), "`keep` must be a list"),
        (lambda: TokenDropout(keep=["pad"]), "`keep` must be a whole number"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(kacc.UsageError, match=message):
        make()
