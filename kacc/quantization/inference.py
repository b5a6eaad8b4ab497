"""The inference graph of a quantized model, with constants for variables.

It is what the converter is given: batch normalizations folded, weights rounded to
their integers, fake quantization with constant ranges wherever the file has a tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from kacc.core import attach, registry
from kacc.core.graph import Call, Graph, Tensor, fill, trace
from kacc.core.registry import BEFORE, RECTIFIED, Output
from kacc.core.transform import QUANTIZE
from kacc.quantization import functional
from kacc.quantization.barriers import (
    Readers,
    apart,
    barred_inputs,
    is_copied,
    joins_grids,
)
from kacc.quantization.model import placement_of, skipped_by_rules
from kacc.quantization.placement import Placement
from kacc.quantization.transform import (
    Quantize,
    grid_named,
    quantize_of,
    require_quantize,
)
from kacc.quantization.weights import FileWeights, file_weights


def inference_function(
    model: keras.Model,
    on_tensor: Callable[[str, Any], Any] | None = None,
    barriers: bool = False,
) -> Callable[[list[Any]], Any]:
    """The quantized model as a function of tensors, all variables constant.

    Args:
        model: a quantized model whose ranges have all been seen.
        on_tensor: called with the path and the value of each layer's quantized output.
        barriers: whether there is a barrier, which changes the values, around layers
            that a rule leaves in float, before operators on tensors of one grid, and
            behind operators that the converter would copy.

    Returns:
        A function from the flat list of inputs to the outputs in the model's structure.
    """
    return Program(model, on_tensor, barriers).run


def capture(model: keras.Model, inputs: Any) -> dict[str, np.ndarray]:
    """The value of each layer's quantized output, as the file computes it in float.

    Args:
        model: a quantized model.
        inputs: one batch, as the model takes it.

    Returns:
        layer path -> float32 array, in the order of execution.
    """
    seen: dict[str, np.ndarray] = {}

    def keep(path: str, value: Any) -> None:
        seen[path] = np.asarray(value)

    flat = [tf.convert_to_tensor(x) for x in tree.flatten(inputs)]
    inference_function(model, keep)(flat)
    return seen


@dataclass(frozen=True)
class ExplicitKernel:
    """A kernel of the file whose integers the converter would not find by itself.

    Args:
        path: of the layer and weight, once for each call with values of its own.
        integers: one row for each output channel, int64.
        scale: one for each row, float64.
        bits: width of the integers.
        bias: float32, one for each row, or None.
    """

    path: str
    integers: np.ndarray
    scale: np.ndarray
    bits: int
    bias: np.ndarray | None


def explicit_kernels(model: keras.Model) -> list[ExplicitKernel]:
    """The kernels of a quantized model whose integers must be written into its file."""
    graph = trace(model)
    folded = placement_of(model, graph).folded
    kernels: list[ExplicitKernel] = []
    for call in graph.calls:
        spec, transform = registry.find(call.operation), quantize_of(call.operation)
        if spec is None or transform is None or not transform.explicit:
            continue
        batch_norm = folded.get(call)
        file = file_weights(
            call.operation, spec, transform, batch_norm and batch_norm.operation
        )
        kernels += _kernels(call.path, spec, file)
    return kernels


def _kernels(
    path: str, spec: registry.LayerSpec, file: FileWeights
) -> Iterator[ExplicitKernel]:
    for weight in spec.weights:
        whole = file.weights[weight.attribute]
        integers = whole.integers.numpy().astype(np.int64)
        first = np.moveaxis(integers, weight.channels, range(len(weight.channels)))
        scale = whole.scale.numpy()
        last = weight is spec.weights[-1] and file.bias is not None
        yield ExplicitKernel(
            f"{path}:{weight.attribute}",
            first.reshape(len(scale), -1),
            scale,
            whole.bits,
            file.bias.numpy() if last else None,
        )


class Program:
    """A quantized model with constants for its variables, to run call by call.

    Args:
        model: a quantized model whose ranges have all been seen.
        on_tensor: as for `inference_function`.
        barriers: as for `inference_function`.
    """

    def __init__(
        self, model: keras.Model, on_tensor: Any = None, barriers: bool = False
    ) -> None:
        self.graph: Graph = trace(model)
        self.placement: Placement = placement_of(model, self.graph)
        self.folded = {bn: conv for conv, bn in self.placement.folded.items()}
        self.on_tensor = on_tensor
        self.entering = {
            tensor: _Range(require_quantize(operation), name)
            for tensor, (operation, name) in self.placement.entering.items()
        }
        left = skipped_by_rules(model) if barriers else frozenset()
        self.apart = left & set(self.placement.skipped)
        self.producers = self.graph.producers()
        self.readers = Readers(self.graph)
        # Read now: inside a tf.function variables have no numbers.
        self.steps = {
            call: _ConstantSteps(
                quantize_of(call.operation),
                apart=barriers and is_copied(call),
                elsewhere=call in self.placement.joined or call in self.placement.fused,
            )
            for call in self.graph.calls
        }
        self.weights = {call: self._weights(call) for call in self.graph.calls}
        self.known: dict[Tensor, _Range] = dict(self.entering)
        self.kept = self._kept_ranges()
        ends = {tensor: own.ends for tensor, own in self.known.items()}
        calls = self.graph.calls if barriers else ()
        self.barred = {c: barred_inputs(c, ends, self.readers) for c in calls}

    def _kept_ranges(self) -> dict[Tensor, _Range]:
        """Ranges that the converter must be told again of tensors that were moved.

        If one of several readers joins grids, as a concatenation does, or reads by
        another range, the converter changes the scale of a tensor without a range of
        its own for all of them.
        """
        ranges = self.known
        kept = {}
        for call in self.graph.calls:
            spec, own = registry.find(call.operation), self.steps[call].ranges
            if "output" in own:
                ranges[call.outputs[0]] = own["output"]
            elif spec is None or spec.output is Output.RANGE:
                continue
            elif call.inputs[0] in ranges:
                for output in call.outputs:
                    ranges[output] = ranges[call.inputs[0]]
                    if self._changes(output, self.readers.of(output)):
                        kept[output] = ranges[output]
        return kept

    def _changes(self, tensor: Tensor, readers: list[Call]) -> bool:
        """Whether a reader changes the scale of a moved tensor for something else."""
        specs = [spec for call in readers if (spec := registry.find(call.operation))]
        uses = len(readers) + (tensor in self.graph.outputs)
        joins = uses > 1 and any(spec.joins_grids for spec in specs)
        return joins or any(spec.requantizes for spec in specs)

    def run(self, inputs: list[Any]) -> Any:
        """The outputs in the model's structure, by the flat list of inputs."""
        entered = [
            self.enter(tensor, value)
            for tensor, value in zip(self.graph.inputs, inputs, strict=True)
        ]
        return self.graph.run(entered, self.apply)

    def refresh(self, call: Call) -> None:
        """Reads the weights of a call's layer again, after a change."""
        self.weights[call] = self._weights(call)

    def _weights(self, call: Call) -> tuple[list[tuple[Any, Any]], Any]:
        """The layer's variables with the file's values, and a bias that it lacks."""
        spec = registry.find(call.operation)
        if spec is None or not spec.weights:
            return _tables(call.operation), None
        layer, batch_norm = call.operation, self.placement.folded.get(call)
        folded = file_weights(
            layer, spec, quantize_of(layer), batch_norm and batch_norm.operation
        )
        pairs = [
            (getattr(layer, name), weight.real.numpy())
            for name, weight in folded.weights.items()
        ]
        if folded.bias is None:
            return pairs, None
        own = getattr(layer, spec.bias or "", None)
        if own is None:
            return pairs, folded.bias.numpy()
        return [*pairs, (own, folded.bias.numpy())], None

    def enter(self, tensor: Tensor, value: Any) -> Any:
        """The value of a tensor that its readers quantize, quantized."""
        return self.entering[tensor](value) if tensor in self.entering else value

    def apply(self, call: Call, values: list[Any]) -> list[Any]:
        """The outputs of a call, flat."""
        if call.path in self.apart:
            tensors = zip(call.inputs, values, strict=True)
            values = [apart(v) if self._on_grid(t) else v for t, v in tensors]
        for position in self.barred.get(call, ()):
            joins = joins_grids(call)
            tensor = call.outputs[0] if joins else call.inputs[position]
            values[position] = self.known[tensor](apart(values[position]))
        args, kwargs = fill(call, values)
        with tf.name_scope(call.path):
            if call in self.folded:
                outputs = self.steps[call].range("output", values[0])
            else:
                outputs = self._call(call, args, kwargs)
        self._show(call, outputs)
        flat = tree.flatten(outputs)
        if call.path in self.apart:
            tensors = zip(call.outputs, flat, strict=True)
            flat = [apart(v) if t in self.entering else v for t, v in tensors]
        entered = [self.enter(t, v) for t, v in zip(call.outputs, flat, strict=True)]
        return [
            self.kept[tensor](value) if tensor in self.kept else value
            for tensor, value in zip(call.outputs, entered, strict=True)
        ]

    def _on_grid(self, tensor: Tensor) -> bool:
        """Whether a layer that a rule leaves in float reads integers there."""
        producer = self.producers.get(tensor)
        made = producer is not None and producer.path not in self.placement.skipped
        return made or tensor in self.entering

    def _show(self, call: Call, outputs: Any) -> None:
        transform = quantize_of(call.operation)
        if self.on_tensor and transform is not None and _has_output(transform):
            self.on_tensor(call.path, outputs)

    def _call(self, call: Call, args: tuple, kwargs: dict[str, Any]) -> Any:
        operation = call.operation
        transform = quantize_of(operation)
        spec = registry.find(operation)
        skipped = call.path in self.placement.skipped
        if spec is not None and not skipped:
            if spec.output is Output.IDENTITY:
                return tree.flatten((args, kwargs))[0]
            if transform is not None or not call.lasting:
                return self._quantized_call(call, spec, args, kwargs)
        if isinstance(operation, keras.Layer) and operation._call_has_training_arg:
            kwargs = {**kwargs, "training": False}
        return operation(*args, **kwargs)

    def _quantized_call(
        self, call: Call, spec: registry.LayerSpec, args: tuple, kwargs: dict[str, Any]
    ) -> Any:
        function = spec.call or attach.own_call
        weights, bias = self.weights[call]
        with keras.StatelessScope(weights):
            outputs = function(call.operation, self.steps[call], *args, **kwargs)
        if bias is not None:
            outputs = outputs + bias
        return self.steps[call].range("output", outputs)


