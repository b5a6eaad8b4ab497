"""RandAugment and TrivialAugment: which change an image gets, and how much of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from kacc.augmentation.draws import Draws

KINDS = (
    "identity",
    "autocontrast",
    "equalize",
    "rotation",
    "solarize",
    "colour",
    "posterize",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translation_x",
    "translation_y",
)


@dataclass(frozen=True)
class _Strongest:
    """The strength of each kind at the upper end.

    Args:
        degrees: of a rotation.
        factor: distance from 1 of colour, contrast, brightness and sharpness.
        bits: taken away by posterizing.
        shear: tangent of the angle.
        translation: size of a side in pixels -> pixels.
    """

    degrees: float
    factor: float
    bits: float
    shear: float
    translation: Callable[[Any], Any]


# As in torchvision's RandAugment and TrivialAugmentWide, after the papers.
_RAND = _Strongest(30, 0.9, 4, 0.3, lambda side: side * (150 / 331))
_TRIVIAL = _Strongest(135, 0.99, 6, 0.99, lambda side: 32.0)


def rand_augment(transform: Any, draws: Draws) -> None:
    """Adds `n` changes for each image to the columns."""
    strength = tf.fill((draws.batch,), transform.magnitude / 30)
    for _ in range(transform.n):
        _one(draws, _RAND, strength, transform.probability)


def trivial_augment(transform: Any, draws: Draws) -> None:
    """Adds one change for each image to the columns, of a strength that is drawn."""
    _one(draws, _TRIVIAL, draws.whole(0, 30) / 30, transform.probability)


def _one(draws: Draws, most: _Strongest, strength: Any, probability: float) -> None:
    kind = draws.whole(0, len(KINDS) - 1)
    kind = draws.only(probability, kind, 0.0)
    signed = tf.where(draws.chosen(0.5), -strength, strength)

    def only(name: str, value: Any, neutral: float = 0.0) -> Any:
        return tf.where(kind == KINDS.index(name), value, neutral)

    draws.mark("autocontrast", kind == KINDS.index("autocontrast"))
    draws.mark("equalize", kind == KINDS.index("equalize"))
    draws.add("angle", only("rotation", signed * (most.degrees * math.pi / 180)))
    draws.add("shear_x", only("shear_x", signed * most.shear))
    draws.add("shear_y", only("shear_y", signed * most.shear))
    x, y = most.translation(draws.width), most.translation(draws.height)
    draws.add("shift_x", only("translation_x", signed * x))
    draws.add("shift_y", only("translation_y", signed * y))
    factor = 1 + signed * most.factor
    for name, column in (
        ("colour", "saturation"),
        ("contrast", "contrast"),
        ("brightness", "brightness"),
        ("sharpness", "sharpness"),
    ):
        draws.multiply(column, only(name, factor, 1.0))
    # At a threshold of 1 only the highest value would be inverted; 2 leaves it, too.
    draws.lower("threshold", only("solarize", 1 - strength, 2.0))
    draws.lower("bits", only("posterize", 8 - tf.round(strength * most.bits), 8.0))
