"""Changes of waveforms and spectrograms: tensors and numbers in, tensors out.

Waveforms are (batch, time) or (batch, time, channels), spectrograms (batch, time,
frequency) or (batch, time, frequency, 1), all of floats. Nothing is drawn here but the
noise, from a stateless seed; all of it compiles with XLA.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kacc.augmentation.randomness import normal, words_of


def time_shift(waves: Any, steps: Any, wrap: bool = False) -> Any:
    """Moves each waveform in time.

    Args:
        waves: (batch, time) or (batch, time, channels).
        steps: (batch,) integers, samples; positive ones move to later times.
        wrap: whether what leaves at one end comes in at the other; else silence does.

    Returns:
        Waveforms of the same shape and type.

    Example:
        >>> time_shift([[1.0, 2.0, 3.0]], [1]).numpy().tolist()
        [[0.0, 1.0, 2.0]]
        >>> time_shift([[1.0, 2.0, 3.0]], [-1], wrap=True).numpy().tolist()
        [[2.0, 3.0, 1.0]]
    """
    waves = tf.convert_to_tensor(waves)
    length = tf.shape(waves)[1]
    sources = tf.range(length)[None] - tf.cast(steps, tf.int32)[:, None]
    moved = tf.gather(waves, tf.math.floormod(sources, length), axis=1, batch_dims=1)
    if wrap:
        return moved
    inside = (sources >= 0) & (sources < length)
    return tf.where(_to_rank(inside, waves), moved, tf.zeros_like(moved))


def noise_at_snr(waves: Any, snr_db: Any, seed: Any) -> Any:
    """Adds white noise, so much weaker than each waveform as is asked for.

    The ratio of powers is that of the noise that was drawn, not only of its
    distribution: signal and noise measured over time and channels have it exactly. A
    silent waveform stays silent.

    Args:
        waves: (batch, time) or (batch, time, channels), around 0.
        snr_db: (batch,) ratios of the powers of signal and noise, in decibels.
        seed: two integers of 32 bits.

    Returns:
        Waveforms of the same shape and type; clipped nowhere.

    Example:
        >>> wave = tf.sin(tf.range(8000.0))[None]
        >>> noise = noise_at_snr(wave, [20.0], (1, 2)) - wave
        >>> ratio = tf.reduce_mean(wave**2) / tf.reduce_mean(noise**2)
        >>> round(10 * float(tf.math.log(ratio)) / float(tf.math.log(10.0)), 2)
        20.0
    """
    waves = tf.convert_to_tensor(waves)
    signal = tf.cast(waves, tf.float32)
    noise = normal(words_of(seed), tf.shape(signal))
    wanted = _power(signal) / tf.pow(10.0, tf.cast(snr_db, tf.float32) / 10)
    scale = tf.sqrt(tf.math.divide_no_nan(wanted, _power(noise)))
    return tf.cast(signal + _to_rank(scale, signal) * noise, waves.dtype)


def mask_spans(
    spectrograms: Any, starts: Any, widths: Any, axis: int, value: Any = 0.0
) -> Any:
    """Replaces spans of a spectrogram (SpecAugment, Park 2019, arXiv:1904.08779).

    Args:
        spectrograms: (batch, time, frequency) or (batch, time, frequency, 1).
        starts: (batch, masks) integers, where spans begin.
        widths: (batch, masks) integers, 0 for no span.
        axis: 1 for spans of time, 2 for spans of frequency.
        value: what is put there, a number or (batch,) numbers.

    Returns:
        Spectrograms of the same shape and type.

    Example:
        >>> ones = tf.ones((1, 4, 2))
        >>> mask_spans(ones, [[1]], [[2]], axis=1)[0, :, 0].numpy().tolist()
        [1.0, 0.0, 0.0, 1.0]
    """
    spectrograms = tf.convert_to_tensor(spectrograms)
    starts, widths = (tf.cast(x, tf.int32)[..., None] for x in (starts, widths))
    places = tf.range(tf.shape(spectrograms)[axis])
    hidden = tf.reduce_any((places >= starts) & (places < starts + widths), axis=1)
    shape = [tf.shape(hidden)[0], *[1] * (spectrograms.shape.rank - 1)]
    shape[axis] = tf.shape(hidden)[1]
    value = tf.cast(value, spectrograms.dtype)
    if value.shape.rank:
        value = _to_rank(value, spectrograms)
    return tf.where(tf.reshape(hidden, shape), value, spectrograms)


def _power(signal: Any) -> Any:
    """The mean square of each sample of a batch."""
    return tf.reduce_mean(tf.square(signal), range(1, signal.shape.rank))


def _to_rank(values: Any, like: Any) -> Any:
    """Values with axes of 1 behind theirs."""
    shape = tf.shape(values)
    ones = tf.ones([like.shape.rank - values.shape.rank], tf.int32)
    return tf.reshape(values, tf.concat([shape, ones], 0))
