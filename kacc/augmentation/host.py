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

    Each stage takes only the images that it changes: of what RandAugment can do, most
    is neutral for most images.

    Args:
        images: (batch, height, width, channels), uint8 or float.
        parameters: those of `KEYS` that there are, as `draw` gives them.
        policy: says how to fill and to interpolate, and the range of values.

    Returns:
        Images of the same shape and type.
    """
    dtype = np.uint8 if images.dtype == np.uint8 else np.float32
    low, high = policy.range_of(images.dtype)
    if "matrix" in parameters:
        given = np.ascontiguousarray(images, dtype)
        work = _warped(given, parameters["matrix"], policy)
    else:
        work = np.array(images, dtype, order="C")
    for keys, stage in _STAGES:
        if any(key in parameters for key in keys):
            stage(work, parameters, policy, low, high)
    return work.astype(images.dtype, copy=False)


def _warped(images: np.ndarray, matrices: np.ndarray, policy: Any) -> np.ndarray:
    import cv2

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
    size = images.shape[2:0:-1]
    mirror = np.array([[-1, 0, size[0] - 1], [0, 1, 0], [0, 0, 1]])
    is_still = (matrices == np.eye(3)).all((1, 2)).tolist()
    is_mirrored = (matrices == mirror).all((1, 2)).tolist()
    matrices = matrices.astype(np.float64)
    result = np.empty_like(images)

    def warp(image: np.ndarray, matrix: np.ndarray, out: Any = None) -> np.ndarray:
        if policy.is_projective:
            return cv2.warpPerspective(image, matrix, size, out, **options)
        return cv2.warpAffine(image, matrix[:2], size, out, **options)

    for number, (image, matrix, out) in enumerate(
        zip(images, matrices, result, strict=True)
    ):
        if is_still[number]:
            out[:] = image
        elif is_mirrored[number]:
            cv2.flip(image, 1, out)
        elif image.shape[2] == 3:
            warp(image, matrix, out)  # into its place: a copy costs a tenth of it
        else:
            out[:] = _in_parts(functools.partial(warp, matrix=matrix), image)
    return result


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


# The stages behind the warp change a batch in place


def _recolour(
    work: np.ndarray, parameters: Parameters, policy: Any, low: float, high: float
) -> None:
    import cv2

    colour = parameters["colour"].astype(np.float64)
    added = low + (high - low) * colour[:, :, 3] - low * colour[:, :, :3].sum(2)
    mean = parameters.get("colour_mean", np.zeros(len(work)))
    changes = (colour != np.eye(3, 4)).any((1, 2)) | (mean != 0)
    for number in np.flatnonzero(changes):
        image, offset = work[number], added[number]
        if mean[number] != 0:
            grey = float(np.dot(_channel_means(image), LUMINANCE))
            offset = offset + mean[number] * (grey - low)
        if image.shape[2] == 3:
            matrix = np.concatenate([colour[number, :, :3], offset[:, None]], 1)
        else:
            factor = float(LUMINANCE @ colour[number, :, :3].sum(1))
            matrix = np.array([[factor, float(LUMINANCE @ offset)]])
        image[:] = cv2.transform(image, matrix).reshape(image.shape)
    _clip(work, low, high)


def _channel_means(image: np.ndarray) -> np.ndarray:
    import cv2

    means = cv2.mean(image)
    return np.array(means[:3] if image.shape[2] == 3 else means[:1] * 3)


def _clip(images: np.ndarray, low: float, high: float) -> None:
    """Floats into the range; OpenCV has done so with uint8."""
    if images.dtype != np.uint8:
        np.clip(images, low, high, out=images)


def _look_up(
    work: np.ndarray, parameters: Parameters, policy: Any, low: float, high: float
) -> None:
    import cv2

    names = [name for name in _UNCHANGED if name in parameters]
    changes = [parameters[name] != _UNCHANGED[name] for name in names]
    chosen = np.flatnonzero(np.any(changes, 0))
    if not len(chosen):
        return
    levels = work[chosen]
    if work.dtype != np.uint8:
        levels = (levels - low) * np.float32((_LEVELS - 1) / (high - low)) + 0.5
        levels = np.clip(levels, 0, 255, out=levels).astype(np.uint8)
    tables = _tables(levels, {name: parameters[name][chosen] for name in names})
    for image, table in zip(levels, tables, strict=True):
        image[:] = cv2.LUT(image, table[None]).reshape(image.shape)
    if work.dtype != np.uint8:
        levels = levels * np.float32((high - low) / 255) + low
    work[chosen] = levels


_UNCHANGED = {"autocontrast": False, "equalize": False, "threshold": 2.0, "bits": 8.0}


def _tables(levels: np.ndarray, parameters: Parameters) -> np.ndarray:
    """What each level becomes, as in `functional.tables`: (batch, 256, channels)."""
    shape = (len(levels), _LEVELS, levels.shape[3])
    table = np.broadcast_to(np.arange(_LEVELS, dtype=np.int32)[:, None], shape).copy()
    if "autocontrast" in parameters:
        chosen = np.flatnonzero(parameters["autocontrast"])
        table[chosen] = _stretched(levels[chosen])
    if "equalize" in parameters:
        chosen = np.flatnonzero(parameters["equalize"])
        table[chosen] = _equalized(_histograms(levels[chosen]))
    if "threshold" in parameters:
        threshold = parameters["threshold"] * np.float32(_LEVELS - 1)
        beyond = table >= threshold[:, None, None]
        table = np.where(beyond, _LEVELS - 1 - table, table)
    if "bits" in parameters:
        dropped = 8 - parameters["bits"].astype(np.int32)[:, None, None]
        table = table >> dropped << dropped
    return table.astype(np.uint8)


def _stretched(levels: np.ndarray) -> np.ndarray:
    # One axis after the other: NumPy is slow to reduce rows of three.
    low = levels.min(1).min(1).astype(np.int32)[:, None]
    span = levels.max(1).max(1)[:, None] - low
    level = np.arange(_LEVELS, dtype=np.int32)[:, None]
    values = ((level - low) * 510 + span) // np.maximum(2 * span, 1)
    return np.where(span > 0, np.clip(values, 0, 255), level)


def _histograms(levels: np.ndarray) -> np.ndarray:
    """How often there is each level: (batch, 256, channels)."""
    batch, _, _, channels = levels.shape
    first = np.arange(batch * channels).reshape(batch, 1, 1, channels) * _LEVELS
    counts = np.bincount((first + levels).ravel(), minlength=first.size * _LEVELS)
    return counts.reshape(batch, channels, _LEVELS).transpose(0, 2, 1)


def _equalized(histograms: np.ndarray) -> np.ndarray:
    level = np.arange(_LEVELS)[:, None]
    upto = np.cumsum(histograms, 1)
    highest = np.where(histograms > 0, level, 0).max(1, keepdims=True)
    last = np.take_along_axis(histograms, highest, 1)
    step = (upto[:, -1:] - last) // 255
    values = (step // 2 + upto - histograms) // np.maximum(step, 1)
    return np.where(step > 0, np.minimum(values, 255), level)


def _sharpen(
    work: np.ndarray, parameters: Parameters, policy: Any, low: float, high: float
) -> None:
    import cv2

    factors = parameters["sharpness"]
    for number in np.flatnonzero(factors != 1):
        image, factor = work[number], factors[number]
        kernel = factor * _MIDDLE + (1 - factor) * _SMOOTH
        changed = cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT)
        image[:] = changed.reshape(image.shape)
        _clip(image, low, high)


def _blur(
    work: np.ndarray, parameters: Parameters, policy: Any, low: float, high: float
) -> None:
    import cv2

    distance = np.arange(-policy.blur_radius, policy.blur_radius + 1)
    sigmas = parameters["sigma"]
    # Below 0.1 the next pixels would count for less than 1e-20.
    for number in np.flatnonzero(sigmas >= 0.1):
        image = work[number]
        weights = np.exp(-0.5 * (distance / sigmas[number]) ** 2)
        weights /= weights.sum()
        changed = cv2.sepFilter2D(
            image, -1, weights, weights, borderType=cv2.BORDER_REFLECT
        )
        image[:] = changed.reshape(image.shape)


_STAGES: list[tuple[tuple[str, ...], Callable[..., None]]] = [
    (("colour",), _recolour),
    (("autocontrast", "equalize", "threshold", "bits"), _look_up),
    (("sharpness",), _sharpen),
    (("sigma",), _blur),
]
