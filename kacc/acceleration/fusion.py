"""Fusing the batch normalizations of a whole model, in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import keras

from kacc.acceleration.changes import check_model, layers_by_path, note, take
from kacc.acceleration.layer import FusedBatchNormalization, unfit_reason
from kacc.core import attach


@dataclass(frozen=True)
class Fusion:
    """What `fuse_batch_normalization` did.

    Args:
        fused: paths of the layers that are fused now.
        skipped: path of each other batch normalization -> why it was left alone.
    """

    fused: tuple[str, ...]
    skipped: Mapping[str, str]


def fuse_batch_normalization(model: keras.Model) -> Fusion:
    """Gives the batch normalizations of a model a fused training step, in place.

    Keras 3 composes batch normalization of a dozen operators on TensorFlow. The fused
    kernel gives equal outputs, gradients and moving statistics; the weights stay, and
    the model is saved as before and loads without kacc, as plain Keras layers.

    Args:
        model: any Keras 3 model on the TensorFlow backend; compiled or not.

    Returns:
        The paths of the layers that are fused, and why others are not.

    Raises:
        UsageError: for anything but such a model.

    Example:
        >>> import keras
        >>> bn = keras.layers.BatchNormalization
        >>> model = keras.Sequential([bn(name="a"), bn(name="b", synchronized=True)])
        >>> fuse_batch_normalization(model)
        Fusion(fused=('a',), skipped={'b': 'it is synchronized between replicas'})
    """
    check_model(model)
    fused: list[str] = []
    skipped: dict[str, str] = {}
    for path, layer in layers_by_path(model):
        if not isinstance(layer, keras.layers.BatchNormalization):
            continue
        reason = _reason(layer)
        if reason is None:
            note(model, f"fused {id(layer)}", (layer, attach.base_class(layer)))
            attach.swap_base(layer, FusedBatchNormalization)
            fused.append(path)
        else:
            skipped[path] = reason
    attach.refresh_functions(model)
    return Fusion(tuple(fused), skipped)


def fusible(model: keras.Model) -> bool:
    """Whether a model has a batch normalization that is not fused and could be."""
    return any(
        attach.base_class(layer) is keras.layers.BatchNormalization
        and unfit_reason(layer) is None
        for layer in model._flatten_layers()
    )


def undo_fusion(model: keras.Model) -> None:
    """Gives the batch normalizations the class back that they had."""
    for layer, base in take(model, "fused "):
        attach.swap_base(layer, base)


def _reason(layer: keras.layers.BatchNormalization) -> str | None:
    base = attach.base_class(layer)
    if base not in (keras.layers.BatchNormalization, FusedBatchNormalization):
        return f"its class {base.__name__} is not Keras's own"
    return unfit_reason(layer)
