"""Activations swapped for cheaper ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

# Private: see kacc/support/activation.py.
from keras.src.ops import nn
from keras.src.ops import numpy as operators

from kacc.core.attach import base_class
from kacc.core.graph import Call
from kacc.core.remake import plain_config, remade
from kacc.restructuring.config import CheaperActivations
from kacc.restructuring.steps import Change, Outcome, Source, replaced

layers = keras.layers

# Layers and operators that are an activation, by its name in keras.activations.
ALONE: dict[type, str] = {
    layers.ELU: "elu",
    layers.LeakyReLU: "leaky_relu",
    nn.Celu: "celu",
    nn.Elu: "elu",
    nn.Gelu: "gelu",
    nn.LeakyRelu: "leaky_relu",
    nn.LogSigmoid: "log_sigmoid",
    nn.Selu: "selu",
    nn.Sigmoid: "sigmoid",
    nn.Silu: "silu",
    nn.Softplus: "softplus",
    nn.Softsign: "softsign",
    nn.SparsePlus: "sparse_plus",
    nn.Squareplus: "squareplus",
    nn.TanhShrink: "tanh_shrink",
    operators.Exp: "exponential",
    operators.Tanh: "tanh",
}


def swap(config: CheaperActivations, source: Source) -> Outcome:
    """Swaps the activations that the table names."""
    changes, reasons = {}, {}
    for key, calls in source.calls.items():
        operation, path = calls[0].operation, calls[0].path
        old = activation_of(operation)
        new = config.swaps.get(old or "")
        if new is None:
            continue
        reason = _reason(source, calls)
        if reason is not None:
            reasons[key] = f"{reason} ({old})"
            continue
        done = f"{old} -> {new}"
        if base_class(operation) in ALONE:
            changes[key] = Change((_alone(source, operation, new),), done, (None,))
            continue
        settings = plain_config(operation) | {"activation": new}
        changes[key] = Change((remade(operation, settings, path),), done, None)
    return replaced(type(config).__name__, source, changes, reasons)


def activation_of(operation: Any) -> str | None:
    """The name of the activation that an operation is or ends in, if it has one.

    Example:
        >>> activation_of(layers.Dense(2, activation="swish"))
        'silu'
    """
    alone = ALONE.get(base_class(operation))
    if alone is not None:
        return alone
    function = getattr(operation, "activation", None)
    if isinstance(function, keras.Layer):
        return ALONE.get(type(function))
    return getattr(function, "__name__", None)


def _alone(source: Source, operation: Any, name: str) -> Any:
    """The layer in the place of an operator or of a layer that is an activation."""
    if not isinstance(operation, keras.Layer):
        return layers.Activation(name, name=source.new_name(name))
    return layers.Activation(name, name=operation.name, dtype=operation.dtype_policy)


def _reason(source: Source, calls: Sequence[Call]) -> str | None:
    operation = calls[0].operation
    if source.is_skipped(calls):
        return "a rule skips it"
    if not type(operation).__module__.startswith("keras.") and not hasattr(
        keras.layers, base_class(operation).__name__
    ):
        return "it is no layer of Keras's own"
    if isinstance(operation, (layers.RNN, layers.MultiHeadAttention)):
        return "what recurrent layers remember depends on it"
    if any(tensor in source.outputs for call in calls for tensor in call.outputs):
        return "it makes an output of the model"
    return None
