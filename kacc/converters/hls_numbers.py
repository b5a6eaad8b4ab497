"""The weights of a model and the ranges of its tensors, for fixed-point hardware.

A quantized model brings both: weights rounded as its file has them, with their bits,
and the ranges that training has come to. A plain model has its weights, and the ranges
of what calibration data makes of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import tree

from kacc.converters.samples import Samples
from kacc.core import attach, registry
from kacc.core.fold import fold_into_kernel
from kacc.core.graph import Call, Graph, Tensor, trace
from kacc.core.registry import BEFORE, Output
from kacc.core.transform import QUANTIZE
from kacc.quantization.copies import run_call
from kacc.quantization.model import placement_of
from kacc.quantization.placement import Placement, place
from kacc.quantization.transform import Quantize, quantize_of, require_quantize
from kacc.quantization.weights import file_weights

Ends = tuple[float, float]

PLAIN_BITS = 16  # of weights and activations that no scheme has bits for
_BATCH = 32


@dataclass(frozen=True)
class Weights:
    """The kernel and bias of a call, with what follows folded in.

    Args:
        kernel: float64, in Keras's layout.
        bias: float64, one for each output channel.
        bits: of the kernel.
    """

    kernel: np.ndarray
    bias: np.ndarray
    bits: int


@dataclass(frozen=True)
class Numbers:
    """What is known of a model's numbers.

    Args:
        graph: the model's.
        ends: the ranges of tensors; others have none.
        before: those of what the activation at a call's end reads.
        folded: the calls of batch normalizations that the calls before them swallow.
        bits: of activations.
        calibrated: whether the ranges are the model's own. If not, tensors have
            hls4ml's default type.
    """

    graph: Graph
    ends: Mapping[Tensor, Ends]
    before: Mapping[Call, Ends]
    folded: Mapping[Call, Call]
    bits: int
    calibrated: bool

    def weights(self, call: Call) -> Weights:
        """The weights of a call whose row has one weight."""
        layer, spec = call.operation, registry.find(call.operation)
        assert spec is not None
        behind = self.folded.get(call)
        after = behind.operation if behind is not None else None
        (weight,), transform = spec.weights, quantize_of(layer)
        if transform is not None:
            file = file_weights(layer, spec, transform, after)
            own = file.weights[weight.attribute]
            return _weights(own.real, file.bias, own.bits, weight)
        kernel = attach.weight_before(layer, weight.attribute, QUANTIZE)
        kernel = np.asarray(kernel, np.float32)
        variable = getattr(layer, spec.bias, None) if spec.bias else None
        bias = None if variable is None else np.asarray(variable.value, np.float32)
        if after is not None:
            factor, offset = affine(after)
            kernel = fold_into_kernel(kernel, weight.channels, factor)
            bias = offset if bias is None else bias * factor + offset
        return _weights(kernel, bias, PLAIN_BITS, weight)


def affine(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    """(factor, offset) of each channel of a layer that is no more than that."""
    spec = registry.find(layer)
    assert spec is not None
    assert spec.affine is not None
    factor, offset = spec.affine(layer)
    return np.asarray(factor, np.float32), np.asarray(offset, np.float32)


def numbers_of(model: Any, samples: Samples | None) -> Numbers:
    """The numbers of a model.

    Args:
        model: a built Keras 3 model; of a quantized one every range has been seen.
        samples: to find the ranges of a plain model, or None.
    """
    graph = trace(model)
    transforms = [t for call in graph.calls if (t := quantize_of(call.operation))]
    if transforms:
        placement = placement_of(model, graph)
        bits = transforms[0].scheme.activation_bits
        ends, before = _trained(graph, placement)
        return Numbers(graph, ends, before, placement.folded, bits, calibrated=True)
    folded = place(graph, lambda call: None).folded
    seen = {} if samples is None else _observed(graph, samples)
    return Numbers(graph, seen, {}, folded, PLAIN_BITS, samples is not None)


def _weights(kernel: Any, bias: Any, bits: int, weight: registry.Weight) -> Weights:
    values = np.asarray(kernel, np.float64)
    count = np.prod([values.shape[axis] for axis in weight.channels], dtype=int)
    zeros = np.zeros(count) if bias is None else np.asarray(bias, np.float64)
    return Weights(values, zeros.reshape(-1), bits)


def _trained(
    graph: Graph, placement: Placement
) -> tuple[dict[Tensor, Ends], dict[Call, Ends]]:
    """The ranges of a quantized model's tensors, and of those before activations."""
    ends = {
        tensor: require_quantize(operation).ends(name)
        for tensor, (operation, name) in placement.entering.items()
    }
    before: dict[Call, Ends] = {}
    for call in graph.calls:
        spec, transform = registry.find(call.operation), quantize_of(call.operation)
        output = call.outputs[0]
        own = _own_ends(transform, "output")
        if own is not None:
            ends[output] = own
        elif _moves(spec) and call.inputs and call.inputs[0] in ends:
            ends.setdefault(output, ends[call.inputs[0]])
        if (inner := _own_ends(transform, BEFORE)) is not None:
            before[call] = inner
    for call, joint in placement.joined.items():
        if joint.outputs[0] in ends:
            ends[call.outputs[0]] = ends[joint.outputs[0]]
    return ends, before


def _moves(spec: registry.LayerSpec | None) -> bool:
    return spec is not None and spec.output is not Output.RANGE


def _own_ends(transform: Quantize | None, name: str) -> Ends | None:
    if transform is None or name not in (*transform.ranges, *transform.fixed):
        return None
    return transform.ends(name)


def _observed(graph: Graph, samples: Samples) -> dict[Tensor, Ends]:
    """The extremes of each tensor over samples, at inference."""
    found: dict[Tensor, Ends] = {}

    def see(tensor: Tensor, value: Any) -> None:
        values = np.asarray(value, np.float32)
        low, high = found.get(tensor, (np.inf, -np.inf))
        found[tensor] = min(low, float(values.min())), max(high, float(values.max()))

    def apply(call: Call, values: list[Any]) -> Any:
        results = run_call(call, values)
        for tensor, value in zip(call.outputs, tree.flatten(results), strict=True):
            see(tensor, value)
        return results

    for batch in samples.batches(min(_BATCH, len(samples))):
        for tensor, value in zip(graph.inputs, batch, strict=True):
            see(tensor, value)
        graph.run(list(batch), apply)
    return found
