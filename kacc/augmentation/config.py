"""The transforms of a policy: frozen, checked, and made of plain JSON values.

What a transform does to one image is a handful of numbers, called its parameters;
`kacc.augmentation.sampling` draws them, and the engines apply them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from kacc.augmentation import checks
from kacc.augmentation.checks import Range
from kacc.core.errors import UsageError

_CLASSES: dict[str, type[Transform]] = {}


@dataclass(frozen=True)
class Transform:
    """One kind of change.

    A subclass is a frozen dataclass that checks its fields in `_check`, and is known by
    its name as soon as it is defined.
    """

    # What it changes: transforms of different kinds do not go into one policy.
    modality: ClassVar[str] = "image"
    # Whether it depends on the lowest and highest value that an image can have.
    needs_value_range: ClassVar[bool] = False
    # Whether it is, or may become, a matrix of red, green and blue.
    is_colour: ClassVar[bool] = False
    # Whether it moves what is in the image.
    moves: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self._check()
        if hasattr(self, "probability"):
            self._keep(probability=checks.share("`probability`", self.probability))

    def _check(self) -> None:
        """Raises a UsageError for a wrong field; keeps the right ones as checked."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        _CLASSES[cls.__name__] = cls

    def get_config(self) -> dict[str, Any]:
        """The name of the class and the arguments, as JSON values."""
        fields = {
            field.name: _json(getattr(self, field.name))
            for field in dataclasses.fields(self)
        }
        return {"transform": type(self).__name__, **fields}

    def _keep(self, **values: Any) -> None:
        """Sets fields to what the checks made of them."""
        for name, value in values.items():
            object.__setattr__(self, name, value)


def transform_from_config(config: dict[str, Any]) -> Transform:
    """The transform that `Transform.get_config` describes.

    Raises:
        UsageError: if there is no transform of that name, or it has no such argument.

    Example:
        >>> transform_from_config({"transform": "Rotation", "degrees": [-5, 5]})
        Rotation(degrees=(-5.0, 5.0), probability=1.0)
    """
    arguments = dict(config)
    name = arguments.pop("transform", None)
    if name not in _CLASSES:
        raise UsageError(
            "A transform's config must name its class",
            received=config,
            fix=f"The names are: {', '.join(sorted(_CLASSES))}",
        )
    try:
        return _CLASSES[name](**arguments)
    except TypeError as error:
        raise UsageError(
            f"The config of {name} must hold its arguments ({error})", received=config
        ) from None


def _json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


# Geometry: all of it becomes one projective warp


@dataclass(frozen=True)
class Flip(Transform):
    """Mirrors an image.

    Args:
        mode: "horizontal" (left and right change places), "vertical" or "both", each
            direction by itself.
        probability: the share of images that are mirrored, in each direction.
    """

    mode: str = "horizontal"
    probability: float = 0.5
    moves: ClassVar[bool] = True

    def _check(self) -> None:
        checks.choice("`mode`", self.mode, ("horizontal", "vertical", "both"))


@dataclass(frozen=True)
class Rotation(Transform):
    """Turns an image around its middle, counterclockwise for positive angles.

    Args:
        degrees: the largest angle to both sides, or a range of angles.
        probability: the share of images that are turned.
    """

    degrees: Range
    probability: float = 1.0
    moves: ClassVar[bool] = True

    def _check(self) -> None:
        self._keep(degrees=checks.interval("`degrees`", self.degrees))


@dataclass(frozen=True)
class Shear(Transform):
    """Slants an image around its middle: rows move by their height times tan(angle).

    Args:
        degrees: the largest angle to both sides, or a range, below 90.
        axis: "horizontal" moves rows, "vertical" columns, "both" has an angle for each.
        probability: the share of images that are slanted.
    """

    degrees: Range
    axis: str = "horizontal"
    probability: float = 1.0
    moves: ClassVar[bool] = True

    def _check(self) -> None:
        self._keep(degrees=checks.interval("`degrees`", self.degrees, low=-89, high=89))
        checks.choice("`axis`", self.axis, ("horizontal", "vertical", "both"))


@dataclass(frozen=True)
class Zoom(Transform):
    """Enlarges or shrinks what is in an image, around its middle.

    Args:
        range: factors of the size of what is seen: above 1 it becomes larger. A number
            below 1 stands for (1 - number, 1 + number).
        keep_aspect: whether width and height have the same factor.
        probability: the share of images that are zoomed.
    """

    range: Range
    keep_aspect: bool = True
    probability: float = 1.0
    moves: ClassVar[bool] = True

    def _check(self) -> None:
        limits = {"around": 1.0, "low": 0.01, "high": 100}
        ends = checks.interval("`range`", self.range, **limits)
        if not isinstance(self.range, (tuple, list)) and self.range >= 1:
            # Meant as a factor, probably, which it would not be.
            raise UsageError(
                "A number as `range` must be below 1: it stands for (1 - it, 1 + it)",
                received=self.range,
                fix="Pass (0.8, 1.2) for factors of 0.8 to 1.2",
            )
        self._keep(range=ends)


