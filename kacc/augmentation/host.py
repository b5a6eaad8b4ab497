"""Changes of images by OpenCV, on the host, from the parameters that were drawn.

It has what takes time: warp, colour, tables and filters. The rest is the same for both
engines. OpenCV lets go of Python's lock in each call, so that batches run side by side.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from kacc.augmentation.colour import LUMINANCE
from kacc.core.errors import UsageError

# What the host does of the parameters; finishing is left to TensorFlow.
KEYS = (
    "matrix",
    "colour",
    "colour_mean",
    "autocontrast",
    "equalize",
    "threshold",
    "bits",
    "sharpness",
    "sigma",
)

_LEVELS = 256
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
_MIDDLE = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], np.float32)

Parameters = dict[str, np.ndarray]


def available() -> bool:
    """Whether OpenCV is installed."""
    return importlib.util.find_spec("cv2") is not None


def require() -> None:
    """Does nothing where OpenCV is installed.

    Raises:
        UsageError: if it is not.
    """
    if not available():
        raise UsageError(
            'engine="host" needs OpenCV',
            received="no module cv2",
            fix='Run pip install "kacc[augmentation]", or pass engine="graph"',
        )


def change(images: np.ndarray, parameters: Parameters, policy: Any) -> np.ndarray:
    """Warps, colours and filters a batch.

    Args:
        images: (batch, height, width, channels), uint8 or float.
        parameters: those of `KEYS` that there are, as `draw` gives them.
        policy: says how to fill and to interpolate, and the range of values.

    Returns:
        Images of the same shape and type.
    """
    work = images if images.dtype == np.uint8 else images.astype(np.float32)
    work = np.ascontiguousarray(work)
    low, high = policy.range_of(images.dtype)
    stages = [
        stage
        for keys, make in _STAGES
        if any(key in parameters for key in keys)
        for stage in [make(parameters, policy, low, high)]
    ]
    result = np.empty_like(work)
    for number, image in enumerate(work):
        for stage in stages[:-1]:
            image = stage(number, image, None)
        # The last one may write into its place: copies cost a tenth of a warp.
        changed = stages[-1](number, image, result[number])
        if not np.may_share_memory(changed, result):
            result[number] = changed
    return result.astype(images.dtype, copy=False)


# (number of the image, the image, where the result may be written or None) -> result
Stage = Callable[[int, np.ndarray, np.ndarray | None], np.ndarray]


def _warp(parameters: Parameters, policy: Any, low: float, high: float) -> Stage:
    import cv2

    matrices = parameters["matrix"].astype(np.float64)
    nearest = policy.warp_interpolation == "nearest"
    options: dict[str, Any] = {
        "flags": (cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR)
        | cv2.WARP_INVERSE_MAP,
        "borderMode": {
            "reflect": cv2.BORDER_REFLECT,
            "constant": cv2.BORDER_CONSTANT,
            "nearest": cv2.BORDER_REPLICATE,
            "wrap": cv2.BORDER_WRAP,
        }[policy.fill_mode],
        "borderValue": (float(policy.fill_value),) * 4,
    }

    def warped(number: int, image: np.ndarray, out: Any = None) -> np.ndarray:
        size = image.shape[1::-1]
        if policy.is_projective:
            return cv2.warpPerspective(image, matrices[number], size, out, **options)
        return cv2.warpAffine(image, matrices[number, :2], size, out, **options)

    def warp(number: int, image: np.ndarray, out: Any) -> np.ndarray:
        if image.shape[2] == 3:
            return warped(number, image, out)
        return _in_parts(functools.partial(warped, number), image)

    return warp


def _in_parts(run: Callable[[np.ndarray], np.ndarray], image: np.ndarray) -> np.ndarray:
    """Runs a warp on any number of channels.

    OpenCV takes four at most, and two by a kernel that rounds positions to 1/32 pixel.
    """
    channels = image.shape[2]
    if channels in (1, 3, 4):
        return run(image).reshape(image.shape)
    ends = [*range(0, channels - 2, 3), *range(channels - channels % 3, channels + 1)]
    ends = sorted(set(ends))
    parts = [image[:, :, a:b] for a, b in itertools.pairwise(ends)]
    done = [run(np.ascontiguousarray(part)).reshape(part.shape) for part in parts]
    return np.concatenate(done, 2)


def _recolour(parameters: Parameters, policy: Any, low: float, high: float) -> Stage:
    import cv2

    colour = parameters["colour"].astype(np.float64)
    added = low + (high - low) * colour[:, :, 3] - low * colour[:, :, :3].sum(2)
    mean = parameters.get("colour_mean")

    def recolour(number: int, image: np.ndarray, out: Any) -> np.ndarray:
        offset = added[number]
        if mean is not None:
            grey = float(np.dot(_channel_means(image), LUMINANCE))
            offset = offset + mean[number] * (grey - low)
        if image.shape[2] == 3:
            matrix = np.concatenate([colour[number, :, :3], offset[:, None]], 1)
            changed = cv2.transform(image, matrix)
        else:
            factor = float(LUMINANCE @ colour[number, :, :3].sum(1))
            matrix = np.array([[factor, float(LUMINANCE @ offset)]])
            changed = cv2.transform(image, matrix).reshape(image.shape)
        return _clipped(changed, low, high)

    return recolour


def _channel_means(image: np.ndarray) -> np.ndarray:
    import cv2

    means = cv2.mean(image)
    return np.array(means[:3] if image.shape[2] == 3 else means[:1] * 3)


def _clipped(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """Floats in the range; OpenCV has done so with uint8."""
    return image if image.dtype == np.uint8 else np.clip(image, low, high)


def _look_up(parameters: Parameters, policy: Any, low: float, high: float) -> Stage:
    import cv2

    def look_up(number: int, image: np.ndarray, out: Any) -> np.ndarray:
        wanted = _wanted(parameters, number)
        if not wanted:
            return image
        levels = image
        if image.dtype != np.uint8:
            scaled = (image - low) * np.float32((_LEVELS - 1) / (high - low))
            levels = np.clip(np.floor(scaled + 0.5), 0, 255).astype(np.uint8)
        table = np.stack(
            [_table(levels[:, :, c], wanted) for c in range(image.shape[2])], 1
        )
        changed = cv2.LUT(levels, table[None] if image.shape[2] > 1 else table[:, 0])
        changed = changed.reshape(image.shape)
        if image.dtype == np.uint8:
            return changed
        return changed.astype(np.float32) * np.float32((high - low) / 255) + low

    return look_up


def _wanted(parameters: Parameters, number: int) -> dict[str, float]:
    """What is to be done with one image's levels: name -> parameter."""
    neutral = {"autocontrast": False, "equalize": False, "threshold": 2.0, "bits": 8.0}
    found = {key: parameters[key][number] for key in neutral if key in parameters}
    return {key: value for key, value in found.items() if value != neutral[key]}


