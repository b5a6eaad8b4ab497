"""`from_image_data_generator`: the arguments of Keras 2's generator as a policy."""

from __future__ import annotations

from typing import Any

from kacc.augmentation import checks
from kacc.augmentation.config import Flip, Transform
from kacc.augmentation.config_legacy import LegacyWarp, LevelShift
from kacc.augmentation.config_values import Brightness, Rescale
from kacc.augmentation.policy import Policy
from kacc.core.errors import UsageError

_NORMALIZATION = (
    "Put keras.layers.Normalization() first in the model and let it adapt(images): it "
    "is then there at inference too"
)
_STANDARDIZATION = (
    "Use dataset.map(lambda x, y: (tf.image.per_image_standardization(x), y)), for "
    "validation too"
)
# What a policy cannot do, and what does it.
ELSEWHERE = {
    "featurewise_center": _NORMALIZATION,
    "featurewise_std_normalization": _NORMALIZATION,
    "samplewise_center": _STANDARDIZATION,
    "samplewise_std_normalization": _STANDARDIZATION,
    "zca_whitening": (
        "Compute the matrix from the training images and put it into a "
        "keras.layers.Dense without bias, first in the model"
    ),
    "preprocessing_function": (
        "Use dataset.map(lambda x, y: (function(x), y)), for validation too"
    ),
    "validation_split": "Pass it to kacc.augmentation.flow_from_directory",
}
DEFAULTS: dict[str, Any] = {
    "rotation_range": 0,
    "width_shift_range": 0.0,
    "height_shift_range": 0.0,
    "brightness_range": None,
    "shear_range": 0.0,
    "zoom_range": 0.0,
    "channel_shift_range": 0.0,
    "fill_mode": "nearest",
    "cval": 0.0,
    "horizontal_flip": False,
    "vertical_flip": False,
    "rescale": None,
    "interpolation_order": 1,
    "zca_epsilon": 1e-6,  # of zca_whitening alone
    "data_format": None,
    "dtype": None,
}


def from_image_data_generator(*, seed: int = 0, **arguments: Any) -> Policy:
    """Makes a policy of the arguments of Keras 2's `ImageDataGenerator`.

    They have their names, units and ranges: `rotation_range` and `shear_range` in
    degrees, shifts as shares, pixels or lists, `zoom_range` as a number or a range of
    factors, `brightness_range` as factors, `channel_shift_range` in the units of pixels
    from 0 to 255. What differs: shifted channels are clipped to the range of pixels,
    not to the extremes of the image, and brightness is changed before them. And two
    faults of Keras 2 are not copied, where `height_shift_range` moves images sideways
    (and `width_shift_range` up and down), and images that are not square turn around a
    point beside their middle.

    Args:
        seed: of the policy.
        **arguments: those of `ImageDataGenerator`.

    Returns:
        A policy for images of pixels from 0 to 255. A dictionary of the arguments is
        taken wherever a policy is.

    Raises:
        UsageError: for an argument that a policy cannot do (`featurewise_center`,
            `samplewise_center` and the like, `zca_whitening`,
            `preprocessing_function`), with what to use instead; for an unknown
            one; for a wrong value.

    Example:
        >>> policy = from_image_data_generator(
        ...     rotation_range=20, horizontal_flip=True, rescale=1 / 255
        ... )
        >>> [type(transform).__name__ for transform in policy.transforms]
        ['LegacyWarp', 'Flip', 'Rescale']
    """
    _check_names(arguments)
    given = DEFAULTS | arguments
    transforms = [*_geometry(given), *_colour(given)]
    if not transforms:
        raise UsageError(
            "The arguments must change images",
            received=arguments,
            fix="Pass rotation_range=20, horizontal_flip=True or the like",
        )
    return Policy(
        tuple(transforms),
        seed=seed,
        fill_mode=given["fill_mode"],
        fill_value=given["cval"],
        interpolation=_interpolation(given["interpolation_order"]),
        value_range=(0, 255),
    )


def _geometry(given: dict[str, Any]) -> list[Transform]:
    warp = LegacyWarp(
        rotation=given["rotation_range"],
        width_shift=given["width_shift_range"],
        height_shift=given["height_shift_range"],
        shear=given["shear_range"],
        zoom=_zoom(given["zoom_range"]),
    )
    horizontal, vertical = (
        _boolean(name, given[name]) for name in ("horizontal_flip", "vertical_flip")
    )
    mode = (
        "both" if horizontal and vertical else "vertical" if vertical else "horizontal"
    )
    flips = [Flip(mode)] if horizontal or vertical else []
    return [*([] if warp == LegacyWarp() else [warp]), *flips]


def _colour(given: dict[str, Any]) -> list[Transform]:
    result: list[Transform] = []
    if given["brightness_range"] is not None:
        ends = given["brightness_range"]
        if not isinstance(ends, (tuple, list)):
            raise UsageError(
                "`brightness_range` must be a range of factors",
                received=ends,
                fix="Pass (0.8, 1.2)",
            )
        limits = {"low": 0}
        ends = checks.interval("`brightness_range`", tuple(ends), **limits)
        result.append(Brightness(ends))
    shift = checks.number("`channel_shift_range`", given["channel_shift_range"], 0, 255)
    if shift:
        result.append(LevelShift(shift / 255))
    if given["rescale"] not in (None, 0, 1):
        result.append(Rescale(checks.number("`rescale`", given["rescale"])))
    return result


def _zoom(value: Any) -> tuple[float, float]:
    if isinstance(value, (tuple, list)):
        return checks.interval("`zoom_range`", tuple(value), low=0.01)
    return checks.interval("`zoom_range`", checks.number("`zoom_range`", value), 1.0)


def _interpolation(order: Any) -> str:
    if isinstance(order, bool) or order not in (0, 1):
        raise UsageError(
            "`interpolation_order` must be 0 (nearest) or 1 (bilinear)", received=order
        )
    return "bilinear" if order else "nearest"


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, int)) or value not in (0, 1):
        raise UsageError(f"`{name}` must be True or False", received=value)
    return bool(value)


def _check_names(arguments: dict[str, Any]) -> None:
    for name, value in arguments.items():
        if name in ELSEWHERE and value not in (None, False, 0):
            raise UsageError(
                f"A policy has no `{name}`", received=value, fix=ELSEWHERE[name]
            )
        if name not in DEFAULTS and name not in ELSEWHERE:
            raise UsageError(
                "The arguments must be those of ImageDataGenerator",
                received=name,
                fix=f"They are {', '.join(DEFAULTS)}",
            )
    if arguments.get("data_format") not in (None, "channels_last"):
        raise UsageError(
            "`data_format` must be 'channels_last'",
            received=arguments["data_format"],
            fix="Use dataset.map to transpose the images afterwards",
        )
    if arguments.get("dtype") not in (None, "float32"):
        raise UsageError(
            "`dtype` must be 'float32'",
            received=arguments["dtype"],
            fix="Use dataset.map to cast the images afterwards",
        )
