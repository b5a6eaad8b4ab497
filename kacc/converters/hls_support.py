"""Which layers of a model hls4ml has for an FPGA, by the names of their rows' types."""

from __future__ import annotations

import numpy as np

from kacc.converters.hls_numbers import Numbers
from kacc.core import registry
from kacc.core.graph import Call
from kacc.core.registry import Output

ACTIVATIONS = ("linear", "relu", "relu6", "sigmoid", "softmax", "tanh")
KERNELS = ("Dense", "Conv1D", "Conv2D", "DepthwiseConv1D", "DepthwiseConv2D")
POOLS = tuple(
    f"{prefix}{kind}Pooling{size}D"
    for prefix in ("", "Global")
    for kind in ("Max", "Average")
    for size in (1, 2)
)
MERGES = ("Add", "Subtract", "Multiply", "Maximum", "Minimum", "Concatenate")
MOVES = ("Flatten", "Reshape")


def unsupported(call: Call, numbers: Numbers) -> str | None:
    """Why a call cannot become layers of hls4ml, or None."""
    operation, kind = call.operation, kind_of(call)
    spec = registry.find(operation)
    if call.reason or spec is None:
        return call.reason or type(operation).__name__
    if reason := registry.unsupported_reason(operation):
        return f"{kind}: {reason}"
    if spec.output is Output.IDENTITY or call in numbers.folded.values():
        return None
    if None in call.outputs[0].shape[1:]:
        return f"{kind} of a free size, {call.outputs[0].shape}"
    if spec.activation is not None and spec.activation(operation) not in ACTIVATIONS:
        return f"{kind} with the activation {spec.activation(operation)}"
    if kind not in (*KERNELS, *POOLS, *MERGES, *MOVES, "BatchNormalization"):
        return None if only_activation(call) else kind
    return _unfit(call, kind)


def _unfit(call: Call, kind: str) -> str | None:
    """Why a layer of a known kind is configured as hls4ml has it not, or None."""
    layer, ranks = call.operation, {len(t.shape) for t in call.inputs}
    if getattr(layer, "data_format", None) == "channels_first":
        return f"{kind} with data_format channels_first"
    if set(np.atleast_1d(getattr(layer, "dilation_rate", 1))) != {1}:
        return f"{kind} with dilation"
    if getattr(layer, "groups", 1) != 1:
        return f"{kind} with groups"
    if getattr(layer, "depth_multiplier", 1) != 1:
        return f"{kind} with a depth_multiplier"
    if kind == "Dense" and ranks != {2}:
        return "Dense of more than a vector"
    if kind == "BatchNormalization" and layer.axis not in (-1, max(ranks) - 1):
        return "BatchNormalization of another axis than the last"
    if kind in MERGES and len(call.inputs) < 2:
        return f"{kind} with a constant"
    if kind in MERGES[:-1] and len({t.shape for t in call.inputs}) > 1:
        return f"{kind} of different shapes"
    return None


def kind_of(call: Call) -> str:
    """The name of the type of a call's row, or of its own type without one."""
    spec = registry.find(call.operation)
    return (spec.type if spec else type(call.operation)).__name__


def only_activation(call: Call) -> bool:
    """Whether a call is an activation function and no more."""
    spec = registry.find(call.operation)
    return spec is not None and spec.activation is not None and not spec.weights
