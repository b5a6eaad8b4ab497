"""Mixed precision for a model that is there already.

Micikevicius et al. 2018, arXiv:1710.03740: products in half precision, weights and
their updates in float32, the loss scaled for float16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras

from kacc.acceleration.changes import (
    check_model,
    layers_by_path,
    note,
    notes,
    set_optimizer,
    take,
)
from kacc.core import attach
from kacc.core.errors import UsageError

DTYPES = ("bfloat16", "float16", "float32")

_LossScale = keras.optimizers.LossScaleOptimizer


@dataclass(frozen=True)
class Precision:
    """What `mixed_precision` did.

    Args:
        changed: paths of the layers that compute in the type now.
        kept: path of each other layer -> why it was left alone.
    """

    changed: tuple[str, ...]
    kept: Mapping[str, str]


def mixed_precision(model: keras.Model, dtype: str = "bfloat16") -> Precision:
    """Lets the layers of a model compute in half precision, or in float32 again.

    Their dtype policies are changed in place; weights stay float32, and the model is
    saved as a plain Keras model with these policies. Layers that make the model's
    outputs and those that prepare inputs stay in float32. With "float16" the optimizer
    of a compiled model is wrapped to scale the loss; its slots stay. So compile first:
    `compile` afterwards sets an optimizer that scales nothing.

    Args:
        model: any Keras 3 model on the TensorFlow backend; compiled or not.
        dtype: "bfloat16", "float16", or "float32", which is the way back and unwraps
            the optimizer.

    Returns:
        The paths of the layers that were changed, and why others were not.

    Raises:
        UsageError: for anything but such a model, or another type.

    Example:
        >>> import keras
        >>> dense = keras.layers.Dense
        >>> model = keras.Sequential([keras.Input((4,)), dense(8), dense(2)])
        >>> len(mixed_precision(model).changed), model.layers[0].compute_dtype
        (1, 'bfloat16')
        >>> len(mixed_precision(model, "float32").changed)
        1
    """
    check_model(model)
    if dtype not in DTYPES:
        raise UsageError("The type must be one of " + ", ".join(DTYPES), received=dtype)
    done = _to_float32(model) if dtype == "float32" else _to_half(model, dtype)
    attach.refresh_functions(model)
    return done


def _to_half(model: keras.Model, dtype: str) -> Precision:
    policy = keras.DTypePolicy(f"mixed_{dtype}")
    outputs = _output_makers(model)
    changed: list[str] = []
    kept: dict[str, str] = {}
    for path, layer in layers_by_path(model):
        reason = _reason(model, layer, outputs)
        if reason is None:
            note(model, f"policy {id(layer)}", (layer, layer.dtype_policy))
            layer.dtype_policy = policy
            changed.append(path)
        elif reason:
            kept[path] = reason
    if dtype == "float16":
        _scale_loss(model)
    else:
        _unscale_loss(model)
    return Precision(tuple(changed), kept)


def _to_float32(model: keras.Model) -> Precision:
    """Back: by what was noted, or of a model that was loaded by what it has."""
    before = {id(layer): policy for layer, policy in take(model, "policy ")}
    changed = []
    for path, layer in layers_by_path(model):
        if _policy_name(layer).startswith("mixed_"):
            layer.dtype_policy = before.get(id(layer), keras.DTypePolicy("float32"))
            changed.append(path)
    _unscale_loss(model)
    return Precision(tuple(changed), {})


def _reason(model: keras.Model, layer: Any, outputs: set[int]) -> str | None:
    """Why a layer keeps its policy; None if it does not, "" if nobody would ask."""
    if layer is model or isinstance(layer, keras.layers.InputLayer):
        return ""
    if not layer.autocast:
        return ""
    name = _policy_name(layer)
    if name not in ("float32", "mixed_bfloat16", "mixed_float16"):
        return f"its dtype policy is {name}"
    if id(layer) in outputs:
        return "it makes an output of the model"
    # Pixels and their statistics have more digits than half precision keeps.
    if ".layers.preprocessing." in type(layer).__module__:
        return "it prepares inputs"
    return None


def _policy_name(layer: Any) -> str:
    return str(getattr(layer.dtype_policy, "name", ""))


def _output_makers(model: Any) -> set[int]:
    """The layers that make the model's outputs, inside nested models too.

    Of a model whose graph is not known, those that make probabilities.
    """
    tensors = getattr(model, "outputs", None)
    if not tensors:
        return {id(x) for x in model._flatten_layers() if _makes_probabilities(x)}
    makers: set[int] = set()
    for tensor in keras.tree.flatten(tensors):
        operation = tensor._keras_history.operation
        makers.add(id(operation))
        if isinstance(operation, keras.Model):
            makers |= _output_makers(operation)
    return makers


def _makes_probabilities(layer: Any) -> bool:
    activation = getattr(layer, "activation", None)
    return isinstance(layer, keras.layers.Softmax) or (
        activation in (keras.activations.softmax, keras.activations.sigmoid)
    )


def _scale_loss(model: keras.Model) -> None:
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or isinstance(optimizer, _LossScale):
        return
    note(model, "optimizer", optimizer)
    note(model, "loss_scale_factor", optimizer.loss_scale_factor)
    scaled = _LossScale(optimizer)
    if optimizer.built:
        scaled.build(list(optimizer._trainable_variables))
    set_optimizer(model, scaled)


def _unscale_loss(model: keras.Model) -> None:
    optimizer = getattr(model, "optimizer", None)
    if isinstance(optimizer, _LossScale):
        inner = optimizer.inner_optimizer
        inner.loss_scale_factor = notes(model).get("loss_scale_factor")
        set_optimizer(model, inner)
    take(model, "optimizer")
    take(model, "loss_scale_factor")
