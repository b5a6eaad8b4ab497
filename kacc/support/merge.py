"""Layers and operators that join several tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

# Private: see kacc/support/activation.py.
from keras.src.ops import numpy as operators

from kacc.core.registry import LayerSpec, RangeSpec

layers = keras.layers


def _number_of_inputs(layer: Any) -> int:
    shapes = layer._build_shapes_dict or {}
    return len(shapes.get("input_shape", ()))


def _pairwise_ranges(layer: Any) -> dict[str, RangeSpec]:
    """The file joins two tensors at a time: each partial result is a tensor."""
    names = [f"partial_{i}" for i in range(1, _number_of_inputs(layer) - 1)]
    return {name: RangeSpec() for name in [*names, "output"]}


def _pairwise(join: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def call(layer: Any, steps: Any, inputs: Any) -> Any:
        result = join(inputs[0], inputs[1])
        for i, value in enumerate(inputs[2:], start=1):
            result = join(steps.range(f"partial_{i}", result), value)
        return result

    return call


def _pairwise_integer(join: str) -> Callable[..., Any]:
    def integer(layer: Any, file: Any, inputs: Any) -> Any:
        result = inputs[0]
        for i, value in enumerate(inputs[1:], start=1):
            name = "output" if i == len(inputs) - 1 else f"partial_{i}"
            result = getattr(file, join)(result, value, name)
        return result

    return integer


def _operator_integer(join: str) -> Callable[..., Any]:
    """Of an operator on two tensors, or on a tensor and a number."""

    def integer(operator: Any, file: Any, x1: Any, x2: Any) -> Any:
        pair = [x if hasattr(x, "grid") else file.constant(x) for x in (x1, x2)]
        return getattr(file, join)(*pair, "output")

    return integer


def _average_ranges(layer: Any) -> dict[str, RangeSpec]:
    return {**_pairwise_ranges(layer), "total": RangeSpec()}


def _average(layer: Any, steps: Any, inputs: Any) -> Any:
    total = _pairwise(keras.ops.add)(layer, steps, inputs)
    return steps.range("total", total) * (1.0 / len(inputs))


def _average_integer(layer: Any, file: Any, inputs: Any) -> Any:
    total = inputs[0]
    for i, value in enumerate(inputs[1:], start=1):
        name = "total" if i == len(inputs) - 1 else f"partial_{i}"
        total = file.add(total, value, name)
    return file.multiply(total, file.constant(1.0 / len(inputs)), "output")


def _merge(cls: type, function: Callable[[Any, Any], Any]) -> LayerSpec:
    return LayerSpec(
        cls,
        absorbs_relu=True,
        ranges=_pairwise_ranges,
        call=_pairwise(function),
        integer=_pairwise_integer(function.__name__),
        examples=(
            lambda: (cls(), [(6, 6, 3), (6, 6, 3)]),
            lambda: (cls(), [(5,), (5,), (5,)]),
        ),
    )


def _extreme(
    join: Callable[[Any, Any], Any],
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The rows' `call` and `integer` of the largest or smallest of several tensors."""

    def call(layer: Any, steps: Any, inputs: Any) -> Any:
        result = join(inputs[0], inputs[1])
        for value in inputs[2:]:
            # In the file all partial results have the range of the last.
            result = steps.range("output", result) if steps.constant else result
            result = join(result, value)
        return result

    def integer(layer: Any, file: Any, inputs: Any) -> Any:
        return file.extreme(inputs, join is keras.ops.maximum, "output")

    return call, integer


def _extreme_of_layers(cls: type, join: Callable[[Any, Any], Any]) -> LayerSpec:
    call, integer = _extreme(join)
    return LayerSpec(
        cls,
        joins_grids=True,
        call=call,
        integer=integer,
        examples=(
            lambda: (cls(), [(6, 6, 3), (6, 6, 3)]),
            lambda: (cls(), [(5,), (5,), (5,)]),
        ),
    )


def _extreme_of_operands(cls: type, largest: bool) -> LayerSpec:
    def integer(operator: Any, file: Any, x1: Any, x2: Any) -> Any:
        return file.extreme([x1, x2], largest, "output")

    return LayerSpec(cls, joins_grids=True, integer=integer)


def _stack(operator: Any, file: Any, inputs: Any) -> Any:
    return file.stack(inputs, operator.axis, "output")


def _concatenate(layer: Any, file: Any, inputs: Any) -> Any:
    return file.concatenate(inputs, layer.axis, "output")


SPECS = [
    _merge(layers.Add, keras.ops.add),
    _merge(layers.Multiply, keras.ops.multiply),
    LayerSpec(
        layers.Subtract,
        absorbs_relu=True,
        integer=_pairwise_integer("subtract"),
        examples=(lambda: (layers.Subtract(), [(6, 6, 3), (6, 6, 3)]),),
    ),
    LayerSpec(
        layers.Average,
        ranges=_average_ranges,
        call=_average,
        integer=_average_integer,
        examples=(
            lambda: (layers.Average(), [(6, 6, 3), (6, 6, 3)]),
            lambda: (layers.Average(), [(5,), (5,), (5,)]),
        ),
    ),
    LayerSpec(
        layers.Concatenate,
        joins_grids=True,
        integer=_concatenate,
        examples=(
            lambda: (layers.Concatenate(), [(6, 6, 3), (6, 6, 2)]),
            lambda: (layers.Concatenate(axis=1), [(2, 6, 3), (4, 6, 3), (1, 6, 3)]),
        ),
    ),
    _extreme_of_layers(layers.Maximum, keras.ops.maximum),
    _extreme_of_layers(layers.Minimum, keras.ops.minimum),
    _extreme_of_operands(operators.Maximum, largest=True),
    _extreme_of_operands(operators.Minimum, largest=False),
    LayerSpec(operators.Stack, joins_grids=True, integer=_stack),
    LayerSpec(operators.Add, absorbs_relu=True, integer=_operator_integer("add")),
    LayerSpec(
        operators.Multiply, absorbs_relu=True, integer=_operator_integer("multiply")
    ),
    LayerSpec(
        operators.Subtract, absorbs_relu=True, integer=_operator_integer("subtract")
    ),
    LayerSpec(operators.Concatenate, joins_grids=True, integer=_concatenate),
]