class _Range:
    """Fake quantization with the ends of a range as they are now.

    The converter is told the scale of a symmetric 16 bit range by that of an 8 bit one;
    `kacc.converters.widen` gives the file its 16 bits.
    """

    def __init__(self, transform: Quantize, name: str) -> None:
        self.low, self.high = transform.ends(name)
        if transform.scheme.symmetric:
            scale = float(grid_named(transform, name).scale32)
            self.low, self.high = -128.0 * scale, 127.0 * scale

    @property
    def ends(self) -> tuple[float, float]:
        return self.low, self.high

    def __call__(self, value: Any) -> Any:
        full = tf.cast(value, tf.float32)
        return functional.fake_quantize(full, self.low, self.high)


class _ConstantSteps:
    """The hooks of a layer's call, with ranges that are numbers.

    Args:
        transform: has the ranges.
        apart: whether there is a barrier before an activation with a relu inside.
        elsewhere: whether the output of this call has the range of what reads it, and
            not the one that it has at others.
    """

    constant = True

    def __init__(
        self, transform: Quantize | None, apart: bool, elsewhere: bool
    ) -> None:
        self.apart = apart
        self.symmetric = transform is not None and transform.scheme.symmetric
        names = [*transform.ranges, *transform.fixed] if transform else []
        names = [name for name in names if not (elsewhere and name == "output")]
        self.ranges = {name: _Range(transform, name) for name in names}  # type: ignore[arg-type]

    def range(self, name: str, value: Any) -> Any:
        if name not in self.ranges:
            return value
        value = self.ranges[name](value)
        return self.ranges[name](apart(value)) if self._is_apart(name) else value

    def _is_apart(self, name: str) -> bool:
        return self.apart and name == BEFORE and RECTIFIED in self.ranges

    def rectifies(self, name: str) -> bool:
        """Never: the converter is shown every relu."""
        return False


def _tables(layer: Any) -> list[tuple[Any, Any]]:
    """The variables of tables, with the values that pruning and clustering give."""
    return [
        (variable, attach.weight_before(layer, weight.attribute, QUANTIZE))
        for weight, variable in registry.tables(layer)
        if attach.transforms_of(layer)
    ]


def _has_output(transform: Quantize) -> bool:
    return "output" in transform.ranges or "output" in transform.fixed
