"""The file's operators, as the rows in `kacc/support` use them for the simulation."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from kacc.core import attach, registry
from kacc.core.graph import Call
from kacc.quantization import integer
from kacc.quantization.config import Scheme
from kacc.quantization.integer import Grid, Quantized
from kacc.quantization.kernels import BuiltIn
from kacc.quantization.transform import Quantize, grid_named, quantize_of
from kacc.quantization.weights import (
    FileWeights,
    IntegerWeight,
    file_weights,
    fitted_to_bias,
)


class Operators:
    """The operators that the file has for one call of a layer.

    Args:
        layer: the layer or operator.
        end: who holds the range of the output, and its name there: the layer at the
            end of a fused chain.
        batch_norm: the call that is folded in, or None.
        kernels: the arithmetic.
        on_constant: called with the values of each constant operand.
    """

    def __init__(
        self,
        layer: Any,
        end: tuple[Quantize, str] | None,
        batch_norm: Call | None,
        kernels: BuiltIn,
        on_constant: Callable[[Any], Any] | None = None,
    ) -> None:
        self.layer = layer
        self.kernels = kernels
        self.own = quantize_of(layer)
        self.end = end
        self.batch_norm = batch_norm
        self.on_constant = on_constant or (lambda values: None)

    @property
    def symmetric(self) -> bool:
        """Whether zero points are 0."""
        return self._scheme.symmetric

    @property
    def _scheme(self) -> Scheme:
        holder = self.own or (self.end and self.end[0])
        assert holder is not None
        return holder.scheme

    def grid(self, name: str) -> Grid:
        """The grid of one of the layer's tensors."""
        if name == "output":
            assert self.end is not None
            return grid_named(*self.end)
        assert self.own is not None
        return grid_named(self.own, name)

    def weights(self) -> FileWeights:
        """The layer's weights, folded and rounded."""
        spec = registry.find(self.layer)
        assert spec is not None
        folded = self.batch_norm and self.batch_norm.operation
        return file_weights(self.layer, spec, self.own, folded)

    def linear(self, x: Quantized, name: str, kind: str | None = None) -> Quantized:
        """CONV_2D, DEPTHWISE_CONV_2D or FULLY_CONNECTED: the layer's own product.

        Args:
            x: the input.
            name: of the output.
            kind: as in `rescale`; by default the weights tell it.
        """
        spec = registry.find(self.layer)
        assert spec is not None
        attribute = spec.weights[0].attribute
        file = self.weights()

        def product(values: Any, kernel: Any) -> Any:
            scope = keras.StatelessScope()
            scope.state_mapping[id(getattr(self.layer, attribute))] = kernel
            bias = getattr(self.layer, spec.bias or "", None)
            if bias is not None:
                scope.state_mapping[id(bias)] = tf.zeros(bias.shape)
            with scope, attach.without_activation(self.layer):
                return attach.own_call(self.layer, None, values)

        weight = self.fitted(
            file.weights[attribute], spec.weights[0], file.bias, x.grid
        )
        acc = exact_product(x, weight.integers, spec.weights[0], product)
        kind = kind or _kind(spec.weights[0], len(weight.integers.shape))
        return self.rescale(acc, x.grid, weight, file.bias, name, kind)

    def fitted(
        self, weight: IntegerWeight, row: registry.Weight, bias: Any, grid: Grid
    ) -> IntegerWeight:
        """A weight as the file has it with a bias and an input on that grid."""
        if weight.explicit:
            return weight
        numbers = 0.0 if bias is None else bias
        return fitted_to_bias(weight, row.channels, numbers, grid.scale)

    def rescale(
        self,
        acc: Any,
        grid: Grid,
        weight: IntegerWeight,
        bias: Any,
        name: str,
        kind: str,
    ) -> Quantized:
        """Accumulators plus the int32 bias, on the grid of the output.

        Args:
            acc: exact sums of products.
            grid: of the input.
            weight: what the input was multiplied by.
            bias: float, or None.
            name: of the output.
            kind: "conv", "grouped", "transpose", "depthwise" or "dense".
        """
        if bias is not None:
            # What is written after the conversion starts from the file's float32.
            scale = _f64(grid.scale32) if weight.explicit else grid.scale
            step = scale * weight.scale
            acc = _f64(acc) + tf.round(_f64(bias) / step)
        scales = (grid.scale32, tf.cast(weight.scale, tf.float32))
        delegated = weight.bits == 8 or _reads_nibbles(weight, kind)
        return self.kernels.linear(acc, scales, self.grid(name), kind, delegated)

    def scale_channels(
        self, x: Quantized, factor: Any, offset: Any, name: str
    ) -> Quantized:
        """A 1x1 DEPTHWISE_CONV_2D: each weight is the largest integer of its scale."""
        largest = 127.0
        scale = tf.abs(tf.cast(factor, tf.float64)) / largest
        weight = IntegerWeight(tf.sign(factor) * largest, factor, scale)
        weight = self.fitted(weight, registry.Weight("factor"), offset, x.grid)
        acc = x.centered * weight.integers
        return self.rescale(acc, x.grid, weight, offset, name, "depthwise")

    def exact(
        self, x: Quantized, kernel: Any, product: Callable[[Any, Any], Any]
    ) -> Any:
        """The exact sums of a product that goes over all input channels."""
        return exact_product(x, kernel, registry.Weight("kernel"), product)

    def exact_by_channel(
        self, x: Quantized, kernel: Any, product: Callable[[Any, Any], Any]
    ) -> Any:
        """The exact sums of a product of each input channel."""
        weight = registry.Weight("kernel", inputs=None)
        return exact_product(x, kernel, weight, product)

    def add(self, a: Quantized, b: Quantized, name: str) -> Quantized:
        """ADD."""
        return self.kernels.add(a, b, self.grid(name))

    def multiply(self, a: Quantized, b: Quantized, name: str) -> Quantized:
        """MUL."""
        return self.kernels.multiply(a, b, self.grid(name))

    def constant(self, value: Any) -> Quantized:
        """A constant operand: the converter quantizes it by its own smallest range."""
        self.on_constant(value)
        array = tf.convert_to_tensor(value, tf.float64)
        if self.symmetric:
            largest = tf.cast(tf.reduce_max(tf.abs(array)), tf.float32)
            return integer.quantize(array, integer.symmetric_grid(largest))
        low = tf.minimum(tf.reduce_min(array), 0.0)
        high = tf.maximum(tf.reduce_max(array), 0.0)
        scale = (high - low) / 255.0
        grid = Grid(scale, tf.cast(tf.round(-128.0 - low / scale), tf.float32))
        return integer.quantize(array, grid)

    def lookup(self, table: Any, indices: Any, name: str) -> Quantized:
        """GATHER from a table on the grid of the output."""
        self.on_constant(table)
        rows = integer.quantize(table, self.grid(name))
        whole = tf.cast(indices, tf.int32)
        return Quantized(tf.gather(rows.integers, whole), rows.grid)

    def mean(
        self, x: Quantized, axes: Sequence[int], keepdims: bool, name: str
    ) -> Quantized:
        """MEAN."""
        return self.kernels.mean(x, axes, keepdims, self.grid(name))

    def concatenate(self, parts: Sequence[Quantized], axis: int, name: str) -> Any:
        """CONCATENATION, after a QUANTIZE of each part to the output's grid."""
        grid = self.grid(name)
        moved = [self.kernels.requantize(x, grid).integers for x in parts]
        return Quantized(tf.concat(moved, axis), grid)

    def average(self, x: Quantized, pool: Callable[[Any], Any]) -> Quantized:
        """AVERAGE_POOL_2D; `pool` averages a float64 tensor."""
        return self.kernels.average(x, pool(tf.cast(x.integers, tf.float64)))

    def move(self, x: Quantized, function: Callable[[Any], Any]) -> Quantized:
        """An operator that only moves values; what it pads with is a real zero."""
        return Quantized(function(x.centered) + x.grid.zero, x.grid)

    def stack(self, parts: Sequence[Quantized], axis: int, name: str) -> Any:
        """PACK, after a QUANTIZE of each part to the output's grid."""
        grid = self.grid(name)
        moved = [self.kernels.requantize(x, grid).integers for x in parts]
        return Quantized(tf.stack(moved, axis), grid)

    def extreme(self, parts: Sequence[Any], largest: bool, name: str) -> Quantized:
        """MAXIMUM or MINIMUM of tensors and constants, all on the output's grid.

        Args:
            parts: tensors on a grid, or constants.
            largest: whether the largest is wanted, or the smallest.
            name: of the output.
        """
        grid = self.grid(name)
        join = tf.maximum if largest else tf.minimum
        for constant in parts:
            if not isinstance(constant, Quantized):
                self.on_constant(constant)
        moved = [
            self.kernels.requantize(x, grid)
            if isinstance(x, Quantized)
            else integer.quantize(x, grid)
            for x in parts
        ]
        return Quantized(functools.reduce(join, [x.integers for x in moved]), grid)

    def resize_bilinear(self, x: Quantized, size: tuple[int, int]) -> Quantized:
        """RESIZE_BILINEAR with half pixel centers, on the grid of the input."""
        return self.kernels.resize_bilinear(x, size)

    def sqrt(self, x: Quantized, name: str) -> Quantized:
        """SQRT."""
        return self.kernels.sqrt(x, self.grid(name))

    def rsqrt(self, x: Quantized, name: str) -> Quantized:
        """RSQRT."""
        return self.kernels.rsqrt(x, self.grid(name))

    def softmax(self, x: Quantized, name: str) -> Quantized:
        """SOFTMAX over the last axis."""
        return self.kernels.softmax(x, self.grid(name))

    def relu(self, x: Quantized, name: str) -> Quantized:
        """RELU or RELU6 on its own."""
        return self.kernels.relu(x, self.grid(name))

    def prelu(self, x: Quantized, slopes: IntegerWeight, name: str) -> Quantized:
        """PRELU."""
        return self.kernels.prelu(x, slopes, self.grid(name))

    def requantize(self, x: Quantized, name: str) -> Quantized:
        """QUANTIZE of integers."""
        return self.kernels.requantize(x, self.grid(name))

    def minimum(self, x: Quantized, limit: float) -> Quantized:
        """MINIMUM with a number, on the grid of the input."""
        self.on_constant(limit)
        return self.kernels.minimum(x, integer.quantize(tf.constant(limit), x.grid))

    def maximum(self, x: Quantized, limit: float) -> Quantized:
        """MAXIMUM with a number, on the grid of the input."""
        self.on_constant(limit)
        return self.kernels.maximum(x, integer.quantize(tf.constant(limit), x.grid))

    def rectified(self, x: Quantized, most: float | None = None) -> Quantized:
        """A RELU, or with 6 a RELU6, that the operator before it ends in."""
        values = tf.maximum(x.integers, x.grid.zero)
        if most is not None:
            end = x.grid.zero + tf.round(most / x.grid.scale32)
            values = tf.minimum(values, end)
        return Quantized(values, x.grid)

    def divide(self, a: Quantized, b: Quantized, name: str) -> Quantized:
        """DIV."""
        return self.kernels.divide(a, b, self.grid(name))

    def leaky_relu(self, x: Quantized, slope: float, name: str) -> Quantized:
        """LEAKY_RELU."""
        return self.kernels.leaky_relu(x, slope, self.grid(name))

    def subtract(self, a: Quantized, b: Quantized, name: str) -> Quantized:
        """SUB."""
        return self.kernels.add(a, b, self.grid(name), sign=-1)

    def hard_swish(self, x: Quantized, name: str) -> Quantized:
        """HARD_SWISH."""
        return self.kernels.hard_swish(x, self.grid(name))

    def table(
        self,
        x: Quantized,
        function: Callable[[Any], Any],
        name: str,
        stepwise: Callable[[Any], Any] | None = None,
    ) -> Quantized:
        """LOGISTIC and the like: rint(f(x) / s) + z of each of the 256 values.

        Args:
            x: the input.
            function: of a float tensor.
            name: of the output.
            stepwise: the function of float32 as the 16 bit kernel computes it, where
                that is more than its result rounded once.
        """
        return self.kernels.table(x, function, self.grid(name), stepwise)


