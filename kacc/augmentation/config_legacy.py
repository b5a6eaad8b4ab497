"""Transforms with the meaning of Keras 2's `ImageDataGenerator`."""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import Any, ClassVar

from kacc.augmentation import checks
from kacc.augmentation.config import Transform
from kacc.core.arguments import is_number
from kacc.core.errors import UsageError

Shift = float | tuple[float, ...]


@dataclass(frozen=True)
class LegacyWarp(Transform):
    """The geometry of `ImageDataGenerator`, but for flips: its matrix and its ranges.

    Other than with `Rotation`, `Shear`, `Zoom` and `Translation`, an image is shifted
    before it is turned, a shear moves rows by their height times sin(angle) and
    heights change by cos(angle), width and height are zoomed each by itself, and
    factors below 1 enlarge.

    Args:
        rotation: the largest angle to both sides, in degrees.
        width_shift: the farthest way to the side: a float below 1 is a share of the
            width, any other float pixels; a whole number n draws whole pixels below n;
            of a list one is drawn, to either side.
        height_shift: likewise up and down.
        shear: the largest angle to both sides, in degrees.
        zoom: the range of factors.
    """

    rotation: float = 0.0
    width_shift: Shift = 0.0
    height_shift: Shift = 0.0
    shear: float = 0.0
    zoom: tuple[float, float] = (1.0, 1.0)
    moves: ClassVar[bool] = True

    def _check(self) -> None:
        self._keep(
            rotation=checks.number("`rotation_range`", self.rotation, 0),
            shear=checks.number("`shear_range`", self.shear, 0),
            width_shift=_shift("`width_shift_range`", self.width_shift),
            height_shift=_shift("`height_shift_range`", self.height_shift),
            zoom=checks.interval("`zoom_range`", tuple(self.zoom), low=0.01, high=100),
        )


@dataclass(frozen=True)
class LevelShift(Transform):
    """Adds one number to all channels of an image, as `channel_shift_range` does.

    Args:
        fraction: the largest to both sides as a share of the range of values.
    """

    fraction: float
    needs_value_range: ClassVar[bool] = True
    is_colour: ClassVar[bool] = True

    def _check(self) -> None:
        self._keep(fraction=checks.number("`fraction`", self.fraction, 0, 1))


def _shift(name: str, value: Any) -> Shift:
    """A number of zero or more, or a tuple of numbers."""
    if isinstance(value, (tuple, list)) and value:
        return tuple(checks.number(name, entry) for entry in value)
    if not is_number(value) or value < 0:
        raise UsageError(
            f"{name} must be a number of zero or more, or a list of numbers",
            received=value,
        )
    checks.number(name, value)
    return int(value) if isinstance(value, numbers.Integral) else float(value)
