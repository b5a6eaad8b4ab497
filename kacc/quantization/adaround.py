"""Adaptive rounding: each weight up or down, whichever its layer's output asks for.

Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization",
arXiv:2004.10568: rounding to nearest is best for a weight alone, not for the sum that
it is part of. Each weight's rounding is relaxed to a number in 0..1, which gradient
descent on the layer's output moves, and a regularizer drives to one of the ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from kacc.core.errors import UsageError

# How far the rectified sigmoid reaches beyond 0 and 1, so that it can come to them.
_STRETCH = 0.1


@dataclass(frozen=True)
class AdaRound:
    """How long and how hard roundings are fitted.

    Args:
        steps: of gradient descent, for each layer.
        batch: samples of a step.
        rate: learning rate of Adam.
        weight: of the regularizer.
        warm_up: share of the steps without it.
        betas: its exponent at the start and at the end; it sharpens as it falls.

    Raises:
        UsageError: for a number out of bounds.

    Example:
        >>> AdaRound(steps=2000).batch
        32
    """

    steps: int = 500
    batch: int = 32
    rate: float = 1e-2
    weight: float = 0.01
    warm_up: float = 0.2
    betas: tuple[float, float] = (20.0, 2.0)

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "rate", "weight"):
            if not getattr(self, name) > 0:
                raise UsageError(
                    f"`{name}` of AdaRound must be above 0",
                    received=getattr(self, name),
                    fix="Leave it out, the default does",
                )
        if not 0 <= self.warm_up < 1:
            raise UsageError(
                "`warm_up` of AdaRound must be a share of the steps below 1",
                received=self.warm_up,
                fix="Pass 0.2",
            )


def rectified_sigmoid(free: Any) -> Any:
    """A number in 0..1, both ends included, by a free parameter (equation 23).

    Example:
        >>> rectified_sigmoid(tf.constant([-9.0, 0.0, 9.0])).numpy()
        array([0. , 0.5, 1. ], dtype=float32)
    """
    stretched = tf.sigmoid(free) * (1 + 2 * _STRETCH) - _STRETCH
    return tf.clip_by_value(stretched, 0.0, 1.0)


def free_parameter(share: Any) -> Any:
    """The free parameter at which the rectified sigmoid is a share in 0..1.

    Example:
        >>> round(float(rectified_sigmoid(free_parameter(tf.constant(0.3)))), 4)
        0.3
    """
    inside = (share + _STRETCH) / (1 + 2 * _STRETCH)
    return -tf.math.log(1.0 / inside - 1.0)


def integers(weight: Any, step: Any, up: Any, bits: int) -> Any:
    """The integers of a weight, with a share of a step added to those rounded down.

    Args:
        weight: float32 tensor.
        step: positive, of a shape that broadcasts to it.
        up: in 0..1, of the weight's shape; 0 rounds down, 1 up.
        bits: width of the integers, which are symmetric.

    Returns:
        Whole numbers where `up` is 0 or 1, float32.

    Example:
        >>> integers(tf.constant([0.6, 9.0]), 0.5, tf.constant([1.0, 1.0]), 4).numpy()
        array([2., 7.], dtype=float32)
    """
    largest = float(2 ** (bits - 1) - 1)
    return tf.clip_by_value(tf.floor(weight / step) + up, -largest, largest)


def regularizer(up: Any, beta: Any) -> Any:
    """Zero if all roundings are 0 or 1, one for each that is 0.5 (equation 24).

    Example:
        >>> float(regularizer(tf.constant([0.0, 0.5, 1.0]), 2.0))
        1.0
    """
    return tf.reduce_sum(1.0 - tf.abs(2.0 * up - 1.0) ** beta)


def annealed(done: float, betas: tuple[float, float]) -> float:
    """The exponent of the regularizer: from the first to the second, as a cosine.

    Args:
        done: share of the steps with a regularizer, in 0..1.
        betas: at the start and at the end.

    Example:
        >>> annealed(0.0, (20.0, 2.0)), annealed(1.0, (20.0, 2.0))
        (20.0, 2.0)
    """
    first, last = betas
    return last + (first - last) * (1 + math.cos(math.pi * done)) / 2


def fitted_integers(
    weights: Sequence[Any],
    steps: Sequence[Any],
    bits: int,
    inputs: Sequence[Any],
    wanted: Any,
    layer: Callable[[Sequence[Any], Sequence[Any]], Any],
    settings: AdaRound,
) -> list[Any]:
    """The integers by which a layer comes nearest to the outputs it should have.

    Args:
        weights: of the layer, float32 tensors.
        steps: positive, of shapes that broadcast to them.
        bits: width of the integers.
        inputs: what the layer reads in the quantized model, samples first.
        wanted: what it makes in the float model.
        layer: (inputs, weights) -> outputs.
        settings: how to fit.

    Returns:
        Whole numbers for each weight: the weight over its step, rounded up or down.
    """
    pairs = list(zip(weights, steps, strict=True))
    free = [tf.Variable(free_parameter(w / s - tf.floor(w / s))) for w, s in pairs]
    optimizer = _Adam(free, settings.rate)

    def rounded(ups: Sequence[Any]) -> list[Any]:
        triples = zip(weights, steps, ups, strict=True)
        return [integers(w, s, up, bits) * s for w, s, up in triples]

    @tf.function(autograph=False)
    def descend(chosen: Any, strength: Any, beta: Any) -> None:
        with tf.GradientTape() as tape:
            ups = [rectified_sigmoid(variable) for variable in free]
            made = layer([tf.gather(x, chosen) for x in inputs], rounded(ups))
            # Summed over channels, as in the paper; a mean over all else.
            error = tf.reduce_sum(tf.square(made - tf.gather(wanted, chosen)), -1)
            pull = tf.add_n([regularizer(up, beta) for up in ups])
            loss = tf.reduce_mean(error) + strength * pull
        optimizer.apply(tape.gradient(loss, free))

    random = np.random.default_rng(0)
    warm = int(settings.warm_up * settings.steps)
    for number in range(settings.steps):
        chosen = random.integers(0, len(wanted), min(settings.batch, len(wanted)))
        done = max(0, number - warm) / max(1, settings.steps - 1 - warm)
        strength = settings.weight if number >= warm else 0.0
        beta = annealed(done, settings.betas)
        descend(tf.constant(chosen), tf.constant(strength), tf.constant(beta))
    ups = [tf.cast(rectified_sigmoid(v) >= 0.5, tf.float32) for v in free]
    return [integers(w, s, up, bits) for (w, s), up in zip(pairs, ups, strict=True)]


class _Adam:
    """Kingma and Ba 2015, arXiv:1412.6980.

    One of Keras would number the names of optimizers and variables of the process on.
    """

    def __init__(self, variables: Sequence[Any], rate: float) -> None:
        self.variables = variables
        self.rate = rate
        self.means = [tf.Variable(tf.zeros_like(v)) for v in variables]
        self.squares = [tf.Variable(tf.zeros_like(v)) for v in variables]
        self.count = tf.Variable(0.0)

    def apply(self, gradients: Sequence[Any]) -> None:
        """One step."""
        count = self.count.assign_add(1.0)
        rate = self.rate * tf.sqrt(1 - 0.999**count) / (1 - 0.9**count)
        rows = zip(self.variables, gradients, self.means, self.squares, strict=True)
        for variable, gradient, mean, square in rows:
            mean.assign(0.9 * mean + 0.1 * gradient)
            square.assign(0.999 * square + 0.001 * tf.square(gradient))
            variable.assign_sub(rate * mean / (tf.sqrt(square) + 1e-8))
