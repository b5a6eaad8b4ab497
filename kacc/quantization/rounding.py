"""Adaptive rounding of the weights of a quantized copy, layer by layer.

The float model and its copy run side by side. Each layer is fitted to make of what the
copy hands it what the float layer makes of its own input, so that it corrects for the
layers before it, too (Nagel et al. 2020, arXiv:2004.10568, section 4.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from kacc.core import attach, registry
from kacc.core.graph import Call, Graph, Tensor, fill
from kacc.quantization.adaround import AdaRound, fitted_integers
from kacc.quantization.copies import Copy, run_call, set_weight
from kacc.quantization.inference import Program
from kacc.quantization.transform import quantize_of

# What the tensors of one layer may take up, for all samples, in the float model and in
# the copy. Fewer samples are used where they would be larger.
_BYTES = 2**30
_FEWEST = 32

_RELUS = {"relu": tf.nn.relu, "relu6": tf.nn.relu6}


@dataclass(frozen=True)
class _Pair:
    """A tensor in the float model and in the quantized one."""

    real: Any
    made: Any


def fit_roundings(copy: Copy, inputs: Sequence[Any], settings: AdaRound) -> None:
    """Sets the weights of a quantized copy to multiples of their steps, fitted to data.

    Args:
        copy: a calibrated copy with steps of its own (`learned_steps`).
        inputs: an array of samples for each input; as many are used as fit in memory.
        settings: how to fit.
    """
    plain = Copy(copy.kacc_original).kept_graph
    program = Program(copy)
    count = min(len(inputs[0]), _most_samples(program.graph))
    values: dict[Tensor, _Pair] = {}
    for tensor, array in zip(program.graph.inputs, inputs, strict=True):
        value = tf.constant(array[:count])
        values[tensor] = _Pair(value, program.enter(tensor, value))
    last = {t: call for call in program.graph.calls for t in call.inputs}
    fitted: set[int] = set()
    for call, float_call in zip(program.graph.calls, plain.calls, strict=True):
        pairs = [values[tensor] for tensor in call.inputs]
        if _can_be_fitted(call) and id(call.operation) not in fitted:
            fitted.add(id(call.operation))
            _fit(call, program, pairs, settings)
        program.refresh(call)
        reals = keras.tree.flatten(run_call(float_call, [p.real for p in pairs]))
        mades = program.apply(call, [p.made for p in pairs])
        found = zip(call.outputs, reals, mades, strict=True)
        values.update((tensor, _Pair(real, made)) for tensor, real, made in found)
        for tensor in {t for t in call.inputs if last[t] is call}:
            del values[tensor]


def _most_samples(graph: Graph) -> int:
    """How many samples of the largest tensor fit in memory, in and out, of both."""
    sizes = [
        math.prod(size or 1 for size in tensor.shape[1:])
        for call in graph.calls
        for tensor in call.outputs
    ]
    return max(_FEWEST, _BYTES // (4 * 4 * max(sizes, default=1)))


def _can_be_fitted(call: Call) -> bool:
    """Whether a call's layer is a product with weights that have steps."""
    spec, transform = registry.find(call.operation), quantize_of(call.operation)
    if spec is None or transform is None or not transform.explicit:
        return False
    return bool(spec.weights) and spec.absorbs_relu


def _fit(
    call: Call, program: Program, pairs: Sequence[_Pair], settings: AdaRound
) -> None:
    operation, transform = call.operation, quantize_of(call.operation)
    spec = registry.find(operation)
    assert spec is not None
    assert transform is not None
    names = [weight.attribute for weight in spec.weights]
    weights = [_full(getattr(operation, name)) for name in names]
    steps = [
        transform.weight_step(name, value)
        for name, value in zip(names, weights, strict=True)
    ]

    def layer(values: Sequence[Any], chosen: Sequence[Any]) -> Any:
        return _linear(call, program, values, dict(zip(names, chosen, strict=True)))

    wanted = layer([pair.real for pair in pairs], weights)
    made = [pair.made for pair in pairs]
    bits = transform.weight_bits
    found = fitted_integers(weights, steps, bits, made, wanted, layer, settings)
    for name, whole, step in zip(names, found, steps, strict=True):
        set_weight(operation, name, whole * step)


def _linear(
    call: Call, program: Program, values: Sequence[Any], weights: dict[str, Any]
) -> Any:
    """The layer with given weights, up to where its operator in the file ends."""
    operation = call.operation
    args, kwargs = fill(call, list(values))
    mapping = [(getattr(operation, name), value) for name, value in weights.items()]
    with keras.StatelessScope(mapping), attach.without_activation(operation):
        outputs = attach.own_call(operation, None, *args, **kwargs)
    names, reader = {_activation(call)}, call
    while reader in program.placement.fused:
        reader = program.placement.fused[reader]
        names.add(_activation(reader))
        spec = registry.find(reader.operation)
        if spec is not None and spec.affine is not None:
            factor, offset = spec.affine(reader.operation)
            outputs = outputs * factor + offset
    for name in names & set(_RELUS):
        outputs = _RELUS[name](outputs)
    return outputs


def _activation(call: Call) -> str:
    spec = registry.find(call.operation)
    known = spec is not None and spec.activation is not None
    return spec.activation(call.operation) if known else "linear"  # type: ignore


def _full(variable: Any) -> Any:
    return tf.cast(tf.convert_to_tensor(variable.value), tf.float32)
