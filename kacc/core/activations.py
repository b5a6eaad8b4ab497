"""Activations that Keras 3 lacks; without a model, so cheap to import."""

from __future__ import annotations

from typing import Any


def legacy_hard_sigmoid(x: Any) -> Any:
    """The hard sigmoid of Keras 1 and 2: 0.2 x + 0.5, cut at 0 and 1.

    That of Keras 3 is steeper in its name only: x / 6 + 0.5. The old one comes from
    Courbariaux et al. 2015 (arXiv:1511.00363) in Theano's variant.

    Args:
        x: a tensor.

    Returns:
        A tensor of the same shape.

    Example:
        >>> legacy_hard_sigmoid([-3.0, 1.0, 3.0]).numpy().tolist()
        [0.0, 0.699999988079071, 1.0]
    """
    from keras import ops

    return ops.clip(ops.multiply(0.2, x) + 0.5, 0.0, 1.0)
