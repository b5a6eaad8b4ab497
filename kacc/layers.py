"""Layers for models that are written with kacc in mind."""

from __future__ import annotations

from typing import Any

import keras

from kacc.core import attach, registry
from kacc.core.errors import UsageError
from kacc.quantization.config import scheme_named
from kacc.quantization.transform import Quantize

__all__ = ["QuantizeWrapper"]


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
    attach.attach(layer, [transform])
    transform.begin()
    return layer
