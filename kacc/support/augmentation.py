"""Layers that change images in training, and of which nothing is left at inference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from kacc.core.registry import LayerSpec, Output

layers = keras.layers


def _row(cls: type, *args: Any) -> LayerSpec:
    make: Callable[[], Any] = lambda: (cls(*args), [(8, 8, 3)])  # noqa: E731
    return LayerSpec(cls, output=Output.IDENTITY, examples=(make,))


SPECS = [
    _row(layers.AugMix),
    _row(layers.RandAugment),
    _row(layers.RandomBrightness, 0.2),
    _row(layers.RandomColorDegeneration, 0.2),
    _row(layers.RandomColorJitter),
    _row(layers.RandomContrast, 0.2),
    _row(layers.RandomElasticTransform),
    _row(layers.RandomErasing),
    _row(layers.RandomFlip),
    _row(layers.RandomGaussianBlur),
    _row(layers.RandomGrayscale),
    _row(layers.RandomHue, 0.2),
    _row(layers.RandomInvert),
    _row(layers.RandomPerspective),
    _row(layers.RandomPosterization, 4),
    _row(layers.RandomRotation, 0.1),
    _row(layers.RandomSaturation, 0.2),
    _row(layers.RandomSharpness, 0.2),
    _row(layers.RandomShear),
    _row(layers.RandomTranslation, 0.1, 0.1),
    _row(layers.RandomZoom, 0.1),
    _row(layers.Solarization),
]
