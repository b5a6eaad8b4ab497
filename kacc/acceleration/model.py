"""Making a whole model faster to train, in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import keras

from kacc.acceleration.layer import FusedBatchNormalization, unfit_reason
from kacc.core import attach
from kacc.core.errors import UsageError


@dataclass(frozen=True)
class Fusion:
    """What `fuse_batch_normalization` did.

    Args:
        fused: paths of the layers that are fused now.
        skipped: path of each other batch normalization -> why it was left alone.
    """

    fused: tuple[str, ...]
    skipped: Mapping[str, str]


def accelerate(model: keras.Model) -> keras.Model:
    """Makes a model faster to train, in place; what it computes stays the same.

    So far it fuses the batch normalizations (`fuse_batch_normalization`).

    Args:
        model: any Keras 3 model on the TensorFlow backend; compiled or not.

    Returns:
        The same model.

    Raises:
        UsageError: for anything but such a model.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.layers.BatchNormalization()])
        >>> accelerate(model) is model
        True
    """
    fuse_batch_normalization(model)
    return model


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
    _check(model)
    fused: list[str] = []
    skipped: dict[str, str] = {}
    for layer in model._flatten_layers():
        if not isinstance(layer, keras.layers.BatchNormalization):
            continue
        path = layer.path or layer.name
        reason = _reason(layer)
        if reason is None:
            attach.swap_base(layer, FusedBatchNormalization)
            fused.append(path)
        else:
            skipped[path] = reason
    attach.refresh_functions(model)
    return Fusion(tuple(fused), skipped)


def _check(model: object) -> None:
    if not isinstance(model, keras.Model):
        raise UsageError(
            "Only a Keras 3 model can be accelerated",
            received=type(model).__name__,
            fix="Pass a keras.Model",
        )
    if keras.backend.backend() != "tensorflow":
        raise UsageError(
            "Acceleration needs Keras's TensorFlow backend",
            received=keras.backend.backend(),
            fix="Set KERAS_BACKEND=tensorflow before importing keras",
        )


def _reason(layer: keras.layers.BatchNormalization) -> str | None:
    base = attach.base_class(layer)
    if base not in (keras.layers.BatchNormalization, FusedBatchNormalization):
        return f"its class {base.__name__} is not Keras's own"
    return unfit_reason(layer)
