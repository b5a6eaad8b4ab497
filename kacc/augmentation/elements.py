"""What a batch holds beside its images: labels, boxes, masks, weights, other inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from kacc.augmentation import checks, functional
from kacc.augmentation.apply import augment
from kacc.augmentation.config import CutMix
from kacc.core.errors import UsageError

# (partner, share) of each image, or None where nothing was mixed.
Mixing = tuple[Any, Any] | None

# As `keras.utils.bounding_boxes.convert_format` has them.
_BOX_FORMATS = (
    "xyxy",
    "yxyx",
    "xywh",
    "center_xywh",
    "center_yxhw",
    "rel_xyxy",
    "rel_yxyx",
    "rel_xywh",
    "rel_center_xywh",
)


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
        element: images; (images, labels[, weights]); or Keras's dictionary. Labels and
            weights of the height and width of the images are masks, and move too.
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
    changed, rest, mixing = change_parts(policy, seed, element, engine, key, box_format)
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


def change_parts(
    policy: Any,
    seed: Any,
    element: tuple[Any, ...],
    engine: str,
    key: Any = None,
    box_format: str | None = None,
) -> tuple[Any, list[Any], Mixing]:
    """Changes inputs, and moves what labels and weights have for each pixel.

    Args:
        policy: of images.
        seed: three integers.
        element: (inputs[, labels[, weights]]).
        engine: "graph" or "host".
        key: of the images among several inputs.
        box_format: of bounding boxes, as Keras names them.

    Returns:
        The inputs; labels and weights, not mixed; and by what they are to be mixed.

    Raises:
        UsageError: for another structure, or one that cannot be mixed.
    """
    inputs, *rest = element
    moves = any(transform.moves for transform in policy.transforms)
    several = not hasattr(inputs, "dtype")
    images = inputs[image_key(inputs, key)] if several else inputs
    if rest and moves and _are_boxes(rest[0]):
        both = {"images": images, "bounding_boxes": rest[0]}
        changed, _, mixing = _change(policy, seed, both, engine, None, box_format)
        images, boxes = changed["images"], changed["bounding_boxes"]
        if several:
            images = _replaced(inputs, {image_key(inputs, key): images})
        return images, [boxes, *rest[1:]], mixing
    leaves = keras.tree.flatten(rest)
    places = [
        place
        for place, leaf in enumerate(leaves)
        if (moves or policy.mixes) and _is_map(leaf, images, policy)
    ]
    maps = [leaves[place] for place in places]
    changed, maps, mixing = _change(policy, seed, inputs, engine, key, box_format, maps)
    for place, value in zip(places, maps, strict=True):
        leaves[place] = value
    return changed, keras.tree.pack_sequence_as(rest, leaves), mixing


def _is_map(value: Any, images: Any, policy: Any) -> bool:
    """Whether a label or weight has something for each pixel, which must move along.

    Maps of floats that nothing moves can be blended as images are.
    """
    shape = getattr(value, "shape", None)
    if shape is None or shape.rank not in (3, 4) or shape[1:3] != images.shape[1:3]:
        return False
    blends = value.dtype.is_floating and not policy.all(CutMix)
    return not blends or any(transform.moves for transform in policy.transforms)


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
    changed, _, mixing = _change(policy, seed, inputs, engine, key, box_format)
    return changed, mixing


def _change(
    policy: Any,
    seed: Any,
    inputs: Any,
    engine: str,
    key: Any = None,
    box_format: str | None = None,
    maps: Sequence[Any] = (),
) -> tuple[Any, list[Any], Mixing]:
    """`change_inputs`, with more masks that move with the images."""
    more = {f"masks of labels {number}": value for number, value in enumerate(maps)}
    if hasattr(inputs, "dtype"):
        if key is not None:
            raise UsageError(
                "`key` names the images among several inputs",
                received=f"key={key!r} for images alone",
                fix="Leave it out",
            )
        result = augment(policy, seed, {"images": inputs, **more}, engine)
        return result["images"], [result[name] for name in more], _mixing(result)
    key = image_key(inputs, key)
    fields = {"images": inputs[key], **more}
    named = isinstance(inputs, Mapping)
    if named and "segmentation_masks" in inputs:
        fields["masks"] = inputs["segmentation_masks"]
    boxes = inputs.get("bounding_boxes") if named else None
    if boxes is not None:
        box_format = _box_format(box_format)
        _check_boxes(boxes)
        shape = tf.shape(fields["images"])
        fields["boxes"] = _converted(boxes["boxes"], box_format, "xyxy", shape)
    result = augment(policy, seed, fields, engine)
    new = {key: result["images"]}
    if "masks" in result:
        new["segmentation_masks"] = result["masks"]
    if boxes is not None:
        new["bounding_boxes"] = _kept(boxes, result["boxes"], box_format, shape)
    maps = [result[name] for name in more]
    return _replaced(inputs, new), maps, _mixing(result)


def _replaced(inputs: Any, new: dict[Any, Any]) -> Any:
    """Several inputs, some of them replaced."""
    if isinstance(inputs, Mapping):
        return {**inputs, **new}
    return type(inputs)(new.get(place, one) for place, one in enumerate(inputs))


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
        able = [k for k in keys if len(getattr(inputs[k], "shape", ())) == 4]
        if len(able) == 1:
            return able[0]
        keys = able or keys
    elif key in keys:
        return key
    raise UsageError(
        "Among several inputs one must be named, as that to change",
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
    if not isinstance(labels, Mapping) or "boxes" not in labels:
        return False
    _check_boxes(labels)
    return True


def _check_boxes(boxes: Any) -> None:
    if not isinstance(boxes, Mapping) or not {"boxes", "labels"} <= set(boxes):
        raise UsageError(
            'Bounding boxes must come as Keras has them, as {"boxes", "labels"}',
            received=list(boxes) if isinstance(boxes, Mapping) else boxes,
            fix='Name the classes of the boxes "labels"',
        )
    if any(isinstance(boxes[name], tf.RaggedTensor) for name in ("boxes", "labels")):
        raise UsageError(
            "All images of a batch must have as many bounding boxes",
            received="ragged tensors",
            fix="Fill up by boxes.to_tensor(-1), and labels likewise",
        )


def checked_box_format(box_format: Any) -> str | None:
    """The name of a format of bounding boxes, or None.

    Raises:
        UsageError: for another word.

    Example:
        >>> checked_box_format("rel_xywh")
        'rel_xywh'
    """
    if box_format is None:
        return None
    return checks.choice("`bounding_box_format`", box_format, _BOX_FORMATS)


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