@dataclass(frozen=True)
class Translation(Transform):
    """Moves what is in an image, to the right and down for positive values.

    Args:
        fraction: the farthest way to both sides as a share of the width, or a range.
        vertical: the same up and down as a share of the height; None: as `fraction`.
        probability: the share of images that are moved.
    """

    fraction: Range
    vertical: Range | None = None
    probability: float = 1.0
    moves: ClassVar[bool] = True

    def _check(self) -> None:
        limits = {"low": -1, "high": 1}
        self._keep(fraction=checks.interval("`fraction`", self.fraction, **limits))
        if self.vertical is not None:
            self._keep(vertical=checks.interval("`vertical`", self.vertical, **limits))


@dataclass(frozen=True)
class Perspective(Transform):
    """Looks at an image from the side: each of its corners moves by itself.

    Args:
        scale: the farthest way of a corner as a share of width and height, at most 0.2.
        probability: the share of images that are changed.
    """

    scale: float = 0.1
    probability: float = 1.0
    moves: ClassVar[bool] = True

    def _check(self) -> None:
        self._keep(scale=checks.number("`scale`", self.scale, 0, 0.2))


@dataclass(frozen=True)
class RandomCrop(Transform):
    """Pads an image on all sides and cuts its own size out of that, anywhere.

    It moves images by whole pixels, so it needs no interpolation; what it pads with is
    the policy's `fill_mode`.

    Args:
        padding: pixels on each side.
        probability: the share of images that are moved.
    """

    padding: int = 4
    probability: float = 1.0
    moves: ClassVar[bool] = True

    def _check(self) -> None:
        self._keep(padding=checks.whole("`padding`", self.padding, 1))


# Mixing: two images of a batch and their labels


@dataclass(frozen=True)
class MixUp(Transform):
    """Blends two images and their labels (Zhang et al. 2017, arXiv:1710.09412).

    Args:
        alpha: the shares are of the distribution Beta(alpha, alpha); above 0.
        probability: the share of images that get a partner.
    """

    alpha: float = 0.2
    probability: float = 1.0

    def _check(self) -> None:
        self._keep(alpha=checks.number("`alpha`", self.alpha, 0.01, 100))


@dataclass(frozen=True)
class CutMix(Transform):
    """Puts a rectangle of another image in (Yun et al. 2019, arXiv:1905.04899).

    Labels are mixed by the areas. An image that is drawn for CutMix gets no MixUp.

    Args:
        alpha: the share of the area is of the distribution Beta(alpha, alpha); above 0.
        probability: the share of images that get a partner.
    """

    alpha: float = 1.0
    probability: float = 1.0

    def _check(self) -> None:
        self._keep(alpha=checks.number("`alpha`", self.alpha, 0.01, 100))


# Choices among the others


@dataclass(frozen=True)
class RandAugment(Transform):
    """A few changes for each image, of 14 kinds (Cubuk et al. 2019, arXiv:1909.13719).

    Identity, automatic contrast, equalizing, rotation, solarizing, colour, posterizing,
    contrast, brightness, sharpness, and shear and translation in both directions.

    Args:
        n: how many for each image.
        magnitude: how strong they are, from 0 to 30.
        probability: the share of images that are changed.
    """

    n: int = 2
    magnitude: float = 9
    probability: float = 1.0
    needs_value_range: ClassVar[bool] = True
    moves: ClassVar[bool] = True
    is_colour: ClassVar[bool] = True

    def _check(self) -> None:
        self._keep(
            n=checks.whole("`n`", self.n, 1, 14),
            magnitude=checks.number("`magnitude`", self.magnitude, 0, 30),
        )


@dataclass(frozen=True)
class TrivialAugment(Transform):
    """One change for each image (Mueller and Hutter 2021, arXiv:2103.10158).

    Kind and strength are drawn; nothing is to be chosen. The kinds are those of
    `RandAugment`, in the wide ranges of the paper.

    Args:
        probability: the share of images that are changed.
    """

    probability: float = 1.0
    needs_value_range: ClassVar[bool] = True
    moves: ClassVar[bool] = True
    is_colour: ClassVar[bool] = True
