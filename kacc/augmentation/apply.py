"""Applying a policy to a batch: the order of the stages, on either engine."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from kacc.augmentation import (
    checks,
    config_values,
    functional,
    geometry,
    host,
    sequences,
)
from kacc.augmentation.randomness import normal
from kacc.augmentation.sampling import draw
from kacc.core.errors import UsageError

ENGINES = ("auto", "graph", "host")

Fields = dict[str, Any]
Parameters = dict[str, Any]


def engine_named(engine: str) -> str:
    """What "auto" stands for: "host" where OpenCV is installed, else "graph".

    Raises:
        UsageError: for another word, or "host" without OpenCV.
    """
    checks.choice("`engine`", engine, ENGINES)
    if engine == "host":
        host.require()
    if engine == "auto":
        return "host" if host.available() else "graph"
    return engine


def augment(policy: Any, seed: Any, fields: Fields, engine: str = "graph") -> Fields:
    """Changes a batch of images, and what moves with them.

    Args:
        policy: of images.
        seed: three integers of 32 bits; the same give the same changes.
        fields: "images" (batch, height, width, channels), uint8 or float; and, if there
            are, "masks" (batch, height, width[, n]), also under names that begin so,
            and "boxes" (batch, n, 4) float32 with left, top, right and bottom in
            pixels.
        engine: "graph" (TensorFlow, compiled by XLA) or "host" (OpenCV).

    Returns:
        The same fields. With MixUp or CutMix also "partner" and "share", by which
        `functional.mix` mixes labels.

    Raises:
        UsageError: for images of another type or rank, or a policy that does not fit.

    Example:
        >>> import tensorflow as tf
        >>> from kacc.augmentation import Flip, Policy
        >>> policy = Policy([Flip(probability=1)])
        >>> images = tf.reshape([1.0, 2.0], (1, 1, 2, 1))
        >>> augment(policy, (0, 0, 0), {"images": images})["images"].numpy().ravel()
        array([2., 1.], dtype=float32)
    """
    fields = {name: tf.convert_to_tensor(value) for name, value in fields.items()}
    if policy.modality != "image":
        return {**fields, "images": sequences.augment(policy, fields["images"], seed)}
    _check(policy, fields)
    seed = tf.convert_to_tensor(seed, tf.int32)
    given = fields["images"]
    if engine == "graph":
        parameters, images = _on_graph(policy, seed, given)
    else:
        parameters, images = _on_host(policy, seed, given)
    result = {**fields, "images": images}
    if set(fields) != {"images"} or _needs_finish(policy, parameters):
        result = _compiled(policy, _finish, given.dtype)(parameters, result)
    elif images.dtype != given.dtype:
        result["images"] = tf.cast(images, given.dtype)
    for name, value in fields.items():
        result[name].set_shape(value.shape)
    return result


@functools.lru_cache(maxsize=256)
def _compiled(policy: Any, part: Callable[..., Any], dtype: Any = None) -> Any:
    """A part of the work as one function compiled by XLA, once for each shape.

    There are several, since within one XLA computes what a filter reads as often as it
    is read, warp included.
    """
    arguments = (policy,) if dtype is None else (policy, dtype)
    # A partial, since TensorFlow counts traces by code and warns after five policies.
    run = functools.partial(part, *arguments)
    return tf.function(run, autograph=False, jit_compile=True)


def _on_host(policy: Any, seed: Any, images: Any) -> tuple[Parameters, Any]:
    parameters = _compiled(policy, _draw)(seed, images)
    names = [name for name in host.KEYS if name in parameters]
    if not names:
        return parameters, images
    # float16 and bfloat16 are no types of OpenCV, nor the latter of numpy.
    given = images if images.dtype == tf.uint8 else tf.cast(images, tf.float32)

    def change(images: np.ndarray, *values: np.ndarray) -> np.ndarray:
        return host.change(images, dict(zip(names, values, strict=True)), policy)

    values = [parameters[name] for name in names]
    changed = tf.numpy_function(change, [given, *values], given.dtype, stateful=False)
    changed.set_shape(images.shape)
    return parameters, changed


def _on_graph(policy: Any, seed: Any, images: Any) -> tuple[Parameters, Any]:
    """What the host does in OpenCV, as float32. uint8 images are rounded as there."""
    dtype = images.dtype
    parameters, images = _compiled(policy, _begin, dtype)(seed, images)
    if {"autocontrast", "equalize", "threshold", "bits"} & set(parameters):
        images = _compiled(policy, _look_up, dtype)(parameters, images)
    if "sharpness" in parameters:
        images = _compiled(policy, _sharpen, dtype)(parameters, images)
    if "sigma" in parameters:
        images = _compiled(policy, _blur_columns, dtype)(parameters, images)
        images = _compiled(policy, _blur_rows, dtype)(parameters, images)
    return parameters, images


# The parts that are compiled


def _draw(policy: Any, seed: Any, images: Any) -> Parameters:
    shape = tf.shape(images)
    return draw(policy, seed, shape[0], shape[1], shape[2])


def _begin(policy: Any, dtype: Any, seed: Any, images: Any) -> tuple[Parameters, Any]:
    """The parameters, and the images warped and coloured."""
    parameters = _draw(policy, seed, images)
    low, high = policy.range_of(dtype)
    images = tf.cast(images, tf.float32)
    if "matrix" in parameters:
        images = functional.warp(
            images,
            parameters["matrix"],
            policy.warp_interpolation,
            policy.fill_mode,
            policy.fill_value,
            policy.is_projective,
        )
        images = _rounded(images, dtype)
    if "colour" in parameters:
        mean = parameters.get("colour_mean")
        images = functional.recolour(images, parameters["colour"], mean, low, high)
        images = tf.clip_by_value(_rounded(images, dtype), low, high)
    return parameters, images


def _rounded(images: Any, dtype: Any) -> Any:
    return tf.round(images) if dtype == tf.uint8 else images


def _sharpen(policy: Any, dtype: Any, parameters: Parameters, images: Any) -> Any:
    images = functional.sharpen(images, parameters["sharpness"])
    return tf.clip_by_value(_rounded(images, dtype), *policy.range_of(dtype))


def _blur_columns(policy: Any, dtype: Any, parameters: Parameters, images: Any) -> Any:
    weights = functional.gaussian(parameters["sigma"], policy.blur_radius)
    return functional.filtered(images, weights, 1)


def _blur_rows(policy: Any, dtype: Any, parameters: Parameters, images: Any) -> Any:
    weights = functional.gaussian(parameters["sigma"], policy.blur_radius)
    return _rounded(functional.filtered(images, weights, 2), dtype)


def _look_up(policy: Any, dtype: Any, parameters: Parameters, images: Any) -> Any:
    """Images whose levels are replaced; others keep all the digits that they have."""
    low, high = policy.range_of(dtype)
    scaled = (images - low) * (255 / (high - low))
    levels = tf.cast(tf.clip_by_value(tf.floor(scaled + 0.5), 0, 255), tf.int32)
    table = functional.tables(levels, parameters)
    found = tf.cast(functional.look_up(levels, table), tf.float32)
    found = found * ((high - low) / 255) + low
    neutral = {"threshold": 2.0, "bits": 8.0}
    chosen = tf.zeros(tf.shape(images)[0], tf.bool)
    for name in ("autocontrast", "equalize", "threshold", "bits"):
        if name in parameters:
            value = parameters[name]
            chosen |= value != neutral[name] if name in neutral else value
    return tf.where(chosen[:, None, None, None], found, images)


def _needs_finish(policy: Any, parameters: Parameters) -> bool:
    rescales = policy.all(config_values.Rescale)
    return bool(rescales or {"deviation", "holes", "partner"} & set(parameters))


def _finish(policy: Any, given: Any, parameters: Parameters, fields: Fields) -> Fields:
    """Noise, holes, scale and mixing; masks and boxes; images in their own type."""
    images = tf.cast(fields["images"], tf.float32)
    result = dict(fields)
    images = _spoiled(policy, parameters, images, given)
    for rescale in policy.all(config_values.Rescale):
        images = images * rescale.scale + rescale.offset
        given = tf.float32 if given == tf.uint8 else given
    if "partner" in parameters:
        partner, share = parameters["partner"], parameters["share"]
        result |= {"partner": partner, "share": share}
        # Before patches come in: a partner's patch is of a third image and its class.
        other = tf.gather(images, partner)
        if "patch" in parameters:
            patch = parameters["patch"]
            # Labels take the share of the patch; the rest of the image is its own.
            patched = (patch[:, 2] > patch[:, 0]) & (patch[:, 3] > patch[:, 1])
            images = functional.erase(images, patch, other)
            share = tf.where(patched, 1.0, share)
        images = functional.blend(images, other, share)
    if given == tf.uint8:
        images = tf.round(images)
    result["images"] = tf.cast(images, given)
    if "matrix" in parameters:
        result |= _moved(policy, parameters["matrix"], fields)
    return result


def _spoiled(policy: Any, parameters: Parameters, images: Any, dtype: Any) -> Any:
    if "deviation" in parameters:
        low, high = policy.range_of(dtype)
        key = tf.unstack(parameters["noise_key"])
        noise = normal((key[0], key[1]), tf.shape(images))
        deviation = parameters["deviation"][:, None, None, None]
        images += noise * (deviation * (high - low))
        images = tf.clip_by_value(images, low, high)
    for number, erasing in enumerate(policy.all(config_values.Erasing)):
        value = policy.fill_value if erasing.value is None else erasing.value
        images = functional.erase(images, parameters["holes"][:, number], value)
    return images


def _moved(policy: Any, matrices: Any, fields: Fields) -> Fields:
    """Masks and boxes where the image is now."""
    result: Fields = {}
    shape = tf.shape(fields["images"])
    for name in _masks(fields):
        masks = fields[name]
        deep = masks if masks.shape.rank == 4 else masks[..., None]
        moved = functional.warp(
            deep, matrices, "nearest", policy.fill_mode, 0, policy.is_projective
        )
        result[name] = tf.reshape(moved, tf.shape(masks))
    if "boxes" in fields:
        result["boxes"] = geometry.moved_boxes(
            fields["boxes"], matrices, shape[1], shape[2]
        )
    return result


def _masks(fields: Fields) -> list[str]:
    return [name for name in fields if name.startswith("masks")]


def _check(policy: Any, fields: Fields) -> None:
    images = fields["images"]
    if images.shape.rank != 4 or images.shape[-1] is None:
        raise UsageError(
            "Images must come in batches (batch, height, width, channels)",
            received=images.shape,
            fix="Call dataset.batch first, give grey images an axis of one channel, "
            "and let the number of channels be known",
        )
    if not (images.dtype == tf.uint8 or images.dtype.is_floating):
        raise UsageError(
            "Images must be uint8 or float",
            received=images.dtype.name,
            fix="Cast them: x.astype('uint8') if they are of 0 to 255",
        )
    for name in _masks(fields):
        shape = fields[name].shape
        sides = shape[1:3].is_compatible_with(images.shape[1:3])
        if shape.rank not in (3, 4) or not sides:
            raise UsageError(
                "Masks must have the height and width of the images",
                received=f"{shape} for images {images.shape}",
                fix="Resize both alike before",
            )
    policy.range_of(images.dtype)
    coloured = [t for t in policy.transforms if t.is_colour]
    if coloured and images.shape[-1] not in (1, 3):
        raise UsageError(
            f"{type(coloured[0]).__name__} needs grey or red, green and blue",
            received=f"{images.shape[-1]} channels",
        )
    if policy.mixes and set(fields) != {"images"}:
        raise UsageError(
            "MixUp and CutMix mix labels of whole images",
            received=sorted(set(fields) - {"images"}),
            fix="Leave them out where there are bounding boxes or masks",
        )
