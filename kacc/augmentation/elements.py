"""What a batch holds beside its images: labels, boxes, masks, weights, other inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from kacc.augmentation import functional
from kacc.augmentation.apply import augment
from kacc.core.errors import UsageError

# (partner, share) of each image, or None where nothing was mixed.
Mixing = tuple[Any, Any] | None


def change_element(
    policy: Any,
    seed: Any,
    element: Any,
    engine: str,
    key: Any = None,
    box_format: str | None = None,
) -> Any:
    """Changes the batch of a dataset, labels and weights included.

    Args:
        policy: of images.
        seed: three integers.
        element: images; (images, labels[, weights]); or Keras's dictionary.
        engine: "graph" or "host".
        key: of the images among several inputs.
        box_format: of bounding boxes, as Keras names them.

    Returns:
        The same structure.

    Raises:
        UsageError: for another structure, or labels that cannot be mixed.
    """
    if not isinstance(element, tuple):
        changed, mixing = change_inputs(policy, seed, element, engine, key, box_format)
        if mixing is None:
            return changed
        if not isinstance(changed, Mapping) or "labels" not in changed:
            raise _no_labels(element)
        return {**changed, "labels": mixed_labels(changed["labels"], mixing)}
    inputs, *rest = element
    if rest and _are_boxes(rest[0]):
        both = {"images": inputs, "bounding_boxes": rest[0]}
        changed, _ = change_inputs(policy, seed, both, engine, None, box_format)
        return (changed["images"], changed["bounding_boxes"], *rest[1:])
    changed, mixing = change_inputs(policy, seed, inputs, engine, key, box_format)
    if mixing is None:
        return (changed, *rest)
    if not rest or rest[0] is None:
        raise _no_labels(element)
    labels = keras.tree.map_structure(lambda y: mixed_labels(y, mixing), rest[0])
    weights = [
        keras.tree.map_structure(lambda w: mixed_floats(w, mixing), part)
        for part in rest[1:]
    ]
    return (changed, labels, *weights)


def change_inputs(
    policy: Any,
    seed: Any,
    inputs: Any,
    engine: str,
    key: Any = None,
    box_format: str | None = None,
) -> tuple[Any, Mixing]:
    """Changes what a model reads: the images, and what moves with them.

    Args:
        policy: of images.
        seed: three integers.
        inputs: images; a dictionary or list with images in it; or Keras's dictionary
            with "images", and perhaps "bounding_boxes" and "segmentation_masks".
        engine: "graph" or "host".
        key: of the images in the dictionary or list.
        box_format: of bounding boxes.

    Returns:
        The same structure, and by what labels are to be mixed.
    """
    if hasattr(inputs, "dtype"):
        result = augment(policy, seed, {"images": inputs}, engine)
        return result["images"], _mixing(result)
    key = image_key(inputs, key)
    fields = {"images": inputs[key]}
    named = isinstance(inputs, Mapping)
    if named and "segmentation_masks" in inputs:
        fields["masks"] = inputs["segmentation_masks"]
    boxes = inputs.get("bounding_boxes") if named else None
    if boxes is not None:
        shape = tf.shape(fields["images"])
        fields["boxes"] = _converted(
            boxes["boxes"], _box_format(box_format), "xyxy", shape
        )
    result = augment(policy, seed, fields, engine)
    items: Any = dict(inputs) if named else list(inputs)
    items[key] = result["images"]
    if "masks" in result:
        items["segmentation_masks"] = result["masks"]
    if boxes is not None:
        items["bounding_boxes"] = _kept(boxes, result["boxes"], box_format, shape)
    return items if named else type(inputs)(items), _mixing(result)


def image_key(inputs: Any, key: Any = None) -> Any:
    """The key or index of the images among several inputs.

    Raises:
        UsageError: if `key` is no key of the inputs, or there is not exactly one input
            that can be images.
    """
    named = isinstance(inputs, Mapping)
    keys = list(inputs) if named else list(range(len(inputs)))
    if key is None and "images" in keys:
        return "images"
    if key is None:
        keys = [k for k in keys if getattr(inputs[k], "shape", ()).__len__() == 4]
        if len(keys) == 1:
            return keys[0]
    elif key in keys:
        return key
    raise UsageError(
        "Among several inputs one must be named as the images",
        received=f"key={key!r}",
        fix=f"Pass `key` as one of {keys}",
    )


def mixed_labels(labels: Any, mixing: Mixing) -> Any:
    """Labels of one-hot or other float form, mixed as the images are.

    Raises:
        UsageError: for labels that are numbers of classes.
    """
    if are_numbers(labels):
        raise UsageError(
            "MixUp and CutMix need labels in one-hot form: numbers of classes cannot "
            "be mixed",
            received=f"labels of type {labels.dtype.name} and shape {labels.shape}",
            fix="Map them by tf.one_hot(labels, classes), and train with "
            "categorical_crossentropy",
        )
    return mixed_floats(labels, mixing)


def are_numbers(labels: Any) -> bool:
    """Whether labels are one integer for each image."""
    return not labels.dtype.is_floating and (
        labels.shape.rank == 1 or (labels.shape.rank == 2 and labels.shape[1] == 1)
    )


def mixed_floats(values: Any, mixing: Mixing) -> Any:
    """One value, or several, of each image, mixed; integers become float32."""
    if mixing is None or values is None:
        return values
    if not values.dtype.is_floating:
        values = tf.cast(values, tf.float32)
    return functional.mix(values, *mixing)


def _mixing(result: dict[str, Any]) -> Mixing:
    return (result["partner"], result["share"]) if "partner" in result else None


def _no_labels(element: Any) -> UsageError:
    return UsageError(
        "MixUp and CutMix need labels",
        received=keras.tree.map_structure(lambda x: x.shape, element),
        fix="Pass (images, labels), or leave them out",
    )


def _are_boxes(labels: Any) -> bool:
    return isinstance(labels, Mapping) and {"boxes", "labels"} <= set(labels)


def _box_format(box_format: str | None) -> str:
    if box_format is None:
        raise UsageError(
            "The form of bounding boxes must be known",
            received=None,
            fix='Pass bounding_box_format="xyxy", or another of Keras\'s names',
        )
    return box_format


def _converted(boxes: Any, source: str, target: str, shape: Any) -> Any:
    boxes = tf.cast(boxes, tf.float32)
    if source == target:
        return boxes
    return keras.utils.bounding_boxes.convert_format(
        boxes, source, target, height=shape[1], width=shape[2]
    )


def _kept(boxes: Any, moved: Any, box_format: Any, shape: Any) -> Any:
    """Boxes in their own form; the places of those that have left are marked by -1."""
    sides = moved[..., 2:] - moved[..., :2]
    labels = tf.convert_to_tensor(boxes["labels"])
    there = (labels >= 0) & tf.reduce_all(sides > 0, -1)
    given = tf.convert_to_tensor(boxes["boxes"]).dtype
    back = tf.cast(_converted(moved, "xyxy", box_format, shape), given)
    minus = tf.constant(-1, given)
    return {
        **boxes,
        "boxes": tf.where(there[..., None], back, minus),
        "labels": tf.where(there, labels, tf.constant(-1, labels.dtype)),
    }
