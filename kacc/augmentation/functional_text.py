"""Changes of token sequences: integer tensors in and out; compiles with XLA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from kacc.augmentation.randomness import uniform, words_of


def token_dropout(
    tokens: Any, rate: Any, seed: Any, token: int = 0, keep: Sequence[int] = (0,)
) -> Any:
    """Replaces tokens at random.

    Args:
        tokens: (batch, length) integers.
        rate: the share of tokens that are replaced, a number or (batch,) numbers.
        seed: two integers of 32 bits.
        token: what they become: padding, or the id of an unknown or masked word.
        keep: ids that are never replaced: padding, begin, end, separators.

    Returns:
        Tokens of the same shape and type.

    Example:
        >>> token_dropout([[7, 8, 0, 0]], 1.0, (1, 2), token=3).numpy().tolist()
        [[3, 3, 0, 0]]
    """
    tokens = tf.convert_to_tensor(tokens)
    rate = tf.convert_to_tensor(rate, tf.float32)
    drawn = uniform(words_of(seed), tf.shape(tokens))
    dropped = drawn < (rate[:, None] if rate.shape.rank else rate)
    for kept in keep:
        dropped &= tokens != tf.cast(kept, tokens.dtype)
    return tf.where(dropped, tf.cast(token, tokens.dtype), tokens)
