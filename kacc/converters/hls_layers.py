"""A model rebuilt of the plain layers that hls4ml takes, with a type for each tensor.

hls4ml reads a Keras 3 model and a table of precisions by layer. Here a model of any
kind becomes both: batch normalizations folded, layers that are gone at inference left
out, activations as layers of their own, weights on their fixed-point grids.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from kacc.converters.fixed_type import Fixed, covering, exact
from kacc.converters.hls_numbers import Numbers, affine
from kacc.converters.hls_support import (
    KERNELS,
    MERGES,
    MOVES,
    POOLS,
    kind_of,
    only_activation,
    unsupported,
)
from kacc.core import registry
from kacc.core.errors import ConversionError
from kacc.core.graph import Call, Tensor
from kacc.core.registry import Output

layers = keras.layers

DEFAULT = Fixed(16, 6)  # hls4ml's, of tensors whose range nobody knows
_AFFINE_BITS = 16  # of a batch normalization that nothing swallows
# Bits before the point of what is never larger than one, and whether it has a sign.
_UNIT = {"sigmoid": (0, False), "softmax": (0, False), "tanh": (1, True)}
_POOLS = {name: getattr(layers, name) for name in POOLS}


@dataclass(frozen=True)
class Part:
    """A layer of the project.

    Args:
        name: in the project.
        path: of the layer of the model that it came from.
        layer: the Keras layer.
        types: by what they are of: "result", "weight", "bias", "accum", "scale".
        shape: of its output.
        macs: multiply-accumulates for one sample.
        weights: how many there are by type.
    """

    name: str
    path: str
    layer: Any
    types: Mapping[str, Fixed]
    shape: tuple[int | None, ...]
    macs: int = 0
    weights: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Value:
    """A tensor of the new model with its type."""

    symbol: Any
    type: Fixed


@dataclass(frozen=True)
class Plain:
    """The new model, its layers in order, and the types of its inputs and outputs."""

    model: Any
    parts: tuple[Part, ...]
    inputs: tuple[Fixed, ...]
    outputs: tuple[Fixed, ...]


def plain_model(numbers: Numbers, target: str) -> Plain:
    """The model for hls4ml.

    Args:
        numbers: of the model.
        target: for the error.

    Raises:
        ConversionError: if hls4ml has no such layers, which it names.
    """
    reasons = {
        call.path: reason
        for call in numbers.graph.calls
        if (reason := unsupported(call, numbers))
    }
    if reasons:
        raise ConversionError(
            f"The target {target!r} takes only layers that hls4ml has for an FPGA",
            received="; ".join(f"{path} ({why})" for path, why in reasons.items()),
            fix="Replace these layers, or choose another target",
        )
    return _Builder(numbers).run()


class _Builder:
    """Walks a graph once and adds a layer for each call."""

    def __init__(self, numbers: Numbers) -> None:
        self.numbers = numbers
        self.values: dict[Tensor, Value] = {}
        self.parts: list[Part] = []
        self.names: set[str] = set()
        self.swallowed = set(numbers.folded.values())

    def run(self) -> Plain:
        graph = self.numbers.graph
        inputs = [self._input(i, t) for i, t in enumerate(graph.inputs)]
        self.values.update(zip(graph.inputs, inputs, strict=True))
        for call in graph.calls:
            self.values[call.outputs[0]] = self._visit(call)
        outputs = [self.values[tensor] for tensor in graph.outputs]
        model = keras.Model([v.symbol for v in inputs], [v.symbol for v in outputs])
        return Plain(
            model,
            tuple(self.parts),
            tuple(value.type for value in inputs),
            tuple(value.type for value in outputs),
        )

    def _input(self, position: int, tensor: Tensor) -> Value:
        name = self._name(f"input_{position + 1}")
        symbol = keras.Input(tensor.shape[1:], name=name, dtype="float32")
        result = self._tensor_type(tensor, DEFAULT)
        shape = tuple(tensor.shape)
        self.parts.append(Part(name, name, None, {"result": result}, shape))
        return Value(symbol, result)

    def _visit(self, call: Call) -> Value:
        spec, kind = registry.find(call.operation), kind_of(call)
        assert spec is not None
        values = [self.values[tensor] for tensor in call.inputs]
        if spec.output is Output.IDENTITY or call in self.swallowed:
            return values[0]
        if kind in KERNELS:
            return self._linear(call, kind, values[0])
        if kind == "BatchNormalization":
            return self._affine(call, values[0])
        if kind in POOLS:
            return self._pool(call, kind, values[0])
        if kind in MERGES:
            return self._merge(call, kind, values)
        if kind in MOVES:
            layer = layers.Reshape(call.outputs[0].shape[1:])
            return self._add(call, layer, values[0], {"result": values[0].type})
        return self._activation(call, values[0])

    def _end(self, call: Call) -> Tensor:
        """What a call makes, with the batch normalization behind it."""
        behind = self.numbers.folded.get(call)
        return (call if behind is None else behind).outputs[0]

    def _tensor_type(
        self, tensor: Tensor, natural: Fixed, positive: bool = False
    ) -> Fixed:
        """The type of a tensor: by its range, or the one that loses nothing."""
        ends = self.numbers.ends.get(tensor)
        if ends is None:
            return natural if self.numbers.calibrated else DEFAULT
        low = max(ends[0], 0.0) if positive else ends[0]
        return covering(low, ends[1], self.numbers.bits)

    def _linear(self, call: Call, kind: str, x: Value) -> Value:
        """A product with its bias, in an accumulator that cannot overflow."""
        weights = self.numbers.weights(call)
        kernel_type = covering(weights.kernel.min(), weights.kernel.max(), weights.bits)
        kernel = kernel_type.round(weights.kernel)
        fraction = x.type.fraction + kernel_type.fraction
        limit = float(np.abs(weights.bias).max())
        bias_type = exact(-limit, limit, fraction)
        bias = bias_type.round(weights.bias)
        summed = (0, 1)[: kernel.ndim - 2] if "Depthwise" in kind else None
        axes = summed or tuple(range(kernel.ndim - 1))
        sums = np.abs(kernel).sum(axis=axes).reshape(-1) * x.type.magnitude
        bound = float((sums + np.abs(bias)).max())
        accumulator = exact(-bound, bound, fraction)
        result = self._before(call, accumulator)
        types = {
            "result": result,
            "weight": kernel_type,
            "bias": bias_type,
            "accum": accumulator,
        }
        layer = _KERNEL_LAYERS[kind](call.operation)
        sizes = {"weight": kernel.size, "bias": bias.size}
        linear = self._add(call, layer, x, types, [kernel, bias], sizes)
        return self._activation(call, linear)

    def _before(self, call: Call, accumulator: Fixed) -> Fixed:
        """The type of a product's result, which an activation may read."""
        spec = registry.find(call.operation)
        assert spec is not None
        name = spec.activation(call.operation) if spec.activation else "linear"
        if name == "linear":
            return self._tensor_type(self._end(call), accumulator)
        if call in self.numbers.before:
            return covering(*self.numbers.before[call], self.numbers.bits)
        return accumulator

    def _activation(self, call: Call, x: Value) -> Value:
        spec = registry.find(call.operation)
        assert spec is not None
        name = spec.activation(call.operation) if spec.activation else "linear"
        if name == "linear" and not only_activation(call):
            return x
        if name in _UNIT:
            result = Fixed(self.numbers.bits, *_UNIT[name])
        else:
            positive = name in ("relu", "relu6")
            result = self._tensor_type(self._end(call), x.type, positive)
        layer = layers.Softmax() if name == "softmax" else layers.Activation(name)
        return self._add(call, layer, x, {"result": result})

    def _affine(self, call: Call, x: Value) -> Value:
        """A batch normalization that no layer swallows, as a product and a sum."""
        factor, offset = affine(call.operation)
        ends = min(0.0, float(factor.min())), float(np.abs(factor).max())
        scale_type = covering(*ends, _AFFINE_BITS)
        scale = scale_type.round(factor)
        fraction = x.type.fraction + scale_type.fraction
        limit = float(np.abs(offset).max())
        bias_type = exact(-limit, limit, fraction)
        bias = bias_type.round(offset)
        bound = float((np.abs(scale) * x.type.magnitude + np.abs(bias)).max())
        natural = exact(-bound, bound, fraction)
        result = self._tensor_type(call.outputs[0], natural)
        types = {"result": result, "scale": scale_type, "bias": bias_type}
        layer = layers.BatchNormalization(epsilon=0.0)
        values = [scale, bias, np.zeros_like(bias), np.ones_like(bias)]
        sizes = {"scale": scale.size, "bias": bias.size}
        return self._add(call, layer, x, types, values, sizes)

    def _pool(self, call: Call, kind: str, x: Value) -> Value:
        old, largest = call.operation, "Max" in kind
        if largest and getattr(old, "padding", "valid") == "same":
            x = self._signed(call, x)  # hls4ml pads with the sign bit alone
        if "Global" in kind:
            layer = _POOLS[kind]()
            count = math.prod(n or 1 for n in call.inputs[0].shape[1:-1])
        else:
            layer = _POOLS[kind](old.pool_size, old.strides, old.padding)
            count = math.prod(np.atleast_1d(old.pool_size).tolist())
        more = math.ceil(math.log2(count)) if count > 1 else 0
        wide = Fixed(x.type.width + 2 * more + 2, x.type.integer + more, x.type.signed)
        accumulator = x.type if largest else wide
        mean = self._tensor_type(call.outputs[0], x.type, positive=not x.type.signed)
        types = {"result": x.type if largest else mean, "accum": accumulator}
        pooled = self._add(call, layer, x, types)
        if not getattr(old, "keepdims", False):
            return pooled
        shape = layers.Reshape(call.outputs[0].shape[1:])
        return self._add(call, shape, pooled, {"result": pooled.type})

    def _signed(self, call: Call, x: Value) -> Value:
        if x.type.signed:
            return x
        types = {"result": x.type.with_sign()}
        return self._add(call, layers.Activation("linear"), x, types)

    def _merge(self, call: Call, kind: str, values: list[Value]) -> Value:
        """Two tensors at a time, since hls4ml's operators have two."""
        result = values[0]
        for number, value in enumerate(values[1:], 2):
            natural = _joined(kind, result.type, value.type)
            last = number == len(values)
            mine = self._tensor_type(call.outputs[0], natural) if last else natural
            layer = _merge_layer(call, kind)
            pair = [result.symbol, value.symbol]
            result = self._add(call, layer, Value(pair, natural), {"result": mine})
        return result

    def _add(
        self,
        call: Call,
        layer: Any,
        x: Value,
        types: Mapping[str, Fixed],
        weights: list[np.ndarray] | None = None,
        sizes: Mapping[str, int] | None = None,
    ) -> Value:
        """Adds a layer to the model, with its weights and types."""
        kind = layer.get_config().get("activation") if weights is None else None
        again = any(part.path == call.path for part in self.parts)
        suffix = f"_{kind or type(layer).__name__.lower()}" if again else ""
        name = self._name(call.path + suffix)
        layer = type(layer).from_config({**layer.get_config(), "name": name})
        symbol = layer(x.symbol)
        if weights is not None:
            layer.set_weights(weights)
        size = (sizes or {}).get("weight", 0)
        positions = math.prod(n or 1 for n in symbol.shape[1:-1])
        shape = tuple(symbol.shape)
        self.parts.append(
            Part(name, call.path, layer, types, shape, size * positions, sizes or {})
        )
        return Value(symbol, types["result"])

    def _name(self, path: str) -> str:
        """A name for C++, made of a layer's path."""
        stem = re.sub(r"\W", "_", path, flags=re.ASCII)
        stem = stem if stem[:1].isalpha() else f"layer_{stem}"
        name, number = stem, 1
        while name in self.names:
            number += 1
            name = f"{stem}_{number}"
        self.names.add(name)
        return name


