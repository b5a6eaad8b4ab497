"""From a policy to parameters: a handful of numbers for each image."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from kacc.augmentation import (
    config,
    config_legacy,
    config_values,
    geometry,
    legacy_sampling,
)
from kacc.augmentation.beta import beta_quantile
from kacc.augmentation.choices import rand_augment, trivial_augment
from kacc.augmentation.colour import colour_matrix
from kacc.augmentation.draws import Draws


def draw(policy: Any, seed: Any, batch: Any, height: Any, width: Any) -> dict[str, Any]:
    """The parameters of a batch; a pure function, to be compiled by XLA.

    Args:
        policy: of images.
        seed: int32 tensor of three numbers.
        batch: images.
        height: of an image, in pixels.
        width: of an image, in pixels.

    Returns:
        Only what the policy has transforms for:

        - "matrix" (batch, 3, 3): from positions (x, y, 1) in the result to those in the
          image; the middle of the first pixel is (0, 0).
        - "colour" (batch, 3, 4): factors of red, green and blue, and what is added, as
          a share of the range of values above its lowest; "colour_mean" (batch,):
          the factor of the image's mean grey, which is added too.
        - "autocontrast", "equalize" (batch,) booleans; "threshold" (batch,), share of
          the range from which on values are inverted; "bits" (batch,) that stay.
        - "sharpness" (batch,), a factor; "sigma" (batch,) of a blur, in pixels.
        - "deviation" (batch,) of noise, as a share of the range; "noise_key" (2,).
        - "holes" (batch, n, 4): top, left, bottom, right of rectangles, in pixels.
        - "partner" (batch,): number of the image to mix with; "share" (batch,) of an
          image itself; "patch" (batch, 4): the rectangle that the partner fills, for
          which "share" stands only in labels.
    """
    draws = Draws(seed, batch, height, width)
    for transform in policy.transforms:
        _SAMPLERS[type(transform)](transform, draws)
    columns = draws.columns
    result: dict[str, Any] = {}
    if geometry.COLUMNS & set(columns):
        result["matrix"] = geometry.matrix(columns, draws)
    result.update(colour_matrix(columns, batch))
    for name in ("autocontrast", "equalize", "threshold", "bits", "sharpness"):
        if name in columns:
            result[name] = columns[name]
    for name in ("sigma", "deviation"):
        if name in columns:
            result[name] = tf.sqrt(columns[name])
    if "deviation" in columns:
        result["noise_key"] = draws.next_key()
    if "holes" in columns:
        result["holes"] = tf.stack(columns["holes"], 1)
    if "share" in columns or "patch" in columns:
        result.update(_mixing(columns, draws))
    return result


@functools.lru_cache(maxsize=64)
def compiled_draw(policy: Any, batch: int, height: int, width: int) -> Callable:
    """`draw` for batches of one shape, compiled: seed -> parameters."""
    return tf.function(
        lambda seed: draw(policy, seed, batch, height, width), jit_compile=True
    )


# One function for each class: what it adds to which columns


def _flip(flip: config.Flip, draws: Draws) -> None:
    for mode, name in (("horizontal", "flip_x"), ("vertical", "flip_y")):
        if flip.mode in (mode, "both"):
            mirrored = draws.chosen(flip.probability)
            draws.multiply(name, tf.where(mirrored, -1.0, 1.0))


def _rotation(rotation: config.Rotation, draws: Draws) -> None:
    angle = draws.uniform(rotation.degrees) * (math.pi / 180)
    draws.add("angle", draws.only(rotation.probability, angle, 0.0))


def _shear(shear: config.Shear, draws: Draws) -> None:
    chosen = draws.only(shear.probability, tf.ones(draws.batch), 0.0)
    for axis, name in (("horizontal", "shear_x"), ("vertical", "shear_y")):
        if shear.axis in (axis, "both"):
            angle = draws.uniform(shear.degrees) * (math.pi / 180)
            draws.add(name, tf.tan(angle) * chosen)


def _zoom(zoom: config.Zoom, draws: Draws) -> None:
    chosen = draws.only(zoom.probability, tf.ones(draws.batch), 0.0)
    factor = draws.uniform(zoom.range)
    other = factor if zoom.keep_aspect else draws.uniform(zoom.range)
    draws.multiply("zoom_x", 1 + (factor - 1) * chosen)
    draws.multiply("zoom_y", 1 + (other - 1) * chosen)


def _translation(translation: config.Translation, draws: Draws) -> None:
    chosen = draws.only(translation.probability, tf.ones(draws.batch), 0.0)
    vertical = translation.vertical
    ends = translation.fraction if vertical is None else vertical
    draws.add("shift_x", draws.uniform(translation.fraction) * draws.width * chosen)
    draws.add("shift_y", draws.uniform(ends) * draws.height * chosen)


def _random_crop(crop: config.RandomCrop, draws: Draws) -> None:
    chosen = draws.only(crop.probability, tf.ones(draws.batch), 0.0)
    for name in ("shift_x", "shift_y"):
        draws.add(name, draws.whole(-crop.padding, crop.padding) * chosen)


def _perspective(perspective: config.Perspective, draws: Draws) -> None:
    ends = (-perspective.scale, perspective.scale)
    corners = tf.stack([draws.uniform(ends) for _ in range(8)], 1)
    chosen = draws.only(perspective.probability, tf.ones(draws.batch), 0.0)
    draws.add("corners", tf.reshape(corners * chosen[:, None], (-1, 4, 2)))


def _factor(name: str) -> Callable[[Any, Draws], None]:
    def sample(transform: Any, draws: Draws) -> None:
        factor = draws.uniform(transform.factor)
        draws.multiply(name, draws.only(transform.probability, factor, 1.0))

    return sample


def _hue(hue: config_values.Hue, draws: Draws) -> None:
    turn = draws.uniform(hue.fraction)
    draws.add("hue", draws.only(hue.probability, turn, 0.0))


def _channel_shift(shift: config_values.ChannelShift, draws: Draws) -> None:
    values = tf.stack([draws.uniform(shift.fraction) for _ in range(3)], 1)
    chosen = draws.only(shift.probability, tf.ones(draws.batch), 0.0)
    draws.add("colour_shift", values * chosen[:, None])


def _grayscale(grayscale: config_values.Grayscale, draws: Draws) -> None:
    grey = draws.chosen(grayscale.probability)
    draws.multiply("saturation", tf.where(grey, 0.0, 1.0))


def _posterize(posterize: config_values.Posterize, draws: Draws) -> None:
    assert isinstance(posterize.bits, tuple)
    bits = draws.whole(*posterize.bits)
    draws.lower("bits", draws.only(posterize.probability, bits, 8.0))


def _solarize(solarize: config_values.Solarize, draws: Draws) -> None:
    assert isinstance(solarize.threshold, tuple)
    threshold = draws.uniform(solarize.threshold)
    draws.lower("threshold", draws.only(solarize.probability, threshold, 2.0))


def _marked(name: str) -> Callable[[Any, Draws], None]:
    def sample(transform: Any, draws: Draws) -> None:
        draws.mark(name, draws.chosen(transform.probability))

    return sample


def _blur(blur: config_values.Blur, draws: Draws) -> None:
    sigma = draws.uniform(blur.sigma)
    draws.add("sigma", draws.only(blur.probability, sigma, 0.0) ** 2)


def _noise(noise: config_values.Noise, draws: Draws) -> None:
    deviation = draws.uniform(noise.deviation)
    draws.add("deviation", draws.only(noise.probability, deviation, 0.0) ** 2)


def _erasing(erasing: config_values.Erasing, draws: Draws) -> None:
    area = draws.uniform(erasing.area)
    area = draws.only(erasing.probability, area, 0.0)
    low, high = erasing.aspect
    aspect = tf.exp(draws.uniform((math.log(low), math.log(high))))
    draws.stack("holes", _rectangle(draws, area, aspect))


def _rescale(rescale: config_values.Rescale, draws: Draws) -> None:
    """Nothing is random about it."""


def _mix_up(mix: config.MixUp, draws: Draws) -> None:
    share = beta_quantile(mix.alpha, draws.unit())
    draws.multiply("share", draws.only(mix.probability, share, 1.0))


def _cut_mix(mix: config.CutMix, draws: Draws) -> None:
    area = 1 - beta_quantile(mix.alpha, draws.unit())
    area = draws.only(mix.probability, area, 0.0)
    # Around a point anywhere in the image; what lies outside is cut off.
    height, width = draws.height * tf.sqrt(area), draws.width * tf.sqrt(area)
    y, x = draws.unit() * draws.height, draws.unit() * draws.width
    top, bottom = _clipped(y, height, draws.height)
    left, right = _clipped(x, width, draws.width)
    patch = tf.where(area[:, None] > 0, tf.stack([top, left, bottom, right], 1), 0.0)
    draws.columns["patch"] = patch


def _clipped(middle: Any, size: Any, full: Any) -> tuple[Any, Any]:
    ends = (tf.round(middle - size / 2), tf.round(middle + size / 2))
    low, high = (tf.clip_by_value(end, 0.0, full) for end in ends)
    return low, high


def _rectangle(draws: Draws, area: Any, aspect: Any) -> Any:
    """Rectangles inside the image: (batch, 4) of top, left, bottom and right."""
    pixels = area * draws.height * draws.width
    height = tf.minimum(tf.round(tf.sqrt(pixels / aspect)), draws.height)
    width = tf.minimum(tf.round(tf.sqrt(pixels * aspect)), draws.width)
    top = tf.floor(draws.unit() * (draws.height - height + 1))
    left = tf.floor(draws.unit() * (draws.width - width + 1))
    return tf.stack([top, left, top + height, left + width], 1)


def _mixing(columns: dict[str, Any], draws: Draws) -> dict[str, Any]:
    """Partners and shares: with an image some places further on in the batch."""
    batch = tf.cast(draws.batch, tf.int32)
    others = tf.maximum(batch - 1, 1)
    step = 1 + tf.cast(draws.unit()[0] * tf.cast(others, tf.float32), tf.int32)
    partner = (tf.range(batch) + tf.minimum(step, others)) % batch
    share = columns.get("share", tf.ones(draws.batch))
    if "patch" not in columns:
        return {"partner": partner, "share": share}
    patch = columns["patch"]
    area = (patch[:, 2] - patch[:, 0]) * (patch[:, 3] - patch[:, 1])
    full = draws.height * draws.width
    share = tf.where(area > 0, 1 - area / full, share)
    return {"partner": partner, "share": share, "patch": patch}


_SAMPLERS: dict[type, Callable[[Any, Draws], None]] = {
    config.Flip: _flip,
    config.Rotation: _rotation,
    config.Shear: _shear,
    config.Zoom: _zoom,
    config.Translation: _translation,
    config.RandomCrop: _random_crop,
    config.Perspective: _perspective,
    config.MixUp: _mix_up,
    config.CutMix: _cut_mix,
    config.RandAugment: rand_augment,
    config.TrivialAugment: trivial_augment,
    config_values.Brightness: _factor("brightness"),
    config_values.Contrast: _factor("contrast"),
    config_values.Saturation: _factor("saturation"),
    config_values.Sharpness: _factor("sharpness"),
    config_values.Hue: _hue,
    config_values.ChannelShift: _channel_shift,
    config_values.Grayscale: _grayscale,
    config_values.Posterize: _posterize,
    config_values.Solarize: _solarize,
    config_values.Equalize: _marked("equalize"),
    config_values.AutoContrast: _marked("autocontrast"),
    config_values.Blur: _blur,
    config_values.Noise: _noise,
    config_values.Erasing: _erasing,
    config_values.Rescale: _rescale,
    config_legacy.LegacyWarp: legacy_sampling.sample_warp,
    config_legacy.LevelShift: legacy_sampling.sample_level,
}
