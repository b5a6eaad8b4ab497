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
    mean = parameters.get("colour_mean", np.zeros(len(work)))
    changes = (colour != np.eye(3, 4)).any((1, 2)) | (mean != 0)
    colour[:, :, 3] *= high - low
    colour[:, :, 3] += low - low * colour[:, :, :3].sum(2)
    if work.shape[3] == 1:  # grey pixels, of which there is one channel
        factors = colour[:, :, :3].sum(2, keepdims=True)
        colour = LUMINANCE @ np.concatenate([factors, colour[:, :, 3:]], 2)
        colour = colour[:, None]
    for number in np.flatnonzero(changes).tolist():
        image, matrix = work[number], colour[number]
        if mean[number] != 0:
            matrix[:, -1] += mean[number] * (_grey(image) - low)
        image[:] = cv2.transform(image, matrix).reshape(image.shape)
    _clip(work, low, high)


def _grey(image: np.ndarray) -> float:
    """The mean of an image's luminance."""
    import cv2

    red, green, blue, _ = cv2.mean(image)
    if image.shape[2] == 1:
        return red
    return float(LUMINANCE[0] * red + LUMINANCE[1] * green + LUMINANCE[2] * blue)


def _clip(images: np.ndarray, low: float, high: float) -> None:
    """Floats into the range; OpenCV has done so with uint8."""
    if images.dtype != np.uint8:
        np.clip(images, low, high, out=images)


_UNCHANGED = {"autocontrast": False, "equalize": False, "threshold": 2.0, "bits": 8.0}


def _look_up(
    work: np.ndarray, parameters: Parameters, policy: Any, low: float, high: float
) -> None:
    parameters = {name: parameters[name] for name in _UNCHANGED if name in parameters}
    changes = {name: parameters[name] != _UNCHANGED[name] for name in parameters}
    nobody = np.zeros(len(work), bool)
    adapts = changes.get("autocontrast", nobody) | changes.get("equalize", nobody)
    # Tables that do not depend on the image are the same for all its channels.
    fixed = np.any(list(changes.values()), 0) & ~adapts
    for channels, group in ((work.shape[3], adapts), (1, fixed)):
        chosen = np.flatnonzero(group)
        if len(chosen):
            own = {name: values[chosen] for name, values in parameters.items()}
            _look_up_group(work, chosen, own, channels, low, high)


def _look_up_group(
    work: np.ndarray,
    chosen: np.ndarray,
    parameters: Parameters,
    channels: int,
    low: float,
    high: float,
) -> None:
    import cv2

    levels = work[chosen]
    if work.dtype != np.uint8:
        if (low, high) != (0, _LEVELS - 1):
            levels -= np.float32(low)
            levels *= np.float32((_LEVELS - 1) / (high - low))
        levels += np.float32(0.5)
        levels = np.clip(levels, 0, _LEVELS - 1, out=levels).astype(np.uint8)
    tables: np.ndarray = _tables(levels, parameters, channels).astype(np.uint8)
    if work.dtype != np.uint8:
        tables = tables * np.float32((high - low) / 255) + np.float32(low)
    # (row, level, channel), as OpenCV takes them
    tables = np.ascontiguousarray(tables.transpose(0, 2, 1))[:, None]
    for number, image, table in zip(chosen.tolist(), levels, tables, strict=True):
        cv2.LUT(image, table, work[number])


def _tables(levels: np.ndarray, parameters: Parameters, channels: int) -> np.ndarray:
    """What each level becomes, as in `functional.tables`: (batch, channels, 256)."""
    shape = (len(levels), channels, _LEVELS)
    table = np.broadcast_to(np.arange(_LEVELS, dtype=np.int16), shape)
    for name, adapted in (("autocontrast", _stretched), ("equalize", _equalized)):
        chosen = np.flatnonzero(parameters.get(name, False))
        if len(chosen):
            table = table.copy()
            table[chosen] = adapted(levels[chosen])
    if "threshold" in parameters:
        # Of whole numbers, those from the next whole number on.
        threshold = np.ceil(parameters["threshold"] * np.float32(_LEVELS - 1))
        beyond = table >= threshold.astype(np.int16)[:, None, None]
        table = np.where(beyond, _LEVELS - 1 - table, table)
    if "bits" in parameters:
        dropped = 8 - parameters["bits"].astype(np.int16)[:, None, None]
        table = table >> dropped << dropped
    return table


# Quotients of floats, exact for these sizes: NumPy divides integers slowly


def _stretched(levels: np.ndarray) -> np.ndarray:
    # One axis after the other: NumPy is slow to reduce rows of three, too.
    low = levels.min(1).min(1).astype(np.float32)[:, :, None]
    span = levels.max(1).max(1)[:, :, None] - low
    level = np.arange(_LEVELS, dtype=np.float32)
    values = np.floor(((level - low) * 510 + span) / np.maximum(2 * span, 1))
    return np.where(span > 0, np.clip(values, 0, 255), level)


def _equalized(levels: np.ndarray) -> np.ndarray:
    histograms = _histograms(levels).astype(np.float64)
    upto = np.cumsum(histograms, 2)
    level = np.arange(_LEVELS)
    highest = np.where(histograms > 0, level, 0).max(2, keepdims=True)
    last = np.take_along_axis(histograms, highest, 2)
    step = np.floor((upto[:, :, -1:] - last) / 255)
    values = np.floor((np.floor(step / 2) + upto - histograms) / np.maximum(step, 1))
    return np.where(step > 0, np.minimum(values, 255), level)


def _histograms(levels: np.ndarray) -> np.ndarray:
    """How often there is each level: (batch, channels, 256)."""
    batch, _, _, channels = levels.shape
    first = np.arange(batch * channels).reshape(batch, 1, 1, channels) * _LEVELS
    counts = np.bincount((first + levels).ravel(), minlength=first.size * _LEVELS)
    return counts.reshape(batch, channels, _LEVELS)


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
