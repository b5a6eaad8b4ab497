"""Layers for models that are written with kacc in mind."""

from __future__ import annotations

from typing import Any

import keras

from kacc.augmentation.layer import Augmentation
from kacc.core import attach, registry
from kacc.core.errors import UsageError
from kacc.core.registry import matrix_weights
from kacc.core.transform import Transform
from kacc.pruning.config import method_named, sparsity_checked, target_of
from kacc.pruning.masks import update
from kacc.pruning.transform import Prune
from kacc.quantization.config import scheme_named
from kacc.quantization.transform import Quantize

__all__ = ["Augmentation", "PruneWrapper", "QuantizeWrapper"]


def QuantizeWrapper(  # noqa: N802  (the name is that of a Keras layer)
    layer: keras.Layer, scheme: str = "int8"
) -> keras.Layer:
    """Quantizes one layer in place: its weights and its output.

    Args:
        layer: a layer of a supported type, built or not.
        scheme: "int8", or "w4a8", whose steps are learned, for layers that are built.

    Returns:
        The same layer.

    Raises:
        UsageError: for an unknown scheme or a layer that is not supported.

    Example:
        >>> import keras, kacc
        >>> layer = kacc.layers.QuantizeWrapper(keras.layers.Dense(2))
        >>> isinstance(layer, keras.layers.Dense)
        True
    """
    row = scheme_named(scheme)
    reason = registry.unsupported_reason(layer)
    spec = registry.find(layer)
    if reason is not None or spec is None:
        raise UsageError(
            "The layer must be of a type that kacc supports",
            received=f"{layer!r}: {reason}",
            fix="kacc.register_layer adds a type",
        )
    if row.learned_steps and not layer.built:
        raise UsageError(
            f"A layer must be built before it is quantized as {row.name!r}",
            received=f"the unbuilt layer {layer.name!r}",
            fix="Call layer.build(input_shape) first, or use kacc.quantize(model)",
        )
    ranges: dict[str, Any] = {}
    if spec.output is registry.Output.RANGE:
        ranges = dict(spec.ranges(layer))
    transform = Quantize(
        row.name,
        {name: r.nonnegative for name, r in ranges.items() if r.fixed is None},
        {name: r.fixed for name, r in ranges.items() if r.fixed is not None},
        weight_bits=max([row.weight_bits, *(w.least_bits for w in spec.weights)]),
        learned_steps=row.learned_steps,
    )
    _attach(layer, transform)
    transform.begin()
    return layer


def PruneWrapper(  # noqa: N802  (the name is that of a Keras layer)
    layer: keras.Layer, sparsity: float | None = None, method: Any = "magnitude"
) -> keras.Layer:
    """Prunes one layer in place.

    Of a built layer the masks are chosen at once. Those of a layer that is built later
    are chosen by `kacc.callbacks.Pruning()` on the model that it becomes a part of, or
    by `kacc.pruning.update_masks(model)`: until then all its weights stay.

    Args:
        layer: a layer with weights that can be pruned, built or not.
        sparsity: the share of its weights to remove; it may be left out where `method`
            has its own.
        method: "magnitude", "soft", a pattern like "2:4" or a block like (1, 4).

    Returns:
        The same layer.

    Raises:
        UsageError: for a wrong argument, or a layer that has no such weights.

    Example:
        >>> import keras, kacc
        >>> layer = kacc.layers.PruneWrapper(keras.layers.Dense(4), 0.5)
        >>> model = keras.Sequential([keras.Input((8,)), layer])
        >>> kacc.pruning.update_masks(model)
        >>> kacc.pruning.sparsity(model)
        0.5
    """
    chosen = method_named(method)
    target = target_of(chosen, None if sparsity is None else sparsity_checked(sparsity))
    if target is None:
        raise UsageError(
            f"The method {chosen.name!r} needs a sparsity to reach",
            received=None,
            fix="Pass a number such as 0.75",
        )
    spec = registry.find(layer)
    rows = (*spec.weights, *spec.tables) if spec is not None else ()
    inputs = [weight.inputs for weight in rows]
    if not any(axis is not None for axis in inputs) or (
        layer.built and not list(matrix_weights(layer))
    ):
        raise UsageError(
            "The layer must have weights that kacc can prune",
            received=layer,
            fix="kacc.register_layer adds a type",
        )
    transform = Prune(target, chosen.name, wrapped=True)
    _attach(layer, transform)
    update([transform], 1.0, None)
    return layer


def _attach(layer: keras.Layer, transform: Transform) -> None:
    """Attaches a transform in the place of one of its kind, beside all others."""
    present = attach.transforms_of(layer)
    others = [t for t in present if type(t) is not type(transform)]
    attach.attach(layer, [*others, transform])