def _table(levels: np.ndarray, wanted: dict[str, float]) -> np.ndarray:
    """What each of 256 levels of one channel becomes, as in `functional.tables`."""
    table = np.arange(_LEVELS)
    if "equalize" in wanted:
        table = _equalized(np.bincount(levels.ravel(), minlength=_LEVELS))
    elif "autocontrast" in wanted:
        low, high = int(levels.min()), int(levels.max())
        if high > low:
            stretched = ((table - low) * 510 + high - low) // (2 * (high - low))
            table = np.clip(stretched, 0, 255)
    if "threshold" in wanted:
        beyond = table >= wanted["threshold"] * np.float32(_LEVELS - 1)
        table = np.where(beyond, _LEVELS - 1 - table, table)
    if "bits" in wanted:
        step = 1 << (8 - int(wanted["bits"]))
        table = table // step * step
    return table.astype(np.uint8)


def _equalized(histogram: np.ndarray) -> np.ndarray:
    upto = np.cumsum(histogram)
    step = (upto[-1] - histogram[np.flatnonzero(histogram)[-1]]) // 255
    if step == 0:
        return np.arange(_LEVELS)
    return np.minimum((step // 2 + upto - histogram) // step, 255)


def _sharpen(parameters: Parameters, policy: Any, low: float, high: float) -> Stage:
    import cv2

    factors = parameters["sharpness"]

    def sharpen(number: int, image: np.ndarray, out: Any) -> np.ndarray:
        factor = factors[number]
        if factor == 1:
            return image
        kernel = factor * _MIDDLE + (1 - factor) * _SMOOTH
        changed = cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT)
        return _clipped(changed.reshape(image.shape), low, high)

    return sharpen


def _blur(parameters: Parameters, policy: Any, low: float, high: float) -> Stage:
    import cv2

    distance = np.arange(-policy.blur_radius, policy.blur_radius + 1)

    def blur(number: int, image: np.ndarray, out: Any) -> np.ndarray:
        sigma = parameters["sigma"][number]
        if sigma < 0.1:  # the next pixels would count for less than 1e-20
            return image
        weights = np.exp(-0.5 * (distance / sigma) ** 2)
        weights /= weights.sum()
        changed = cv2.sepFilter2D(
            image, -1, weights, weights, borderType=cv2.BORDER_REFLECT
        )
        return changed.reshape(image.shape)

    return blur


_STAGES: list[tuple[tuple[str, ...], Callable[..., Stage]]] = [
    (("matrix",), _warp),
    (("colour",), _recolour),
    (("autocontrast", "equalize", "threshold", "bits"), _look_up),
    (("sharpness",), _sharpen),
    (("sigma",), _blur),
]
