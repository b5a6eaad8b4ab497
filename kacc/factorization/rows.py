"""The layer types that are factored: kernel, inputs, and the layers for factors."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kacc.core import patches
from kacc.core.attach import base_class
from kacc.core.cost import INPUTS, OUTPUTS, macs_of, positions
from kacc.core.graph import Call

layers = keras.layers
Part = tuple[Any, dict[str, Any]]  # class and config of one of the new layers


@dataclass(frozen=True)
class Row:
    """How layers of one type are factored.

    Args:
        weight: the attribute that is the kernel.
        kernel: layer -> the kernel as (*taps, inputs, outputs).
        inputs: layer, a batch -> the rows that the kernel multiplies.
        parts: layer, a call of it, factors -> class and config of the new layers,
            without names, activations and biases.
        shapes: layer, factors -> the factors in the shapes of the new layers' kernels.
        positions: a call, where -> how often a part is applied.
        reason: why this layer cannot be factored, or None.
        bias_is_free: whether a bias has an entry for each output of the kernel.
    """

    weight: str
    kernel: Callable[[Any], np.ndarray]
    inputs: Callable[[Any, Any], Any]
    parts: Callable[[Any, Call, Sequence[np.ndarray]], list[Part]]
    shapes: Callable[[Any, Sequence[np.ndarray]], list[np.ndarray]]
    positions: Callable[[Call, str], int]
    reason: Callable[[Any], str | None] = lambda layer: None
    bias_is_free: Callable[[Any], bool] = lambda layer: True


def find(operation: Any) -> Row | None:
    """The row of exactly the type that a layer had before anything was attached.

    Subclasses may do anything with the kernel.
    """
    return ROWS.get(base_class(operation))


def reason_against(layer: Any, row: Row) -> str | None:
    """Why a layer of a type with a row cannot be factored, or None."""
    if getattr(layer, "quantization_mode", None):
        return "its weights are quantized by Keras"
    if getattr(layer, "lora_enabled", False):
        return "it has LoRA weights"
    constraint = row.weight.removesuffix("s") + "_constraint"
    names = {constraint, f"{row.weight}_constraint"}
    if any(getattr(layer, name, None) is not None for name in names):
        return "the constraint of its kernel would not hold for factors"
    return row.reason(layer)


# Kernels as they are


def _as_it_is(layer: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(layer.kernel), np.float64)


def _same_shapes(layer: Any, factors: Sequence[np.ndarray]) -> list[np.ndarray]:
    return list(factors)


def _dense_parts(layer: Any, call: Call, factors: Sequence[np.ndarray]) -> list[Part]:
    config = base_class(layer).get_config(layer)
    return [(layers.Dense, {**config, "units": factor.shape[-1]}) for factor in factors]


def _dense_positions(call: Call, where: str) -> int:
    return positions(call, OUTPUTS)


# Convolutions


def _conv_reason(layer: Any) -> str | None:
    if layer.groups != 1:
        return "it is grouped"
    if layer.data_format != "channels_last":
        return "its channels come first"
    return None


def _conv_parts(layer: Any, call: Call, factors: Sequence[np.ndarray]) -> list[Part]:
    """Each axis' strides, dilation and padding go with the kernel's taps on it."""
    config = base_class(layer).get_config(layer)
    sizes = [factor.shape[:-2] for factor in factors]
    carrier = [_carrier(axis, sizes) for axis in range(len(layer.kernel_size))]
    parts = []
    for number, factor in enumerate(factors):
        mine = [one == number for one in carrier]
        own = {
            "filters": factor.shape[-1],
            "kernel_size": sizes[number],
            "strides": _only(mine, layer.strides),
            "dilation_rate": _only(mine, layer.dilation_rate),
        }
        if max(sizes[number]) == 1:
            own["padding"] = "valid"
        parts.append((base_class(layer), {**config, **own}))
    return parts


def _carrier(axis: int, sizes: Sequence[Sequence[int]]) -> int:
    """The part with the taps along an axis; of one tap, the first with most taps."""
    taps = [size[axis] > 1 for size in sizes]
    counts = [math.prod(size) for size in sizes]
    return taps.index(True) if any(taps) else counts.index(max(counts))


def _only(mine: Sequence[bool], values: Sequence[int]) -> tuple[int, ...]:
    return tuple(v if own else 1 for own, v in zip(mine, values, strict=True))


def _conv_positions(call: Call, where: str) -> int:
    if where == "between":
        (_, high, _, _), (_, _, across, _) = call.outputs[0].shape, call.inputs[0].shape
        return (high or 1) * (across or 1)
    return positions(call, INPUTS if where == "inputs" else OUTPUTS)


# EinsumDense


@dataclass(frozen=True)
class _Equation:
    """An equation like "abc,cde->abde", by the part that each letter plays."""

    inputs: str
    kernel: str
    outputs: str

    @classmethod
    def of(cls, layer: Any) -> _Equation:
        left, _, outputs = layer.equation.replace(" ", "").partition("->")
        inputs, _, kernel = left.partition(",")
        return cls(inputs, kernel, outputs)

    @property
    def summed(self) -> str:
        """The letters that are summed over, in the order of the inputs."""
        return "".join(c for c in self.inputs if c in self.kernel)

    @property
    def made(self) -> str:
        """The letters that only kernel and outputs have, in the outputs' order."""
        return "".join(c for c in self.outputs if c in self.kernel)

    @property
    def rest(self) -> str:
        """The inputs' letters, and dots, that are not summed over."""
        return "".join(c for c in self.inputs if c == "." or c not in self.kernel)

    @property
    def order(self) -> list[int]:
        """The kernel's axes, summed ones first."""
        return [self.kernel.index(c) for c in self.summed + self.made]

    @property
    def new(self) -> str:
        """A letter for the rank."""
        used = self.inputs + self.kernel + self.outputs
        return next(c for c in string.ascii_letters if c not in used)


