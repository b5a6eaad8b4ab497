"""Transforms of single values: colours, tables, filters, noise, holes and scaling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kacc.augmentation import checks
from kacc.augmentation.checks import Range
from kacc.augmentation.config import Transform
from kacc.core.errors import UsageError

# Colour: all of it becomes one matrix


@dataclass(frozen=True)
class _Factor(Transform):
    """A change by a factor, where 1 leaves an image as it is.

    Args:
        factor: a range of factors, or a number for (1 - number, 1 + number).
        probability: the share of images that are changed.
    """

    factor: Range
    probability: float = 1.0
    needs_value_range: ClassVar[bool] = True

    def _check(self) -> None:
        self._keep(factor=checks.interval("`factor`", self.factor, 1.0, low=0))


@dataclass(frozen=True)
class Brightness(_Factor):
    """Multiplies what is above the lowest value.

    Args:
        factor: 0 is black; a range, or a number for (1 - number, 1 + number).
        probability: the share of images that are changed.
    """

    is_colour: ClassVar[bool] = True


@dataclass(frozen=True)
class Contrast(_Factor):
    """Multiplies the distance from the image's mean grey.

    Args:
        factor: 0 is grey; a range, or a number for (1 - number, 1 + number).
        probability: the share of images that are changed.
    """

    is_colour: ClassVar[bool] = True


@dataclass(frozen=True)
class Saturation(_Factor):
    """Multiplies the distance of each pixel from its own grey.

    Args:
        factor: 0 has no colours; a range, or a number for (1 - number, 1 + number).
        probability: the share of images that are changed.
    """

    is_colour: ClassVar[bool] = True


@dataclass(frozen=True)
class Hue(Transform):
    """Turns the circle of colours; greys and the luminance stay.

    It is a matrix (rotation of YIQ's chrominance), which approximates the hue of HSV.

    Args:
        fraction: the farthest way to both sides, 1 being the whole circle; or a range.
        probability: the share of images that are changed.
    """

    fraction: Range
    probability: float = 1.0
    needs_value_range: ClassVar[bool] = True
    is_colour: ClassVar[bool] = True

    def _check(self) -> None:
        limits = {"low": -1, "high": 1}
        self._keep(fraction=checks.interval("`fraction`", self.fraction, **limits))


@dataclass(frozen=True)
class ChannelShift(Transform):
    """Adds a number of its own to each channel.

    Args:
        fraction: the largest to both sides as a share of the range of values, or a
            range.
        probability: the share of images that are changed.
    """

    fraction: Range
    probability: float = 1.0
    needs_value_range: ClassVar[bool] = True
    is_colour: ClassVar[bool] = True

    def _check(self) -> None:
        limits = {"low": -1, "high": 1}
        self._keep(fraction=checks.interval("`fraction`", self.fraction, **limits))


@dataclass(frozen=True)
class Grayscale(Transform):
    """Takes the colours away; images keep their channels.

    Args:
        probability: the share of images that become grey.
    """

    probability: float = 0.1
    needs_value_range: ClassVar[bool] = True
    is_colour: ClassVar[bool] = True


# Tables: a value of 0 to 255 becomes another


@dataclass(frozen=True)
class Posterize(Transform):
    """Keeps the highest bits of values of 8.

    Args:
        bits: the fewest and the most bits that stay; a whole number for always so many.
        probability: the share of images that are changed.
    """

    bits: int | tuple[int, int]
    probability: float = 1.0
    needs_value_range: ClassVar[bool] = True

    def _check(self) -> None:
        bits = self.bits
        ends = bits if isinstance(bits, (tuple, list)) else (bits, bits)
        if len(ends) != 2 or ends[0] > ends[1]:
            raise UsageError(
                "`bits` must be a number or a range (fewest, most)", received=self.bits
            )
        self._keep(bits=tuple(checks.whole("`bits`", end, 1, 8) for end in ends))


@dataclass(frozen=True)
class Solarize(Transform):
    """Inverts the values from a threshold on.

    Args:
        threshold: as a share of the range of values: a range, or a number for always
            the same; 1 inverts none, 0 inverts all.
        probability: the share of images that are changed.
    """

    threshold: Range
    probability: float = 1.0
    needs_value_range: ClassVar[bool] = True

    def _check(self) -> None:
        value = self.threshold
        ends = value if isinstance(value, (tuple, list)) else (value, value)
        self._keep(threshold=checks.interval("`threshold`", tuple(ends), low=0, high=1))


@dataclass(frozen=True)
class Equalize(Transform):
    """Spreads the values of each channel so that all are about equally frequent.

    Args:
        probability: the share of images that are changed.
    """

    probability: float = 1.0
    needs_value_range: ClassVar[bool] = True


@dataclass(frozen=True)
class AutoContrast(Transform):
    """Stretches each channel to the whole range of values.

    Args:
        probability: the share of images that are changed.
    """

    probability: float = 1.0
    needs_value_range: ClassVar[bool] = True


# Filters, noise and holes


@dataclass(frozen=True)
class Sharpness(_Factor):
    """Multiplies the distance from the image blurred by a kernel of 3x3.

    Args:
        factor: 0 is the blurred image; a range, or a number for (1 - it, 1 + it).
        probability: the share of images that are changed.
    """


@dataclass(frozen=True)
class Blur(Transform):
    """Blurs by a Gaussian.

    Args:
        sigma: its deviation in pixels: a range, or a number for (0, number); at most 5.
        probability: the share of images that are blurred.
    """

    sigma: Range = 1.0
    probability: float = 1.0

    def _check(self) -> None:
        self._keep(sigma=checks.interval("`sigma`", self.sigma, low=0, high=5))


@dataclass(frozen=True)
class Noise(Transform):
    """Adds Gaussian noise to each value.

    Args:
        deviation: as a share of the range of values: a range, or a number for
            (0, number).
        probability: the share of images with noise.
    """

    deviation: Range = 0.05
    probability: float = 1.0
    needs_value_range: ClassVar[bool] = True

    def _check(self) -> None:
        limits = {"low": 0, "high": 1}
        self._keep(deviation=checks.interval("`deviation`", self.deviation, **limits))


@dataclass(frozen=True)
class Erasing(Transform):
    """Cuts a rectangle out (Zhong et al. 2017, arXiv:1708.04896; also called cutout).

    Args:
        area: share of the image: a range, or a number for (0, number).
        aspect: width of the rectangle by its height, a range.
        value: what it is filled with, or None for the policy's `fill_value`.
        probability: the share of images with a hole.
    """

    area: Range = (0.02, 0.33)
    aspect: tuple[float, float] = (0.3, 3.3)
    value: float | None = None
    probability: float = 0.5

    def _check(self) -> None:
        self._keep(
            area=checks.interval("`area`", self.area, low=0, high=1),
            aspect=checks.interval("`aspect`", self.aspect, 1.0, low=0.01, high=100),
        )
        if self.value is not None:
            self._keep(value=checks.number("`value`", self.value))


@dataclass(frozen=True)
class Rescale(Transform):
    """Multiplies and adds, after all else but mixing; the result is float32.

    It is for data alone: a model that was trained on rescaled images wants them at
    inference too, where nothing of a policy runs. In a model, use
    keras.layers.Rescaling.

    Args:
        scale: the factor, such as 1 / 255.
        offset: what is added after it.
    """

    scale: float
    offset: float = 0.0

    def _check(self) -> None:
        self._keep(
            scale=checks.number("`scale`", self.scale),
            offset=checks.number("`offset`", self.offset),
        )
