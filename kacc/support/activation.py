"""Activations that stand alone: layers, and operators on KerasTensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

# Private: Keras exports the functions of its operators and not their classes, of which
# functional graphs are made. tests/core/test_keras_private.py watches the names.
from keras.src.ops import nn, numpy

from kacc.core.registry import LayerSpec
from kacc.support.activations import ACTIVATIONS, name_of, unsupported


def _relu_name(layer: Any) -> str:
    return "relu6" if layer.max_value == 6 else "relu"


def _relu_reason(layer: Any) -> str | None:
    if layer.negative_slope or layer.threshold or layer.max_value not in (None, 6):
        return "only plain relu and relu6 are supported"
    return None


def _leaky_reason(layer: Any) -> str | None:
    if layer.negative_slope > 1 or layer.negative_slope <= 0:
        return "the slope of a leaky relu must lie between 0 and 1"
    return None


def _leaky(layer: Any, file: Any, x: Any, *args: Any) -> Any:
    return file.leaky_relu(x, layer.negative_slope, "output")


def _exact_gelu_only(layer: Any) -> str | None:
    return "only the exact gelu is supported" if layer.approximate else None


def _last_axis_only(layer: Any) -> str | None:
    return None if layer.axis == -1 else "softmax runs over the last axis only"


def spec_for(
    cls: type, name: Callable[[Any], str], supported: Any = None, examples: Any = ()
) -> LayerSpec:
    """The row of a type that computes one activation of its single input."""
    return LayerSpec(
        cls,
        activation=name,
        ranges=lambda layer: {
            **ACTIVATIONS[name(layer)].inner,
            "output": ACTIVATIONS[name(layer)].output,
        },
        call=lambda layer, steps, x, *args, **kwargs: ACTIVATIONS[name(layer)].apply(
            steps, x
        ),
        integer=lambda layer, file, x, *args, **kwargs: ACTIVATIONS[
            name(layer)
        ].integer(file, x),
        supported=supported,
        examples=examples,
    )


def _named(name: str) -> Callable[[Any], str]:
    return lambda layer: name


layers = keras.layers

SPECS = [
    spec_for(
        layers.Activation,
        name_of,
        unsupported,
        tuple(
            lambda name=name: (layers.Activation(name), [(6, 6, 3)])
            for name in (
                "relu",
                "sigmoid",
                "softmax",
                "tanh",
                "gelu",
                "swish",
                "hard_swish",
            )
        ),
    ),
    spec_for(
        layers.ReLU,
        _relu_name,
        _relu_reason,
        (
            lambda: (layers.ReLU(), [(6, 6, 3)]),
            lambda: (layers.ReLU(max_value=6), [(5,)]),
        ),
    ),
    spec_for(
        layers.Softmax,
        _named("softmax"),
        _last_axis_only,
        (lambda: (layers.Softmax(), [(7,)]),),
    ),
    LayerSpec(
        layers.LeakyReLU,
        supported=_leaky_reason,
        integer=_leaky,
        examples=(
            lambda: (layers.LeakyReLU(), [(6, 6, 3)]),
            lambda: (layers.LeakyReLU(negative_slope=0.01), [(6, 6, 3)]),
        ),
    ),
    LayerSpec(nn.LeakyRelu, supported=_leaky_reason, integer=_leaky),
    spec_for(numpy.Tanh, _named("tanh")),
    spec_for(nn.Gelu, _named("gelu"), _exact_gelu_only),
    spec_for(nn.Relu, _named("relu")),
    spec_for(nn.Relu6, _named("relu6")),
    spec_for(nn.Sigmoid, _named("sigmoid")),
    spec_for(nn.Silu, _named("swish")),
    spec_for(nn.HardSilu, _named("hard_swish")),
    spec_for(nn.Softmax, _named("softmax"), _last_axis_only),
]