def _einsum_reason(layer: Any) -> str | None:
    equation = _Equation.of(layer)
    if any(c in equation.outputs for c in equation.summed):
        return "its kernel differs along an axis that inputs and outputs share"
    if not equation.summed or not equation.made:
        return f"its equation {layer.equation} is no product of matrices"
    return None


def _einsum_kernel(layer: Any) -> np.ndarray:
    equation = _Equation.of(layer)
    kernel = _as_it_is(layer).transpose(equation.order)
    size = math.prod(kernel.shape[: len(equation.summed)])
    return kernel.reshape(size, -1)


def _einsum_inputs(layer: Any, inputs: Any) -> Any:
    equation = _Equation.of(layer)
    inputs = tf.convert_to_tensor(inputs)
    before = equation.inputs.partition("...")[0]
    length = len(equation.inputs)
    axes = [
        equation.inputs.index(c)
        if c in before
        else equation.inputs.index(c) - length + len(inputs.shape)
        for c in equation.summed
    ]
    others = [axis for axis in range(len(inputs.shape)) if axis not in axes]
    size = math.prod(inputs.shape[axis] for axis in axes)
    return tf.reshape(tf.transpose(inputs, [*others, *axes]), (-1, size))


def _einsum_parts(layer: Any, call: Call, factors: Sequence[np.ndarray]) -> list[Part]:
    equation, rank = _Equation.of(layer), factors[0].shape[-1]
    config = base_class(layer).get_config(layer)
    e, r = equation, equation.new
    sizes = dict(
        zip(e.inputs.replace(".", ""), _named(e.inputs, call), strict=True)
    ) | {r: rank}
    middle = e.rest + r
    # Without the batch's axis, and those behind dots.
    known = middle.replace(".", "") if "." in middle else middle[1:]
    first = {
        **config,
        "equation": f"{e.inputs},{e.summed}{r}->{middle}",
        "output_shape": tuple(sizes[c] for c in known),
        "bias_axes": None,
    }
    last = {**config, "equation": f"{middle},{r}{e.made}->{e.outputs}"}
    return [(layers.EinsumDense, first), (layers.EinsumDense, last)]


def _named(inputs: str, call: Call) -> list[int | None]:
    """Sizes of the inputs' axes that have a letter."""
    shape = call.inputs[0].shape
    before, dots, after = inputs.partition("...")
    if not dots:
        return list(shape)
    return [*shape[: len(before)], *shape[len(shape) - len(after) :]]


def _einsum_shapes(layer: Any, factors: Sequence[np.ndarray]) -> list[np.ndarray]:
    equation = _Equation.of(layer)
    shape = [layer.kernel.shape[axis] for axis in equation.order]
    count, (a, b) = len(equation.summed), factors
    return [a.reshape(*shape[:count], -1), b.reshape(-1, *shape[count:])]


def _einsum_bias_is_free(layer: Any) -> bool:
    return set(layer.bias_axes) == set(_Equation.of(layer).made)


def _einsum_positions(call: Call, where: str) -> int:
    return (macs_of(call) or 0) // math.prod(call.operation.kernel.shape)


# Embedding


def _table(layer: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(layer.embeddings), np.float64)


def _embedding_inputs(layer: Any, inputs: Any) -> Any:
    """Of a table just the rows' numbers."""
    return tf.reshape(tf.cast(inputs, tf.int64), (-1,))


def _embedding_parts(
    layer: Any, call: Call, factors: Sequence[np.ndarray]
) -> list[Part]:
    config = base_class(layer).get_config(layer)
    table = {**config, "output_dim": factors[0].shape[-1]}
    wide = {
        "units": factors[1].shape[-1],
        "use_bias": False,
        "kernel_regularizer": config["embeddings_regularizer"],
        "activity_regularizer": config["activity_regularizer"],
        "trainable": config["trainable"],
        "dtype": config["dtype"],
    }
    return [(layers.Embedding, table), (layers.Dense, wide)]


def _embedding_positions(call: Call, where: str) -> int:
    """Lookups multiply nothing; the layer behind does, at each place."""
    return positions(call, OUTPUTS) if where == "outputs" else 0


_CONV = Row(
    "kernel",
    _as_it_is,
    patches.rows,
    _conv_parts,
    _same_shapes,
    _conv_positions,
    _conv_reason,
)

ROWS: dict[type, Row] = {
    layers.Dense: Row(
        "kernel",
        _as_it_is,
        patches.rows,
        _dense_parts,
        _same_shapes,
        _dense_positions,
    ),
    layers.Conv1D: _CONV,
    layers.Conv2D: _CONV,
    layers.EinsumDense: Row(
        "kernel",
        _einsum_kernel,
        _einsum_inputs,
        _einsum_parts,
        _einsum_shapes,
        _einsum_positions,
        _einsum_reason,
        _einsum_bias_is_free,
    ),
    layers.Embedding: Row(
        "embeddings",
        _table,
        _embedding_inputs,
        _embedding_parts,
        _same_shapes,
        _embedding_positions,
    ),
}
