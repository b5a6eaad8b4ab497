"""Checks of the arguments of `flow_from_directory`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kacc.augmentation import checks
from kacc.augmentation.image_data_generator import DEFAULTS, ELSEWHERE
from kacc.core.errors import UsageError

# Arguments of ImageDataGenerator.flow_from_directory by their names here.
_RENAMED = {
    "target_size": "image_size",
    "class_mode": "label_mode",
    "classes": "class_names",
    "keep_aspect_ratio": "crop_to_aspect_ratio",
}
_INSTEAD = {
    "save_to_dir": "look at kacc.augmentation.Policy.preview in place of `save_to_dir`",
    "labels": "pass label_mode=None for images alone in place of `labels`",
}


def no_others(arguments: dict[str, Any]) -> None:
    """Refuses arguments of other names; those of Keras's loaders with what to pass.

    Args:
        arguments: what is not an argument of `flow_from_directory`.

    Raises:
        UsageError: if there is one.
    """
    if not arguments:
        return
    passed, augmentation, ways = [], {}, []
    for name, value in arguments.items():
        if name in _RENAMED:
            value = "int" if (name, value) == ("class_mode", "sparse") else value
            passed.append(f"{_RENAMED[name]}={value!r}")
        elif name in DEFAULTS:
            augmentation[name] = value
        elif name in ELSEWHERE:
            way = ELSEWHERE[name]
            ways.append(f"{way[0].lower()}{way[1:]} (`{name}`)")
        elif name in _INSTEAD:
            ways.append(_INSTEAD[name])
        else:
            ways.append(f"leave `{name}` out")
    if augmentation:
        passed.append(f"augmentation={augmentation!r}")
    if passed:
        ways.insert(0, f"pass {', '.join(passed)}")
    said = "; ".join(ways)
    raise UsageError(
        "The arguments must be those of flow_from_directory, which are named as in "
        "keras.utils.image_dataset_from_directory",
        received=", ".join(arguments),
        fix=said[0].upper() + said[1:],
    )


def one_of(name: str, value: Any, choices: tuple[Any, ...]) -> Any:
    """The value itself, one of those allowed; None may be among them."""
    if not isinstance(value, str | None) or value not in choices:
        raise UsageError(
            f"`{name}` must be one of {', '.join(map(repr, choices))}", received=value
        )
    return value


def size(value: Any) -> tuple[int, int]:
    """Height and width in pixels."""
    pair = (value, value) if isinstance(value, int) else value
    try:
        height, width = (checks.whole("`image_size`", side, 1) for side in pair)
    except (TypeError, ValueError):
        raise UsageError(
            "`image_size` must be (height, width) in pixels, or one number for both",
            received=value,
            fix="Pass (128, 128)",
        ) from None
    return height, width


def whole(name: str, value: Any, low: int) -> int | None:
    """The integer itself, or None."""
    return None if value is None else checks.whole(f"`{name}`", value, low)


def cache_folder(value: Any) -> str | None:
    """None: no cache; "": in memory; else the folder."""
    if value is None or value is False:
        return None
    if value is True:
        return ""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise UsageError(
            "`cache` must be True, or the path of a folder",
            received=value,
            fix="Pass True to keep decoded images in memory",
        )
    if Path(value).exists() and not Path(value).is_dir():
        raise UsageError("`cache` must be a folder", received=str(value))
    return os.fspath(value)


def combinations(form: Any, class_names: Any, split: Any, subset: str | None) -> None:
    """Checks arguments that depend on one another."""
    one_of("subset", subset, ("training", "validation", "both", None))
    if form.crop and form.pad:
        raise UsageError(
            "`crop_to_aspect_ratio` and `pad_to_aspect_ratio` exclude each other",
            received="both",
            fix="Choose one",
        )
    if class_names is not None and form.label_mode is None:
        raise UsageError(
            "`class_names` are for images with labels",
            received="class_names with label_mode=None",
            fix="Leave one of them out",
        )
    if form.policy is not None:
        _of_images(form.policy, form.label_mode)
    if form.dtype == "uint8" and form.rescales:
        raise UsageError(
            "Rescaled images are floats",
            received="dtype='uint8' with Rescale in the policy",
            fix="Leave one of them out",
        )
    if (split is None) != (subset is None):
        raise UsageError(
            "`validation_split` and `subset` go together",
            received=f"validation_split={split}, subset={subset!r}",
            fix='Pass validation_split=0.2 and subset="both", or neither',
        )
    if split is not None and not 0 < checks.number("`validation_split`", split) < 1:
        raise UsageError(
            "`validation_split` must lie between 0 and 1",
            received=split,
            fix="Pass 0.2",
        )


def binary(label_mode: str | None, class_names: Sequence[str]) -> None:
    """Checks that classes are two where they must be."""
    if label_mode == "binary" and len(class_names) != 2:
        raise UsageError(
            'label_mode="binary" is for two classes',
            received=f"{len(class_names)}: {', '.join(class_names)}",
            fix='Pass label_mode="int" or "categorical", or two `class_names`',
        )


def _of_images(policy: Any, label_mode: str | None) -> None:
    if policy.modality != "image":
        raise UsageError(
            "`augmentation` must be a policy of images",
            received=f"one of the kind {policy.modality!r}",
        )
    if policy.mixes and label_mode in ("int", None):
        raise UsageError(
            "MixUp and CutMix need labels that can be mixed",
            received=f"label_mode={label_mode!r}",
            fix='Pass label_mode="categorical"',
        )
