"""Operators on the values of one tensor, or of one and a constant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

# Private: see kacc/support/activation.py.
from keras.src.ops import math
from keras.src.ops import numpy as operators

from kacc.core.registry import LayerSpec, Output, RangeSpec
from kacc.support.operands import constant_second, over_batch, reduced_axes

_NONNEGATIVE = {"output": RangeSpec(nonnegative=True)}


def without_zeros(steps: Any, x: Any) -> Any:
    """In training the smallest value above zero in the place of zeros.

    Fake quantization rounds small values to zero, where a logarithm or a reciprocal is
    not finite. The file's operators give the end of the output's range there.
    """
    if steps.constant:
        return x
    smallest = ops.min(ops.where(x > 0, x, ops.max(x)))
    smallest = ops.stop_gradient(ops.maximum(smallest, keras.config.epsilon()))
    return ops.where(x == 0, smallest, x)


def _square_root(operator: Any, steps: Any, x: Any) -> Any:
    if steps.constant:
        return ops.sqrt(x)
    zero = x == 0  # where the gradient is not finite
    return ops.where(zero, 0.0, ops.sqrt(ops.where(zero, 1.0, x)))


def _inverse(divisor: Any) -> Any:
    return np.float32(1) / np.asarray(divisor, np.float32)


def _divide(operator: Any, steps: Any, x1: Any, x2: Any) -> Any:
    return x1 * ops.cast(_inverse(x2), x1.dtype)


def _integer_divide(operator: Any, file: Any, x1: Any, x2: Any) -> Any:
    return file.multiply(x1, file.constant(_inverse(x2)), "output")


def _divide_reason(operator: Any) -> str | None:
    if constant_second(operator):
        return None
    return "LiteRT's DIV stops the run where a divisor is rounded to zero"


def _power_reason(operator: Any) -> str | None:
    if constant_second(operator, 2):
        return None
    return "LiteRT has no integer powers but squares"


def _squared(operator: Any, steps: Any, x: Any, power: Any = 2) -> Any:
    return x * x


def _integer_squared(operator: Any, file: Any, x: Any, power: Any = 2) -> Any:
    return file.multiply(x, x, "output")


def _mean(operator: Any, file: Any, x: Any) -> Any:
    axes = reduced_axes(operator, len(x.integers.shape))
    return file.mean(x, axes, operator.keepdims, "output")


def _count(operator: Any, shape: Any) -> float:
    return float(np.prod([shape[i] for i in reduced_axes(operator, len(shape))]))


def _sum(operator: Any, steps: Any, x: Any) -> Any:
    """A MEAN and a MUL: the reference kernel of SUM is another function."""
    mean = ops.mean(x, axis=operator.axis, keepdims=operator.keepdims)
    return steps.range("mean", mean) * _count(operator, x.shape)


def _integer_sum(operator: Any, file: Any, x: Any) -> Any:
    shape = x.integers.shape
    axes = reduced_axes(operator, len(shape))
    mean = file.mean(x, axes, operator.keepdims, "mean")
    return file.multiply(mean, file.constant(_count(operator, shape)), "output")


def _extreme_reason(operator: Any) -> str | None:
    if operator.initial is not None:
        return "an initial value is not supported"
    return over_batch(operator)


def _one(
    cls: type,
    call: Callable[..., Any] | None,
    integer: Callable[..., Any],
    nonnegative: bool = False,
    **options: Any,
) -> LayerSpec:
    if nonnegative:
        options["ranges"] = lambda operator: _NONNEGATIVE
    return LayerSpec(cls, call=call, integer=integer, **options)


SPECS = [
    _one(
        operators.Divide,
        _divide,
        _integer_divide,
        absorbs_relu=True,
        supported=_divide_reason,
    ),
    _one(
        operators.TrueDivide,
        _divide,
        _integer_divide,
        absorbs_relu=True,
        supported=_divide_reason,
    ),
    _one(
        operators.Negative,
        lambda operator, steps, x: x * -1.0,
        lambda operator, file, x: file.multiply(x, file.constant(-1.0), "output"),
        absorbs_relu=True,
    ),
    _one(operators.Square, _squared, _integer_squared, nonnegative=True, squares=True),
    _one(
        operators.Power,
        _squared,
        _integer_squared,
        nonnegative=True,
        squares=True,
        supported=_power_reason,
    ),
    _one(
        operators.Sqrt,
        _square_root,
        lambda operator, file, x: file.sqrt(x, "output"),
        nonnegative=True,
    ),
    _one(
        math.Rsqrt,
        lambda operator, steps, x: ops.rsqrt(without_zeros(steps, x)),
        lambda operator, file, x: file.rsqrt(x, "output"),
        nonnegative=True,
    ),
    _one(
        operators.Log,
        lambda operator, steps, x: ops.log(without_zeros(steps, x)),
        lambda operator, file, x: file.table(x, ops.log, "output"),
    ),
    LayerSpec(operators.Mean, integer=_mean, supported=over_batch),
    LayerSpec(
        operators.Sum,
        ranges=lambda operator: {"mean": RangeSpec(), "output": RangeSpec()},
        call=_sum,
        integer=_integer_sum,
        supported=over_batch,
    ),
    *(
        LayerSpec(cls, output=Output.SAME, supported=_extreme_reason)
        for cls in (operators.Max, operators.Min)
    ),
    *(
        LayerSpec(cls, output=Output.SAME, supported=over_batch)
        for cls in (operators.Amax, operators.Amin)
    ),
]
