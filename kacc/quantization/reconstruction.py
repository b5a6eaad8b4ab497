"""Fitting the weights of a quantized copy to the float model, layer by layer.

Both run side by side. Each layer is fitted to make of what the copy hands it what the
float layer makes of its own input, so that it corrects for the layers before it, too:
by the roundings of its weights (AdaRound, Nagel et al. 2020, arXiv:2004.10568, section
4.1), and by its bias (Nagel et al. 2019, arXiv:1906.04721, section 4.2).
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
from kacc.quantization.copies import Copy, run_call, set_weight, shift_bias
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


def reconstruct(
    copy: Copy,
    inputs: Sequence[Any],
    rounding: AdaRound | None = None,
    correct_bias: bool = False,
) -> None:
    """Fits the weights of a quantized copy, in place, to samples.

    Args:
        copy: a calibrated copy; to fit roundings, one with steps of its own
            (`learned_steps`).
        inputs: an array of samples for each input; as many are used as fit in memory.
        rounding: how to fit roundings; None leaves them at the nearest integer.
        correct_bias: whether the mean of each channel's error is taken off its bias.
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
            layer = _Layer(call, program, pairs)
            if rounding is not None:
                layer.fit_roundings(rounding)
            if correct_bias:
                layer.correct_bias()
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
    if spec is None or transform is None:
        return False
    return bool(spec.weights) and spec.bias is not None


class _Layer:
    """A layer of the copy, with what it reads in the float model and in the copy."""

    def __init__(self, call: Call, program: Program, pairs: Sequence[_Pair]) -> None:
        self.call, self.program = call, program
        self.operation = call.operation
        spec, transform = registry.find(call.operation), quantize_of(call.operation)
        assert spec is not None
        assert spec.bias is not None
        assert transform is not None
        self.bias, self.transform = spec.bias, transform
        self.reals = [pair.real for pair in pairs]
        self.mades = [pair.made for pair in pairs]
        self.weights = {
            weight.attribute: _full(getattr(self.operation, weight.attribute))
            for weight in spec.weights
        }

    def fit_roundings(self, settings: AdaRound) -> None:
        """Sets the weights to multiples of their steps."""
        names, weights = list(self.weights), list(self.weights.values())
        steps = [self.transform.weight_step(n, w) for n, w in self.weights.items()]

        def outputs(values: Sequence[Any], weights: Sequence[Any]) -> Any:
            named = dict(zip(names, weights, strict=True))
            return self._ended(self._sums(values, named))

        found = fitted_integers(
            weights,
            steps,
            self.transform.weight_bits,
            self.mades,
            outputs(self.reals, weights),
            outputs,
            settings,
        )
        for name, whole, step in zip(names, found, steps, strict=True):
            set_weight(self.operation, name, whole * step)

    def correct_bias(self) -> None:
        """Makes the mean of each channel over all samples that of the float model."""
        quantized = {
            name: self.transform.weight(name, _full(getattr(self.operation, name)))
            for name in self.weights
        }
        wanted = self._sums(self.reals, self.weights)
        made = self._sums(self.mades, quantized)
        error = tf.reduce_mean(wanted - made, list(range(len(made.shape) - 1)))
        shift_bias(self.operation, self.bias, error)

    def _sums(self, values: Sequence[Any], weights: dict[str, Any]) -> Any:
        """What the layer makes with given weights, without its activation."""
        operation = self.operation
        args, kwargs = fill(self.call, list(values))
        mapping = [(getattr(operation, name), w) for name, w in weights.items()]
        with keras.StatelessScope(mapping), attach.without_activation(operation):
            return attach.own_call(operation, None, *args, **kwargs)

    def _ended(self, outputs: Any) -> Any:
        """The same up to where the layer's operator in the file ends."""
        names, reader = {_activation(self.call)}, self.call
        while reader in self.program.placement.fused:
            reader = self.program.placement.fused[reader]
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
    if spec is None or spec.activation is None:
        return "linear"
    return spec.activation(call.operation)


def _full(variable: Any) -> Any:
    return tf.cast(tf.convert_to_tensor(variable.value), tf.float32)
