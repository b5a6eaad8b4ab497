"""What a policy does to a batch of sounds or texts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from kacc.augmentation import config_sequences as config
from kacc.augmentation.draws import Draws
from kacc.augmentation.functional_audio import mask_spans, noise_at_snr, time_shift
from kacc.augmentation.functional_text import token_dropout
from kacc.core.errors import UsageError

# What each kind of data is: whether of floats, its ranks, and the words for it.
_FORMS = {
    "waveform": (True, (2, 3), "floats (batch, time) or (batch, time, channels)"),
    "spectrogram": (
        True,
        (3, 4),
        "floats (batch, time, frequency) or (batch, time, frequency, channels)",
    ),
    "tokens": (False, (2,), "integers (batch, length)"),
}


def augment(policy: Any, batch: Any, seed: Any) -> Any:
    """Changes a batch of sounds or texts, always compiled by XLA.

    So a seed gives the same batch, to the last bit, in a callback, in a layer and in
    `tf.data`: compiled and plain kernels round logarithms in different ways.

    Args:
        policy: of waveforms, spectrograms or tokens.
        batch: a tensor; see the transforms.
        seed: int32 tensor of three numbers.

    Returns:
        A tensor of the same shape and type.

    Raises:
        UsageError: if the batch is not of the policy's kind.

    Example:
        >>> from kacc.augmentation import Policy, TokenDropout
        >>> policy = Policy([TokenDropout(1.0, token=9)])
        >>> augment(policy, tf.constant([[4, 5, 0]]), tf.constant([1, 2, 3]))[0].numpy()
        array([9, 9, 0], dtype=int32)
    """
    batch = tf.convert_to_tensor(batch)
    check_batch(policy, batch)
    return _compiled(policy)(batch, tf.cast(seed, tf.int32))


def check_batch(policy: Any, batch: Any) -> None:
    """Checks that a batch is what the policy's transforms are for.

    Raises:
        UsageError: if its type or number of axes is another.
    """
    floats, ranks, words = _FORMS[policy.modality]
    dtype = tf.as_dtype(batch.dtype)
    right = dtype.is_floating if floats else dtype.is_integer
    if not right or len(batch.shape) not in ranks:
        raise UsageError(
            f"A policy for data of the kind {policy.modality!r} takes {words}",
            received=f"{dtype.name} of shape {tuple(batch.shape)}",
        )


@functools.lru_cache(maxsize=64)
def _compiled(policy: Any) -> Callable:
    def apply(batch: Any, seed: Any) -> Any:
        draws = Draws(seed, tf.shape(batch)[0], 0, 0)
        for transform in policy.transforms:
            batch = _CHANGES[type(transform)](transform, draws, batch)
        return batch

    return tf.function(apply, jit_compile=True, reduce_retracing=True)


# One function for each class


def _time_shift(shift: config.TimeShift, draws: Draws, waves: Any) -> Any:
    length = tf.cast(tf.shape(waves)[1], tf.float32)
    assert isinstance(shift.fraction, tuple)
    steps = tf.round(draws.uniform(shift.fraction) * length)
    return time_shift(waves, draws.only(shift.probability, steps, 0.0), shift.wrap)


def _noise(noise: config.NoiseAtSNR, draws: Draws, waves: Any) -> Any:
    assert isinstance(noise.snr_db, tuple)
    noisy = noise_at_snr(waves, draws.uniform(noise.snr_db), draws.next_key())
    return _chosen(noise.probability, draws, noisy, waves)


def _spec_augment(mask: config.SpecAugment, draws: Draws, spectrograms: Any) -> Any:
    value: Any = mask.value
    if value is None:
        value = tf.reduce_mean(spectrograms, range(1, spectrograms.shape.rank))
    result = spectrograms
    for axis, count, width, share in (
        (1, mask.time_masks, mask.time_width, mask.time_share),
        (2, mask.frequency_masks, mask.frequency_width, 1.0),
    ):
        if count:
            size = tf.cast(tf.shape(spectrograms)[axis], tf.float32)
            widest = width * size if width < 1 else tf.minimum(float(width), size)
            widest = tf.floor(tf.minimum(widest, share * size))
            spans = [_span(draws, widest, size) for _ in range(count)]
            starts, widths = (tf.stack(x, 1) for x in zip(*spans, strict=True))
            result = mask_spans(result, starts, widths, axis, value)
    return _chosen(mask.probability, draws, result, spectrograms)


def _span(draws: Draws, widest: Any, size: Any) -> tuple[Any, Any]:
    """Start and width of a span, both evenly drawn as in the paper."""
    # The paper draws widths below the widest; the widest itself is drawn here too.
    width = tf.minimum(tf.floor(draws.unit() * (widest + 1)), widest)
    start = tf.minimum(tf.floor(draws.unit() * (size - width + 1)), size - width)
    return start, width


def _token_dropout(dropout: config.TokenDropout, draws: Draws, tokens: Any) -> Any:
    rate = draws.only(dropout.probability, tf.fill([draws.batch], dropout.rate), 0.0)
    seed = draws.next_key()
    return token_dropout(tokens, rate, seed, dropout.token, dropout.keep)


def _chosen(probability: float, draws: Draws, changed: Any, given: Any) -> Any:
    if probability == 1:
        return changed
    chosen = draws.chosen(probability)
    shape = [-1] + [1] * (given.shape.rank - 1)
    return tf.where(tf.reshape(chosen, shape), changed, given)


_CHANGES: dict[type, Callable[[Any, Draws, Any], Any]] = {
    config.TimeShift: _time_shift,
    config.NoiseAtSNR: _noise,
    config.SpecAugment: _spec_augment,
    config.TokenDropout: _token_dropout,
}