def _joined(kind: str, one: Fixed, other: Fixed) -> Fixed:
    """The type that holds whatever a merge of two types gives."""
    fraction = max(one.fraction, other.fraction)
    if kind == "Multiply":
        fraction = one.fraction + other.fraction
        corners = [a * b for a in (one.low, one.high) for b in (other.low, other.high)]
    elif kind == "Add":
        corners = [one.low + other.low, one.high + other.high]
    elif kind == "Subtract":
        corners = [one.low - other.high, one.high - other.low]
    else:
        corners = [one.low, other.low, one.high, other.high]
    return exact(min(corners), max(corners), fraction)


def _merge_layer(call: Call, kind: str) -> Any:
    if kind == "Concatenate":
        return layers.Concatenate(axis=call.operation.axis)
    return getattr(layers, kind)()


def _conv(cls: type) -> Callable[[Any], Any]:
    return lambda old: cls(old.filters, old.kernel_size, old.strides, old.padding)


def _depthwise(cls: type) -> Callable[[Any], Any]:
    return lambda old: cls(old.kernel_size, old.strides, old.padding)


_KERNEL_LAYERS: dict[str, Callable[[Any], Any]] = {
    "Dense": lambda old: layers.Dense(old.units),
    "Conv1D": _conv(layers.Conv1D),
    "Conv2D": _conv(layers.Conv2D),
    "DepthwiseConv1D": _depthwise(layers.DepthwiseConv1D),
    "DepthwiseConv2D": _depthwise(layers.DepthwiseConv2D),
}
