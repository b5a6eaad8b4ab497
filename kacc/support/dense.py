"""Dense layers."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kacc.core import attach
from kacc.core.registry import LayerSpec, Weight
from kacc.core.transform import QUANTIZE
from kacc.support.activations import (
    absorbs_relu,
    call_with_activation,
    linear_integer,
    name_of,
    ranges,
    unsupported,
    unsupported_wide,
)

layers = keras.layers


def _einsum_reason(layer: Any) -> str | None:
    """Only a product over the last axis, as a Dense makes it."""
    inputs, _, rest = layer.equation.replace(" ", "").partition(",")
    kernel, _, outputs = rest.partition("->")
    is_dense = (
        len(kernel) == 2
        and inputs[-1:] == kernel[0]
        and outputs == inputs[:-1] + kernel[1]
        and layer.bias_axes in (None, kernel[1])
    )
    if not is_dense:
        return f"its equation {layer.equation} is not that of a Dense"
    return unsupported(layer)


def _dense(layer: Any, steps: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
    """The product of rows: of more dimensions Keras adds the bias behind a reshape.

    The converter would make an ADD of it, with a tensor before it that has no range.
    """
    if len(inputs.shape) <= 2:
        return call_with_activation(layer, steps, inputs, *args, **kwargs)
    rows = ops.reshape(inputs, (-1, inputs.shape[-1]))
    outputs = call_with_activation(layer, steps, rows, *args, **kwargs)
    return ops.reshape(outputs, (*ops.shape(inputs)[:-1], layer.units))


def _embed(layer: Any, file: Any, indices: Any) -> Any:
    table = attach.weight_before(layer, "embeddings", QUANTIZE)
    return file.lookup(table, indices, "output")


SPECS = [
    LayerSpec(
        layers.Dense,
        weights=(Weight("kernel", least_bits=4),),
        bias="bias",
        activation=name_of,
        absorbs_relu=True,
        activation_absorbs_relu=absorbs_relu,
        folds_batch_norm=True,
        copied_for_relu=True,
        ranges=ranges,
        call=_dense,
        integer=linear_integer,
        supported=unsupported,
        supported_wide=unsupported_wide,
        examples=(
            lambda: (layers.Dense(5, activation="relu"), [(7,)]),
            lambda: (layers.Dense(4, activation="softmax", use_bias=False), [(7,)]),
            lambda: (layers.Dense(4, activation="swish"), [(3, 7)]),
        ),
    ),
    LayerSpec(
        layers.EinsumDense,
        weights=(Weight("kernel", least_bits=4),),
        bias="bias",
        activation=name_of,
        absorbs_relu=True,
        activation_absorbs_relu=absorbs_relu,
        folds_batch_norm=True,
        copied_for_relu=True,
        ranges=ranges,
        call=call_with_activation,
        integer=linear_integer,
        supported=_einsum_reason,
        supported_wide=unsupported_wide,
        examples=(
            lambda: (
                layers.EinsumDense("abc,cd->abd", (3, 5), "relu", bias_axes="d"),
                [(3, 7)],
            ),
        ),
    ),
    LayerSpec(
        layers.Embedding,
        # A pattern goes over the features of one word: words beside each other in a
        # vocabulary have nothing to do with each other.
        tables=(Weight("embeddings", neighbours=-1),),
        reads_indices=True,
        integer=_embed,
    ),
]
