"""Activations that stand alone: layers, and operators on KerasTensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras

# Private: Keras exports the functions of its operators and not their classes, of which
# functional graphs are made. tests/core/test_keras_private.py watches the names.
from keras.src.ops import nn, numpy

from kacc.core.registry import LayerSpec, Output, Weight
from kacc.support.activations import (
    ACTIVATIONS,
    absolute,
    clipped,
    gelu,
    leaky_relu,
    name_of,
    unsupported,
)
from kacc.support.composed import celu, exponential_linear, soft_shrink, squareplus
from kacc.support.operands import no_wide_kernel
from kacc.support.pointwise import Activation


def _relu_name(layer: Any) -> str:
    """The relus that other operators can end in; the others by what they do."""
    if layer.negative_slope:
        return "leaky_relu"
    return {None: "relu", 6: "relu6"}.get(layer.max_value, "clipped")


def _relu(layer: Any) -> Activation:
    name = _relu_name(layer)
    if name == "leaky_relu":
        return leaky_relu(layer.negative_slope)
    if name == "clipped":
        return clipped(0.0, layer.max_value)
    return ACTIVATIONS[name]


def _relu_reason(layer: Any) -> str | None:
    if layer.threshold:
        return "a relu with a threshold is not supported"
    if not layer.negative_slope:
        return None
    if layer.max_value is not None:
        return "a leaky relu with a largest value is not supported"
    return _leaky_reason(layer)


def _leaky_reason(layer: Any) -> str | None:
    if layer.negative_slope > 1 or layer.negative_slope <= 0:
        return "the slope of a leaky relu must lie between 0 and 1"
    return None


def _prelu(layer: Any, file: Any, x: Any) -> Any:
    return file.prelu(x, file.weights().weights["alpha"], "output")


def _last_axis_only(layer: Any) -> str | None:
    return None if layer.axis == -1 else "softmax runs over the last axis only"


def _clip_reason(operator: Any) -> str | None:
    """A range holds zero, so that clipping to another one takes more than a range."""
    low, high = operator.x_min, operator.x_max
    if isinstance(low, (int, float)) and isinstance(high, (int, float)):
        return None if low <= 0 < high else "it clips to a range without zero"
    return "it clips to something that is not a number"


def spec_for(
    cls: type,
    activation: Callable[[Any], Activation],
    name: Callable[[Any], str],
    **options: Any,
) -> LayerSpec:
    """The row of a type that computes one activation of its single input.

    Args:
        cls: the type.
        activation: layer -> what it computes.
        name: layer -> its name, which tells the relus that others can end in.
        options: more of the row.
    """
    spec = LayerSpec(
        cls,
        activation=name,
        activation_absorbs_relu=lambda layer: activation(layer).absorbs_relu,
        supported_wide=lambda layer: activation(layer).reason_against_wide,
        ranges=lambda layer: {
            **activation(layer).inner,
            "output": activation(layer).output,
        },
        call=lambda layer, steps, x, *args, **kwargs: activation(layer).apply(steps, x),
        integer=lambda layer, file, x, *args, **kwargs: activation(layer).integer(
            file, x
        ),
        **options,
    )
    nothing = LayerSpec(cls, output=Output.IDENTITY)
    saturating = replace(spec, joins_grids=True)

    def variant(layer: Any) -> LayerSpec | None:
        if spec.supported and spec.supported(layer):
            return None
        if name(layer) == "linear":
            return nothing
        if activation(layer).requantizes:
            return replace(spec, requantizes=True)
        return saturating if activation(layer).saturates else None

    return replace(spec, variant=variant)


def _named(cls: type, name: str, supported: Any = None, examples: Any = ()) -> Any:
    return spec_for(
        cls,
        lambda layer: ACTIVATIONS[name],
        lambda layer: name,
        supported=supported,
        examples=examples,
    )


layers = keras.layers

SPECS = [
    spec_for(
        layers.Activation,
        lambda layer: ACTIVATIONS[name_of(layer)],
        name_of,
        supported=unsupported,
        examples=tuple(
            lambda name=name: (layers.Activation(name), [(6, 6, 3)])
            for name in ACTIVATIONS
        ),
    ),
    spec_for(
        layers.ReLU,
        _relu,
        _relu_name,
        supported=_relu_reason,
        examples=(
            lambda: (layers.ReLU(), [(6, 6, 3)]),
            lambda: (layers.ReLU(max_value=6), [(5,)]),
            lambda: (layers.ReLU(max_value=1.5), [(6, 6, 3)]),
            lambda: (layers.ReLU(negative_slope=0.1), [(6, 6, 3)]),
        ),
    ),
    _named(
        layers.Softmax,
        "softmax",
        _last_axis_only,
        (lambda: (layers.Softmax(), [(7,)]),),
    ),
    spec_for(
        layers.LeakyReLU,
        lambda layer: leaky_relu(layer.negative_slope),
        lambda layer: "leaky_relu",
        supported=_leaky_reason,
        examples=(
            lambda: (layers.LeakyReLU(), [(6, 6, 3)]),
            lambda: (layers.LeakyReLU(negative_slope=0.01), [(6, 6, 3)]),
        ),
    ),
    LayerSpec(
        layers.PReLU,
        weights=(Weight("alpha", channels=(), inputs=None),),
        integer=_prelu,
        sole_relu=True,
        supported_wide=lambda layer: no_wide_kernel("PRELU"),
        examples=(
            lambda: (layers.PReLU(shared_axes=[1, 2]), [(6, 6, 3)]),
            lambda: (layers.PReLU(), [(6, 6, 3)]),
            lambda: (layers.PReLU(), [(9,)]),
        ),
    ),
    spec_for(
        layers.ELU,
        lambda layer: exponential_linear(layer.alpha),
        lambda layer: "elu",
        examples=(
            lambda: (layers.ELU(), [(6, 6, 3)]),
            lambda: (layers.ELU(alpha=0.3), [(6, 6, 3)]),
        ),
    ),
    spec_for(
        nn.LeakyRelu,
        lambda operator: leaky_relu(operator.negative_slope),
        lambda operator: "leaky_relu",
        supported=_leaky_reason,
    ),
    spec_for(
        nn.Elu,
        lambda operator: exponential_linear(operator.alpha),
        lambda operator: "elu",
    ),
    spec_for(
        nn.Gelu,
        lambda operator: gelu(operator.approximate),
        lambda operator: "gelu",
    ),
    spec_for(
        numpy.Clip,
        lambda operator: clipped(float(operator.x_min), float(operator.x_max)),
        lambda operator: "clipped",
        supported=_clip_reason,
    ),
    _named(numpy.Tanh, "tanh"),
    _named(numpy.Exp, "exponential"),
    spec_for(numpy.Absolute, lambda operator: absolute(), lambda operator: "absolute"),
    _named(nn.Relu, "relu"),
    _named(nn.Relu6, "relu6"),
    _named(nn.Sigmoid, "sigmoid"),
    _named(nn.Silu, "swish"),
    _named(nn.HardSilu, "hard_swish"),
    _named(nn.HardSigmoid, "hard_sigmoid"),
    _named(nn.HardTanh, "hard_tanh"),
    _named(nn.Selu, "selu"),
    _named(nn.Softplus, "softplus"),
    spec_for(nn.Celu, lambda op: celu(op.alpha), lambda op: "celu"),
    spec_for(nn.Squareplus, lambda op: squareplus(op.b), lambda op: "squareplus"),
    spec_for(
        nn.SoftShrink, lambda op: soft_shrink(op.threshold), lambda op: "soft_shrink"
    ),
    _named(nn.TanhShrink, "tanh_shrink"),
    _named(nn.LogSigmoid, "log_sigmoid"),
    _named(nn.SparsePlus, "sparse_plus"),
    _named(nn.Softsign, "softsign"),
    _named(nn.Softmax, "softmax", _last_axis_only),
]
