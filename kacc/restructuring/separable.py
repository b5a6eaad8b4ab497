"""Standard convolutions into depthwise-separable ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kacc.core import patches
from kacc.core.attach import base_class
from kacc.core.graph import Call
from kacc.core.samples import ROWS, sampled
from kacc.restructuring import functional
from kacc.restructuring.config import SeparableConvolutions
from kacc.restructuring.steps import Change, Outcome, Source, replaced

layers = keras.layers

# Convolution -> the depthwise one, and both in one layer.
TYPES = {
    layers.Conv1D: (layers.DepthwiseConv1D, layers.SeparableConv1D),
    layers.Conv2D: (layers.DepthwiseConv2D, layers.SeparableConv2D),
}
LARGEST = 5000  # rows of a kernel, taps included; their moments take 200 MB


@dataclass(frozen=True, eq=False)
class _Moments:
    """Covariance of the patches that a kernel multiplies, and their mean."""

    covariance: np.ndarray
    mean: np.ndarray


def separate(config: SeparableConvolutions, source: Source) -> Outcome:
    """Makes convolutions depthwise-separable."""
    reasons, targets = {}, {}
    for key, calls in source.calls.items():
        if isinstance(calls[0].operation, (layers.Conv1D, layers.Conv2D)):
            reason = _reason(source, calls)
            if reason is None:
                targets[key] = calls
            else:
                reasons[key] = reason
    moments = _moments(source, targets) if source.batches else {}
    changes = {}
    for key, (call, *_) in targets.items():
        found = _separated(config, source, call.operation, moments.get(key))
        if isinstance(found, str):
            reasons[key] = found
        else:
            changes[key] = found
    return replaced(type(config).__name__, source, changes, reasons)


def _reason(source: Source, calls: Sequence[Call]) -> str | None:
    layer = calls[0].operation
    if source.is_skipped(calls):
        return "a rule skips it"
    if base_class(layer) not in TYPES:
        return f"its type {type(layer).__name__} may do anything with the kernel"
    if getattr(layer, "quantization_mode", None) or getattr(
        layer, "lora_enabled", False
    ):
        return "Keras has quantized it or given it a LoRA"
    if layer.kernel_constraint is not None:
        return "the constraint of its kernel would not hold for factors"
    return _shape_reason(layer)


def _shape_reason(layer: Any) -> str | None:
    if layer.groups != 1:
        return "it is grouped"
    if layer.data_format != "channels_last":
        return "its channels come first"
    if math.prod(layer.kernel_size) == 1:
        return "it has one tap"
    if layer.padding == "causal":
        return "depthwise convolutions have no causal padding"
    for name in ("strides", "dilation_rate"):
        if len(set(getattr(layer, name))) > 1:
            return f"depthwise convolutions need equal {name} along all axes"
    return None


def _separated(
    config: SeparableConvolutions, source: Source, layer: Any, moments: _Moments | None
) -> Change | str:
    kernel = np.asarray(keras.ops.convert_to_numpy(layer.kernel), np.float64)
    kernel = kernel.reshape(-1, *kernel.shape[-2:])
    taps, _, outputs = kernel.shape
    full = min(taps, outputs)
    for multiplier in range(min(config.depth_multiplier, full), full + 1):
        if config.only_if_smaller and multiplier * (taps + outputs) >= taps * outputs:
            return f"a depth multiplier of {multiplier} would save nothing"
        factors, kept = _factors(kernel, multiplier, moments)
        if config.energy is None or kept >= config.energy or multiplier == full:
            break
    change = _as_one_layer if config.as_one_layer else _as_two_layers
    made, kernels = change(source, layer, factors)
    if layer.use_bias:
        bias = keras.ops.convert_to_numpy(layer.bias)
        if moments is not None:
            missing = kernel - functional.product(*factors)
            bias = bias + moments.mean @ missing.reshape(-1, outputs)
        kernels[-1].append(bias)
    what = "weights" if moments is None else "outputs"
    done = f"separable, multiplier {multiplier}, {kept:.1%} of the {what}' energy kept"
    return Change(made, done, tuple(kernels))


def _factors(
    kernel: np.ndarray, multiplier: int, moments: _Moments | None
) -> tuple[tuple[np.ndarray, np.ndarray], float]:
    depthwise, pointwise, kept = functional.separable(kernel, multiplier)
    if moments is None:
        return (depthwise, pointwise), float(kept[multiplier - 1])
    covariance = moments.covariance
    fitted = functional.refined(kernel, depthwise, pointwise, covariance)
    nothing = np.zeros_like(depthwise)
    whole = functional.error(kernel, nothing, pointwise, covariance)
    lost = functional.error(kernel, *fitted, covariance)
    return fitted, 1 - lost / max(whole, 1e-30)


def _as_two_layers(source: Source, layer: Any, factors: Any) -> tuple[Any, Any]:
    depthwise, pointwise = factors
    cls, _ = TYPES[base_class(layer)]
    rank = len(layer.kernel_size)
    first = cls(
        layer.kernel_size,
        strides=layer.strides,
        padding=layer.padding,
        dilation_rate=layer.dilation_rate,
        depth_multiplier=depthwise.shape[-1],
        use_bias=False,
        dtype=layer.dtype_policy,
        trainable=layer.trainable,
        name=source.new_name(f"{layer.name}_depthwise"),
    )
    one = (1,) * rank
    last = base_class(layer).from_config(
        base_class(layer).get_config(layer)
        | {"kernel_size": one, "strides": one, "dilation_rate": one}
        | {"padding": "valid"}
    )
    return (first, last), [[_shaped(layer, depthwise)], [_row(rank, pointwise)]]


def _as_one_layer(source: Source, layer: Any, factors: Any) -> tuple[Any, Any]:
    depthwise, pointwise = factors
    _, cls = TYPES[base_class(layer)]
    rank = len(layer.kernel_size)
    new = cls(
        layer.filters,
        layer.kernel_size,
        strides=layer.strides,
        padding=layer.padding,
        dilation_rate=layer.dilation_rate,
        depth_multiplier=depthwise.shape[-1],
        activation=layer.activation,
        use_bias=layer.use_bias,
        bias_initializer=layer.bias_initializer,
        pointwise_regularizer=layer.kernel_regularizer,
        bias_regularizer=layer.bias_regularizer,
        activity_regularizer=layer.activity_regularizer,
        bias_constraint=layer.bias_constraint,
        dtype=layer.dtype_policy,
        trainable=layer.trainable,
        name=layer.name,
    )
    return (new,), [[_shaped(layer, depthwise), _row(rank, pointwise)]]


def _shaped(layer: Any, depthwise: np.ndarray) -> np.ndarray:
    return depthwise.reshape(*layer.kernel_size, *depthwise.shape[-2:])


def _row(rank: int, pointwise: np.ndarray) -> np.ndarray:
    return pointwise.reshape(*(1,) * rank, -1, pointwise.shape[-1])


def _moments(
    source: Source, targets: Mapping[int, Sequence[Call]]
) -> dict[int, _Moments]:
    """Of each kernel's patches; with a bias, which takes up a constant, centered."""
    random = np.random.default_rng(0)
    rows: dict[int, list[np.ndarray]] = {
        key: []
        for key, (call, *_) in targets.items()
        if math.prod(call.operation.kernel.shape[:-1]) <= LARGEST
    }

    def apply(call: Call, args: Any, kwargs: Any) -> None:
        if id(call.operation) in rows:
            layer = call.operation
            size = math.prod(layer.kernel.shape[:-1])
            parts = len(source.batches) * len(targets[id(layer)])
            found = patches.rows(layer, args[0] if args else kwargs["inputs"])
            most = max(ROWS, 2 * size)
            rows[id(layer)].append(sampled(found, random, parts, most))

    source.run(apply)
    result = {}
    for key, parts in rows.items():
        x = np.concatenate(parts)
        layer = targets[key][0].operation
        mean = x.mean(axis=0) if layer.use_bias else np.zeros(x.shape[1])
        covariance = (x - mean).T @ (x - mean) / len(x)
        ridge = 1e-3 * max(float(covariance.trace()) / len(covariance), 1e-12)
        covariance += ridge * np.eye(len(covariance))
        result[key] = _Moments(covariance, mean)
    return result
