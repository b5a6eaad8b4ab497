"""Random numbers from integer arithmetic: the same plain, compiled and on every device.

TensorFlow's stateless generators give other numbers when XLA compiles them.
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

Words = tuple[Any, Any]

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def threefry(key: Words, counter: Words) -> Words:
    """Two words of 32 bits from a key and a counter: Threefry-2x32 with 20 rounds.

    (Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3.)

    Args:
        key: two uint32 tensors.
        counter: two uint32 tensors; shapes are broadcast.

    Returns:
        Two uint32 tensors.

    Example:
        >>> import tensorflow as tf
        >>> zero = tf.constant(0, tf.uint32)
        >>> [hex(int(word)) for word in threefry((zero, zero), (zero, zero))]
        ['0x6b200159', '0x99ba4efe']
    """
    third = key[0] ^ key[1] ^ tf.constant(0x1BD11BDA, tf.uint32)
    keys = (*key, third)
    x, y = counter[0] + keys[0], counter[1] + keys[1]
    for group in range(5):
        for bits in _ROTATIONS[group % 2]:
            x = x + y
            left = tf.bitwise.left_shift(y, tf.constant(bits, tf.uint32))
            right = tf.bitwise.right_shift(y, tf.constant(32 - bits, tf.uint32))
            y = (left | right) ^ x
        x = x + keys[(group + 1) % 3]
        y = y + keys[(group + 2) % 3] + tf.constant(group + 1, tf.uint32)
    return x, y


def key_of(seed: Any) -> Words:
    """The key that three int32 numbers stand for."""
    first, second, third = tf.unstack(tf.bitcast(seed, tf.uint32))
    return threefry((first, second), (third, tf.zeros_like(third)))


def units(words: Any) -> Any:
    """Numbers from 0 to below 1 with 24 bits, of uint32 words."""
    upper = tf.bitwise.right_shift(words, tf.constant(8, tf.uint32))
    return tf.cast(tf.cast(upper, tf.int32), tf.float32) * 2.0**-24


def normal(key: Words, shape: Any) -> Any:
    """Numbers of the normal distribution (Box and Muller 1958).

    Args:
        key: two uint32 tensors.
        shape: int32 tensor.

    Returns:
        A float32 tensor.
    """
    count = tf.reduce_prod(shape)
    index = tf.cast(tf.range(count), tf.uint32)
    first, second = threefry(key, (index, tf.zeros_like(index)))
    radius = tf.sqrt(-2.0 * tf.math.log(1.0 - units(first)))
    return tf.reshape(radius * tf.cos(2 * math.pi * units(second)), shape)


def words_of(seed: Any) -> Words:
    """The key that two integers of 32 bits are, of a tensor (2,) or a pair."""
    seed = tf.convert_to_tensor(seed)
    if seed.dtype != tf.uint32:
        seed = tf.bitcast(tf.cast(seed, tf.int32), tf.uint32)
    first, second = tf.unstack(seed)
    return first, second


def uniform(key: Words, shape: Any) -> Any:
    """Numbers from 0 to below 1.

    Args:
        key: two uint32 tensors.
        shape: int32 tensor.

    Returns:
        A float32 tensor.
    """
    index = tf.cast(tf.range(tf.reduce_prod(shape)), tf.uint32)
    return tf.reshape(units(threefry(key, (index, tf.zeros_like(index)))[0]), shape)
