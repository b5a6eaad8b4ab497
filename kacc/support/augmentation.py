"""Layers that change images in training, and of which nothing is left at inference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from kacc.core.registry import LayerSpec, Output

layers = keras.layers


_VALUES = {"value_range": (-5, 5)}


def _row(cls: type, *args: Any, **options: Any) -> LayerSpec:
    make: Callable[[], Any] = lambda: (cls(*args, **options), [(8, 8, 3)])  # noqa: E731
    return LayerSpec(cls, output=Output.IDENTITY, examples=(make,))


SPECS = [
    _row(layers.AugMix, **_VALUES),
    _row(layers.RandAugment, **_VALUES),
    _row(layers.RandomBrightness, 0.1, **_VALUES),
    _row(layers.RandomColorDegeneration, 0.2),
    _row(layers.RandomColorJitter),
    _row(layers.RandomContrast, 0.2),
    _row(layers.RandomElasticTransform),
    _row(layers.RandomErasing, 0.5, **_VALUES),
    _row(layers.RandomFlip),
    _row(layers.RandomGaussianBlur),
    _row(layers.RandomGrayscale),
    _row(layers.RandomHue, 0.2),
    _row(layers.RandomInvert, **_VALUES),
    _row(layers.RandomPerspective),
    _row(layers.RandomPosterization, 8, **_VALUES),
    _row(layers.RandomRotation, 0.1),
    _row(layers.RandomSaturation, 0.2),
    _row(layers.RandomSharpness, 0.2),
    _row(layers.RandomShear),
    _row(layers.RandomTranslation, 0.1, 0.1),
    _row(layers.RandomZoom, 0.1),
    _row(layers.Solarization, **_VALUES),
]