def _reads_nibbles(weight: IntegerWeight, kind: str) -> bool:
    """Whether XNNPACK takes weights of 4 bits: rows of a matrix in whole bytes."""
    return kind == "dense" and weight.integers.shape[0] % 2 == 0


def _kind(weight: registry.Weight, rank: int) -> str:
    """Of a product with that weight: see `Operators.rescale`."""
    if weight.inputs is None:
        return "depthwise"
    if weight.inputs == -1:
        return "transpose"
    return "dense" if rank == 2 else "conv"


def exact_product(
    x: Quantized, kernel: Any, weight: registry.Weight, product: Callable[..., Any]
) -> Any:
    """A product of integers with an exact sum.

    That of 16 bit integers is one of their high bytes and one of their low bytes.

    Args:
        x: input channels last.
        kernel: integers, float32.
        weight: says which axis of the kernel is summed over, if any.
        product: (values, kernel) -> sums.
    """
    if x.grid.bits == 8:
        return _exact_product(x.centered, kernel, weight, product)
    high = tf.floor(x.integers / 256.0)
    low = x.integers - 256.0 * high
    sums = [_f64(_exact_product(v, kernel, weight, product)) for v in (high, low)]
    return 256.0 * sums[0] + sums[1]


def _exact_product(
    values: Any, kernel: Any, weight: registry.Weight, product: Callable[..., Any]
) -> Any:
    """The same of integers within -255..255, in float32 parts where that is enough.

    Args:
        values: float32, input channels last.
        kernel: integers, float32.
        weight: says which axis of the kernel is summed over, if any.
        product: (values, kernel) -> sums.
    """
    if weight.inputs is None:
        return product(values, kernel)
    axis = weight.inputs % len(kernel.shape)
    inputs = kernel.shape[axis]
    outputs = math.prod(kernel.shape[channel] for channel in weight.channels)
    per_channel = math.prod(kernel.shape) // (inputs * outputs)
    part = max(1, integer.EXACT_PRODUCTS // per_channel)
    if inputs <= part:
        return product(values, kernel)
    total = tf.constant(0.0, tf.float64)
    for start in range(0, inputs, part):
        stop = min(start + part, inputs)
        if values.shape[-1] == inputs:
            some = tf.gather(kernel, range(start, stop), axis=axis)
            piece = product(values[..., start:stop], some)
        else:  # grouped: the kernel keeps its shape, the other channels are zeroed
            inside = tf.range(values.shape[-1]) % inputs
            mask = tf.cast((inside >= start) & (inside < stop), values.dtype)
            piece = product(values * mask, kernel)
        total = total + tf.cast(piece, tf.float64)
    return total


def _f64(value: Any) -> Any:
    return tf.cast(value, tf.float64)
