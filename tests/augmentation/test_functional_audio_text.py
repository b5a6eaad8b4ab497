"""Sounds and texts: what each change must do, compiled by XLA and not."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from kacc.augmentation.functional_audio import mask_spans, noise_at_snr, time_shift
from kacc.augmentation.functional_text import token_dropout

RNG = np.random.default_rng(0)
SHAPES = [(3, 400), (3, 400, 2)]
BOTH = pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])


def graph(function, jit, **options):
    return tf.function(lambda *args: function(*args, **options), jit_compile=jit)


@BOTH
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("wrap", [False, True])
def test_shifts_are_those_of_numpy(shape, wrap, jit):
    waves = RNG.normal(size=shape).astype("float32")
    steps = np.array([7, 0, -13])
    found = graph(time_shift, jit, wrap=wrap)(waves, steps).numpy()
    for wave, step, moved in zip(waves, steps, found, strict=True):
        wanted = np.roll(wave, step, 0)
        if not wrap and step > 0:
            wanted[:step] = 0
        if not wrap and step < 0:
            wanted[step:] = 0
        np.testing.assert_array_equal(moved, wanted)


@given(step=st.integers(-1000, 1000))
def test_shifts_beyond_the_end_leave_silence(step):
    wave = np.arange(1.0, 21.0, dtype="float32")[None]
    moved = time_shift(wave, [step]).numpy()
    assert np.count_nonzero(moved) == max(0, 20 - abs(step))
    wrapped = time_shift(wave, [step], wrap=True).numpy()
    np.testing.assert_array_equal(wrapped[0], np.roll(wave[0], step))


@BOTH
@pytest.mark.parametrize("shape", SHAPES)
def test_noise_has_the_ratio_that_was_asked_for(shape, jit):
    waves = RNG.normal(size=shape).astype("float32") * np.float32(0.01)
    asked = np.array([-5.0, 10.0, 40.0], "float32")
    noisy = graph(noise_at_snr, jit)(waves, asked, (3, 4)).numpy()
    axes = tuple(range(1, waves.ndim))
    signal = np.square(waves.astype(float)).mean(axes)
    noise = np.square(noisy.astype(float) - waves).mean(axes)
    np.testing.assert_allclose(10 * np.log10(signal / noise), asked, atol=0.01)


def test_noise_is_white_and_different_for_each_waveform():
    waves = np.ones((2, 20_000), "float32")
    noise = (noise_at_snr(waves, [0.0, 0.0], (1, 1)) - waves).numpy()
    assert abs(np.corrcoef(noise)[0, 1]) < 0.03  # four deviations
    assert abs(np.corrcoef(noise[0, 1:], noise[0, :-1])[0, 1]) < 0.03
    assert abs(noise.mean()) < 0.03
    assert np.abs(noise).max() > 3  # and not uniform


def test_noise_of_silence_is_none_and_seeds_decide():
    waves = np.stack([np.zeros(50), np.ones(50)]).astype("float32")
    noisy = noise_at_snr(waves, [10.0, 10.0], (1, 1)).numpy()
    assert (noisy[0] == 0).all()
    assert (noisy[1] != 1).all()
    np.testing.assert_array_equal(noisy, noise_at_snr(waves, [10.0] * 2, (1, 1)))
    other = noise_at_snr(waves, [10.0, 10.0], (1, 2)).numpy()
    assert (noisy != other)[1].all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_types_stay(dtype):
    waves = tf.cast(RNG.normal(size=(2, 64)), dtype)
    assert noise_at_snr(waves, [10.0, 0.0], (1, 1)).dtype == dtype
    assert time_shift(waves, [1, 2]).dtype == dtype
    spectrograms = tf.cast(RNG.normal(size=(2, 6, 4)), dtype)
    assert mask_spans(spectrograms, [[1], [1]], [[2], [1]], 1).dtype == dtype


@BOTH
@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("shape", [(2, 12, 9), (2, 12, 9, 1)])
def test_masks_hide_their_spans_and_nothing_else(shape, axis, jit):
    spectrograms = RNG.normal(size=shape).astype("float32")
    starts, widths = np.array([[0, 5], [2, 7]]), np.array([[2, 3], [0, 2]])
    function = graph(mask_spans, jit, axis=axis, value=-3.0)
    found = function(spectrograms, starts, widths).numpy()
    wanted = spectrograms.copy()
    for index in range(2):
        for start, width in zip(starts[index], widths[index], strict=True):
            span = slice(start, start + width)
            wanted[(index, span) if axis == 1 else (index, slice(None), span)] = -3
    np.testing.assert_array_equal(found, wanted)


def test_masks_take_a_value_for_each_spectrogram():
    found = mask_spans(np.zeros((2, 3, 1), "float32"), [[0]] * 2, [[1]] * 2, 1, [5, 6])
    np.testing.assert_array_equal(found[:, 0, 0], [5, 6])


@BOTH
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_tokens_are_dropped_at_the_rate(jit, dtype):
    tokens = RNG.integers(1, 100, (50, 200)).astype(dtype)
    dropout = graph(token_dropout, jit, token=103)
    found = dropout(tokens, np.float32(0.3), (5, 6)).numpy()
    assert found.dtype == dtype
    dropped = found == 103
    assert dropped.mean() == pytest.approx(0.3, abs=4 * np.sqrt(0.3 * 0.7 / 10_000))
    np.testing.assert_array_equal(found[~dropped], tokens[~dropped])
    np.testing.assert_array_equal(found, dropout(tokens, np.float32(0.3), (5, 6)))


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31 - 1), rate=st.sampled_from([0.0, 0.5, 1.0]))
def test_kept_tokens_stay(seed, rate):
    tokens = np.array([[101, 5, 6, 7, 102, 0, 0, 0]] * 4)
    found = token_dropout(tokens, rate, (seed, 1), 103, keep=(0, 101, 102)).numpy()
    kept = np.isin(tokens, (0, 101, 102))
    np.testing.assert_array_equal(found[kept], tokens[kept])
    assert np.isin(found[~kept], (5, 6, 7, 103)).all()
    if rate != 0.5:
        assert (found[~kept] == 103).all() == (rate == 1)


def test_rates_can_differ_within_a_batch():
    tokens = np.ones((2, 5), int)
    found = token_dropout(tokens, [0.0, 1.0], (1, 1), token=9).numpy()
    np.testing.assert_array_equal(found, [[1] * 5, [9] * 5])
