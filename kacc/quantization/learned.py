"""Learned step sizes (LSQ): pure tensor functions.

Esser et al. 2020, "Learned Step Size Quantization", arXiv:1902.08153: the step is a
parameter, whose gradient comes straight through the rounding. Steps are learned as
`base * exp(gain)`, since an optimizer that normalizes gradients (Adam) moves every
parameter by as much, and steps differ by orders of magnitude (cf. Jain et al. 2020,
arXiv:1903.08066, section 3.3). With `lsq_gain` the gain gets the gradient by which a
step moves, relative to its size, as in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from kacc.quantization.functional import fake_quantize, weight_scale

# Shares of the largest weight that are tried as the end of the first range.
_TRIED = tuple(0.2 + 0.02 * i for i in range(41))

# Of up to as many examples the gradient of a range is exact; of more it is estimated.
_LEAST_EXAMPLES = 8


def lsq_gain(base: Any, gain: Any, values: int, levels: int) -> Any:
    """A positive parameter `base * exp(gain)`, with LSQ's gradient for the gain.

    Args:
        base: where learning starts, positive.
        gain: trainable, of the same shape, 0 at the start.
        values: how many values share the parameter.
        levels: integers on one side of zero, Q_P of the paper.

    Returns:
        The parameter. The gradient of `gain` is the parameter's, scaled by
        1 / sqrt(values * levels) (section 2.2) and divided by the parameter.

    Example:
        >>> float(lsq_gain(tf.constant(2.0), tf.constant(0.0), 100, 127))
        2.0
    """
    share = 1.0 / math.sqrt(values * levels)

    @tf.custom_gradient
    def scaled(base: Any, gain: Any) -> Any:
        result = base * tf.exp(gain)

        def gradient(upstream: Any) -> Any:
            return None, tf.math.divide_no_nan(upstream * share, result)

        return result, gradient

    return scaled(base, gain)


def lsq_range(ends: Any, gain: Any, values: int, bits: int) -> Any:
    """The ends of a range, each `end * exp(gain)`, with LSQ's gradient for the gains.

    Args:
        ends: (low, high), where learning starts.
        gain: trainable, of the same shape.
        values: how many values of one sample the range is for.
        bits: width of the integers.

    Returns:
        The ends. Gradients are those of `lsq_gain` for the step that they make.

    Example:
        >>> lsq_range(tf.constant([-1.0, 2.0]), tf.zeros(2), 64, 8).numpy()
        array([-1.,  2.], dtype=float32)
    """
    steps = float(2**bits - 1)
    share = steps * steps / math.sqrt(values * steps)

    @tf.custom_gradient
    def scaled(ends: Any, gain: Any) -> Any:
        result = ends * tf.exp(gain)

        def gradient(upstream: Any) -> Any:
            # What moves an end outward moves the gain up, whatever the end's sign.
            outward = upstream * tf.sign(result) * share
            return None, tf.math.divide_no_nan(outward, result[1] - result[0])

        return result, gradient

    return scaled(ends, gain)


def quantize_by_step(weight: Any, step: Any, bits: int) -> Any:
    """A weight rounded to multiples of a step, with the gradients of LSQ.

    Args:
        weight: float32 tensor.
        step: positive, of a shape that broadcasts to it.
        bits: width of the integers, which are symmetric: -7..7 for 4.

    Returns:
        A tensor of the same shape. The gradient of the weight is zero where it is
        clipped; that of the step is round(w/s) - w/s, and the last integer where it is
        clipped.

    Example:
        >>> quantize_by_step(tf.constant([0.26, 9.0]), 0.5, 4).numpy()
        array([0.5, 3.5], dtype=float32)
    """
    largest = float(2 ** (bits - 1) - 1)
    scaled = tf.clip_by_value(weight / step, -largest, largest)
    return (scaled + tf.stop_gradient(tf.round(scaled) - scaled)) * step


def integers_by_step(weight: Any, step: Any, bits: int) -> Any:
    """The integers of `quantize_by_step`, as float32.

    Example:
        >>> integers_by_step(tf.constant([0.26, 9.0]), 0.5, 4).numpy()
        array([1., 7.], dtype=float32)
    """
    largest = float(2 ** (bits - 1) - 1)
    return tf.round(tf.clip_by_value(weight / step, -largest, largest))


def quantize_to_ends(
    value: Any, low: Any, high: Any, bits: int = 8, symmetric: bool = False
) -> Any:
    """Values rounded to the steps of a range whose ends are learned.

    The step is (high - low) / (2^bits - 1): LSQ's gradient for it, written for the
    ends, from which the zero point follows too (LSQ+, Bhalgat et al. 2020,
    arXiv:2004.09576). What rounding adds to it is summed over the first quarter of a
    batch of more than 8, and taken four times.

    Args:
        value: float32 tensor.
        low: lower end, from `kacc.quantization.functional.nudge`.
        high: upper end.
        bits: width of the integers.
        symmetric: whether the range is.

    Returns:
        A tensor of the same shape.

    Example:
        >>> quantize_to_ends(tf.constant([0.4, 300.0]), 0.0, 255.0).numpy()
        array([  0., 255.], dtype=float32)
    """

    @tf.custom_gradient
    def quantized(value: Any, low: Any, high: Any) -> Any:
        result = fake_quantize(value, low, high, bits, symmetric)

        def gradient(upstream: Any) -> Any:
            inside, below, above = tf.raw_ops.FakeQuantWithMinMaxVarsGradient(
                gradients=upstream,
                inputs=value,
                min=low,
                max=high,
                num_bits=bits,
                narrow_range=symmetric,
            )
            by_step = _rounding_term(inside, result, value) / (high - low)
            return inside, below - by_step, above + by_step

        return result, gradient

    return quantized(value, tf.convert_to_tensor(low), tf.convert_to_tensor(high))


def _rounding_term(upstream: Any, result: Any, value: Any) -> Any:
    """The sum of upstream * (result - value), estimated from a part of the batch.

    Three passes over all values cost a tenth of a training step.
    """
    examples = tf.shape(value)[0]
    count = tf.minimum(examples, tf.maximum(examples // 4, _LEAST_EXAMPLES))
    error = result[:count] - value[:count]
    some = tf.reduce_sum(upstream[:count] * error)
    share = tf.math.divide_no_nan(
        tf.cast(count, "float32"), tf.cast(examples, "float32")
    )
    return tf.math.divide_no_nan(some, share)


def straight_through(value: Any, changed: Any) -> Any:
    """`changed` with the gradient of `value`.

    Example:
        >>> float(straight_through(tf.constant(1.2), tf.constant(1.0)))
        1.0
    """
    return value + tf.stop_gradient(changed - value)


def with_idle(value: Any, variables: Sequence[Any]) -> Any:
    """The value itself, which leads gradients of zero to variables not yet in use.

    Keras warns of trainable variables without a gradient.

    Example:
        >>> float(with_idle(tf.constant(3.0), [tf.Variable(1.0)]))
        3.0
    """
    shapes = [tf.convert_to_tensor(v) for v in variables]

    @tf.custom_gradient
    def linked(value: Any, *variables: Any) -> Any:
        def gradient(upstream: Any) -> Any:
            return upstream, *(tf.zeros_like(v) for v in variables)

        return tf.identity(value), gradient

    return linked(value, *shapes)


def unused(gain: Any) -> Any:
    """Zeros in the place of a gain, whose gradient is zero, and not missing.

    Example:
        >>> float(unused(tf.Variable(3.0)))
        0.0
    """
    return with_idle(tf.zeros_like(gain), [gain])


def least_error_step(weight: Any, channels: Sequence[int], bits: int) -> Any:
    """The steps with the least squared error of rounding and clipping, per channel.

    Args:
        weight: float32 tensor.
        channels: the axes that keep a step of their own.
        bits: width of the integers.

    Returns:
        Steps, of the weight's rank, 1 where a channel is all zero.

    Example:
        >>> weight = tf.constant([[0.1, 0.2, -0.1, 7.0]])
        >>> float(least_error_step(weight, [0], 4)[0, 0])
        1.0
    """
    widest = weight_scale(weight, channels, bits)
    axes = [i for i, size in enumerate(widest.shape) if size == 1]
    best, least = widest, None
    for share in reversed(_TRIED):  # of equal errors the widest: it clips nothing
        step = widest * share
        rounded = integers_by_step(weight, step, bits) * step
        error = tf.reduce_sum(tf.square(rounded - weight), axes, keepdims=True)
        if least is None:
            best, least = step, error
        else:
            best = tf.where(error < least, step, best)
            least = tf.minimum(error, least)
    return best
