"""Integer emulation of the file that the converter will write.

The flat graph runs with integers in the place of values, each operator by the
arithmetic of the runtime's kernel (`kacc.quantization.integer`). Ranges and weights are
read from the variables when it runs, so that one traced function stays right while
training goes on.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf
from keras import tree

from kacc.core import attach, recipe, registry
from kacc.core.errors import UsageError
from kacc.core.graph import Call, Tensor, fill, trace
from kacc.core.registry import Output
from kacc.quantization import integer
from kacc.quantization.integer import Quantized
from kacc.quantization.kernels import (
    KERNELS,
    BuiltIn,
    kernels_named,
    kernels_of_width,
)
from kacc.quantization.model import placement_of, quantized, require_seen
from kacc.quantization.operators import Operators
from kacc.quantization.transform import (
    Quantize,
    grid_named,
    quantize_of,
    require_quantize,
)


def simulate(model: keras.Model, kernels: str = "xnnpack") -> keras.Model:
    """Integer emulation of the file that `kacc.convert` will write.

    The outputs equal the file's to the bit on that set of kernels. The variables stay
    those of the model: training goes on and the simulation follows.

    Args:
        model: a quantized model.
        kernels: "xnnpack" (LiteRT's default), "builtin" (LiteRT without XNNPACK),
            "reference" (LiteRT's plain kernels) or "micro" (TensorFlow Lite Micro).

    Returns:
        A model for inference, with the inputs and outputs of `model`.

    Raises:
        UsageError: for a model that is not quantized, a range that was never seen, or
            an unknown set of kernels.

    Example:
        >>> import numpy as np, keras, kacc
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model = kacc.quantize(model)
        >>> kacc.quantization.calibrate(model, [np.ones((8, 4), "float32")])
        >>> kacc.simulate(model, "reference").predict(np.ones((3, 4)), verbose=0).shape
        (3, 2)
    """
    arithmetic = kernels_named(kernels)
    if next(quantized(model), None) is None:
        raise UsageError(
            "Only a quantized model can be simulated",
            received=f"the plain model {model.name!r}",
            fix="Call kacc.quantize(model) and train or calibrate it",
        )
    require_seen(
        model,
        "before the simulation",
        "Train the model, or call kacc.quantization.calibrate(model, batches)",
    )
    return _SimulatedModel(model, arithmetic)


class _SimulatedModel(keras.Model):
    """A model that runs another one's simulation."""

    def __init__(self, model: keras.Model, kernels: BuiltIn) -> None:
        super().__init__(name=f"{model.name}_simulated")
        self._model = model
        self._simulation = Simulation(model, kernels)

    def call(self, inputs: Any) -> Any:
        return self._simulation(_flat_inputs(self._model, (inputs,)))


# Grappler's constant folding and arithmetic optimization reorder float products and
# turn divisions into multiplications: one rounding in a thousand would differ. The
# function is called with them switched off, and is not inlined into one that has them.
_NOT_INLINED = {"_noinline": True}


@contextlib.contextmanager
def _ordered_arithmetic() -> Iterator[None]:
    options = tf.config.optimizer.get_experimental_options()
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    try:
        yield
    finally:
        before = options.get("disable_meta_optimizer", False)
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": before})


class Simulation:
    """A quantized model in the integer arithmetic of its file.

    Args:
        model: a quantized model.
        kernels: the arithmetic.
    """

    def __init__(
        self, model: keras.Model, kernels: BuiltIn = KERNELS["xnnpack"]
    ) -> None:
        _, first = next(quantized(model))
        self.kernels = kernels_of_width(kernels, first.scheme.activation_bits)
        self.graph = trace(model)
        self.readers = self.graph.consumers()
        self.placement = placement_of(model, self.graph)
        self.entering = {
            tensor: (require_quantize(operation), name)
            for tensor, (operation, name) in self.placement.entering.items()
        }
        self.ends = self._chain_ends()
        self._compiled = tf.function(
            self.run,
            autograph=False,
            reduce_retracing=True,
            experimental_attributes=_NOT_INLINED,
        )

    def __call__(self, inputs: list[Any]) -> Any:
        """Runs on the flat list of float inputs; outputs in the model's structure."""
        with _ordered_arithmetic():
            return self._compiled(inputs)

    def run(
        self,
        inputs: list[Any],
        on_tensor: Any = None,
        on_operator: Any = None,
        on_constant: Any = None,
    ) -> Any:
        """The same, operator by operator in the present graph.

        Args:
            inputs: flat list of float tensors.
            on_tensor: called with each call's path and its output: `Quantized`, or a
                float tensor of a layer that is left in float.
            on_operator: called with the call's path and each `Quantized` tensor that
                an operator inside the layer makes, before the layer's relu.
            on_constant: called with the call's path and each constant operand.
        """
        values = [
            self._enter(tensor, value)
            for tensor, value in zip(self.graph.inputs, inputs, strict=True)
        ]

        hooks = _Hooks(on_operator, on_constant)

        def apply(call: Call, values: list[Any]) -> list[Any]:
            outputs = tree.flatten(self._apply(call, values, hooks))
            if on_tensor is not None:
                on_tensor(call.path, outputs[0])
            return [
                self._enter(tensor, value)
                for tensor, value in zip(call.outputs, outputs, strict=True)
            ]

        return tree.map_structure(_real, self.graph.run(values, apply))

    def _chain_ends(self) -> dict[Call, Call]:
        """For each call without a range of its output, the reader that has it.

        The operator of the file has the range of that reader's output.
        """
        ends: dict[Call, Call] = {}
        for call in reversed(self.graph.calls):
            for table in (self.placement.fused, self.placement.joined):
                if call in table:
                    ends[call] = ends.get(table[call], table[call])
        return ends

    def _enter(self, tensor: Tensor, value: Any) -> Any:
        if tensor not in self.entering or isinstance(value, Quantized):
            return value
        transform, name = self.entering[tensor]
        return integer.quantize(value, grid_named(transform, name))

    def _apply(self, call: Call, values: list[Any], hooks: _Hooks) -> Any:
        spec = registry.find(call.operation)
        swallowed = call.inputs and call.inputs[0] in self.placement.fused_tensors
        if swallowed and isinstance(values[0], Quantized):
            return values[0]
        with tf.name_scope(call.path):
            skipped = call.path in self.placement.skipped
            if spec is None or skipped or not _on_grid(spec, values):
                return self._float_call(call, values)
            if spec.output is Output.IDENTITY:
                return values[0]
            if spec.output is not Output.RANGE and spec.integer is None:
                return _moved(call, values)
            return self._integer_call(call, spec, values, hooks)

    def _integer_call(
        self,
        call: Call,
        spec: registry.LayerSpec,
        values: list[Any],
        hooks: _Hooks,
    ) -> Any:
        assert spec.integer is not None, f"{spec.type} has no integer arithmetic"
        kernels: Any = self.kernels
        if hooks.operator is not None:
            kernels = _Watched(kernels, functools.partial(hooks.operator, call.path))
        file = Operators(
            call.operation,
            self.output_range(call),
            self.placement.folded.get(call),
            kernels,
            hooks.constant and functools.partial(hooks.constant, call.path),
        )
        args, kwargs = fill(call, values)
        for name in ("training", "mask"):  # Keras adds them to calls in a `call`
            kwargs.pop(name, None)
        result = spec.integer(call.operation, file, *args, **kwargs)
        return self._rectified(call, result)

    def _rectified(self, call: Call, result: Quantized) -> Quantized:
        """The output after the relus that the operator ends in.

        A grid of their own begins at zero; one of a concatenation may not.
        """
        grid, names = result.grid, self._activations(call)
        low, high = grid.zero, grid.zero + tf.round(6.0 / grid.scale32)
        values = result.integers
        if names & {"relu", "relu6"}:
            values = tf.maximum(values, low)
        if "relu6" in names:
            values = tf.minimum(values, high)
        return Quantized(values, grid)

    def _activations(self, call: Call) -> set[str]:
        """The activations of a call and of the calls that its operator swallows."""
        spec = registry.find(call.operation)
        own = {spec.activation(call.operation)} if spec and spec.activation else set()
        if call not in self.placement.fused:
            return own
        return own | self._activations(self.placement.fused[call])

    def output_range(self, call: Call) -> tuple[Quantize, str] | None:
        """Who holds the range of a call's output: itself, or a layer that reads it."""
        call = self.ends.get(call, call)
        own = quantize_of(call.operation)
        return (own, "output") if own else self._reader_range(call.outputs[0])

    def _reader_range(self, tensor: Tensor) -> tuple[Quantize, str] | None:
        if tensor in self.entering:
            return self.entering[tensor]
        for reader, _ in self.readers.get(tensor, []):
            spec = registry.find(reader.operation)
            if spec is not None and spec.output in (Output.IDENTITY, Output.SAME):
                found = self._reader_range(reader.outputs[0])
                if found is not None:
                    return found
        return None

    def _float_call(self, call: Call, values: list[Any]) -> Any:
        args, kwargs = fill(call, [_real(v) for v in values])
        operation = call.operation
        if isinstance(operation, keras.Layer) and operation._call_has_training_arg:
            kwargs = {**kwargs, "training": False}
        return operation(*args, **kwargs)


@dataclass(frozen=True)
class _Hooks:
    """What is called while a simulation runs, each with the path of the call."""

    operator: Any
    constant: Any


class _Watched:
    """Kernels that show each tensor that they make."""

    def __init__(self, kernels: Any, show: Callable[[Quantized], None]) -> None:
        self._kernels = kernels
        self._show = show

    def __getattr__(self, name: str) -> Any:
        operator = getattr(self._kernels, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            result = operator(*args, **kwargs)
            self._show(result)
            return result

        return watched


def simulated_call(
    model: keras.Model, own: Callable[[], Any]
) -> Callable[[Any], Any] | None:
    """How a quantized root model runs at inference: as its file will.

    Until all ranges are seen it falls back on its own call.
    """
    transforms = [transform for _, transform in quantized(model)]
    if not transforms or not all(transform.enabled for transform in transforms):
        return None
    if keras.src.backend.in_stateless_scope():
        # Values from the scope would be captured by the compiled function.
        return None

    def run(args: Any) -> Any:
        inputs = _flat_inputs(model, args)
        seen = tf.reduce_all([transform.all_seen() for transform in transforms])
        return tf.cond(
            seen,
            lambda: tree.map_structure(_float32, _simulation_of(model)(inputs)),
            lambda: tree.map_structure(_float32, own()),
        )

    return run


def _flat_inputs(model: keras.Model, args: Any) -> list[Any]:
    functional = getattr(model, "_functional", None) or model
    if hasattr(functional, "_standardize_inputs"):
        return functional._standardize_inputs(*args)
    return tree.flatten(args)


def _simulation_of(model: keras.Model) -> Simulation:
    """The model's simulation; kept while the same transforms are attached."""
    present = [
        (transform, transform.enabled)
        for operation in attach.attached(model)
        for transform in attach.transforms_of(operation)
    ]
    kept = getattr(model, "_kacc_simulation", None)
    if kept is None or kept[0] != present:
        with tf.init_scope():
            kept = (present, Simulation(model))
        object.__setattr__(model, "_kacc_simulation", kept)
    return kept[1]


def _float32(value: Any) -> Any:
    return tf.cast(value, tf.float32)


def _on_grid(spec: registry.LayerSpec, values: list[Any]) -> bool:
    return spec.reads_indices or all(isinstance(v, Quantized) for v in values)


def _real(value: Any) -> Any:
    return value.real if isinstance(value, Quantized) else value


def _moved(call: Call, values: list[Any]) -> Any:
    """Runs a layer that only moves values; what it pads with is a real zero."""
    args, kwargs = fill(call, [x.centered for x in values])
    operation = call.operation
    if isinstance(operation, keras.Layer) and operation._call_has_training_arg:
        kwargs = {**kwargs, "training": False}
    spec = registry.find(operation)
    function = (spec and spec.call) or attach.own_call
    moved = function(operation, None, *args, **kwargs)
    grid = values[0].grid
    return tree.map_structure(lambda x: Quantized(x + grid.zero, grid), moved)


recipe.register_inference(simulated_call)
