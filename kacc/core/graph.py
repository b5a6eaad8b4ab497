"""The flat operator graph of a Keras model: nested and subclassed models opened up.

`trace` walks Keras's own nodes. Where a model or custom layer has no static graph, its
`call` is run once on symbolic tensors; the nodes that this leaves on the layers are
taken off again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import keras
from keras import tree

# Private, since Keras exports neither the class of functional models nor the base
# class of operators that `keras.ops` puts on a graph. tests/core/test_keras_private.py
# fails when either goes away.
from keras.src.models.functional import Functional
from keras.src.ops.operation import Operation

from kacc.core.errors import UsageError


@dataclass(frozen=True)
class Tensor:
    """A tensor of the graph: its number, its shape (None: the batch) and dtype."""

    index: int
    shape: tuple[int | None, ...] = field(compare=False)
    dtype: str = field(compare=False)


@dataclass(frozen=True, eq=False)
class Call:
    """One call of an operation.

    Args:
        operation: the layer or operator.
        path: names from the root's child down, joined by "/".
        args, kwargs: the call's arguments, with `Tensor` in the place of tensors.
        outputs: the tensors that it makes.
        lasting: whether the operation lives on between calls: True for layers and for
            the operators of functional models, False for an `x + y` in a `call`.
        reason: why a container could not be opened, or None.
    """

    operation: Operation
    path: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Tensor, ...]
    lasting: bool = True
    reason: str | None = None

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The tensors that it reads, in the order of its arguments."""
        flat = tree.flatten((self.args, self.kwargs))
        return tuple(x for x in flat if isinstance(x, Tensor))


@dataclass(frozen=True, eq=False)
class Graph:
    """A model as a list of calls in the order of execution.

    Args:
        inputs: the tensors of the model's inputs, flat.
        output_structure: those of its outputs, as the model gives them.
        calls: in the order of execution.
        spans: (number of its first call, id of the container) of each call of a
            container that was opened -> the number of the call after its last.
    """

    inputs: tuple[Tensor, ...]
    output_structure: Any
    calls: tuple[Call, ...]
    spans: dict[tuple[int, int], int] = field(default_factory=dict)

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """The tensors of the model's outputs, flat."""
        return tuple(tree.flatten(self.output_structure))

    def consumers(self) -> dict[Tensor, list[tuple[Call, int]]]:
        """For each tensor the calls that read it, with the position of the input."""
        table: dict[Tensor, list[tuple[Call, int]]] = {}
        for call in self.calls:
            for position, tensor in enumerate(call.inputs):
                table.setdefault(tensor, []).append((call, position))
        return table

    def producers(self) -> dict[Tensor, Call]:
        """For each tensor but the inputs, the call that makes it."""
        return {tensor: call for call in self.calls for tensor in call.outputs}

    def run(self, inputs: list[Any], apply: Callable[[Call, list[Any]], Any]) -> Any:
        """Runs the graph on values: `apply(call, input values)` gives a call's result.

        Args:
            inputs: values of `self.inputs`, in order.
            apply: called once per call; `fill(call, values)` restores the arguments.

        Returns:
            The values of the outputs in the model's own structure.
        """
        values = dict(zip(self.inputs, inputs, strict=True))
        last = self._last_calls()
        for call in self.calls:
            result = tree.flatten(apply(call, [values[x] for x in call.inputs]))
            values.update(zip(call.outputs, result, strict=True))
            for tensor in last.get(call, ()):
                del values[tensor]
        return tree.map_structure(lambda x: values[x], self.output_structure)

    def _last_calls(self) -> dict[Call, list[Tensor]]:
        """The tensors that are read for the last time by each call."""
        kept = set(self.outputs)
        last = {t: call for call in self.calls for t in (*call.outputs, *call.inputs)}
        table: dict[Call, list[Tensor]] = {}
        for tensor, call in last.items():
            if tensor not in kept:
                table.setdefault(call, []).append(tensor)
        return table


def fill(call: Call, values: list[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, with values in the place of its tensors, in order."""
    rest = iter(values)
    return tree.map_structure(
        lambda x: next(rest) if isinstance(x, Tensor) else x, (call.args, call.kwargs)
    )


def trace(model: keras.Model) -> Graph:
    """The flat graph of a built model.

    Args:
        model: a built Sequential, functional or subclassed Keras 3 model.

    Returns:
        Its `Graph`; of a model that keeps one (`kept_graph`) that one.

    Raises:
        UsageError: if the model is not built, or its `call` cannot run on symbolic
            tensors.
    """
    require_built(model)
    kept: Graph | None = getattr(model, "kept_graph", None)
    if kept is not None:
        return kept
    tracer = _Tracer()
    with restored_nodes(model):
        inputs, outputs, lasting = opened(model, None)
        tensors = tuple(tracer.new(x) for x in inputs)
        flat = tree.flatten(outputs)
        refs = tracer.expand(inputs, tensors, flat, "", lasting)
    if isinstance(outputs, (list, tuple)) and len(outputs) == 1:
        outputs = outputs[0]  # as Keras's functional models do
    structure = tree.pack_sequence_as(outputs, list(refs))
    return Graph(tensors, structure, tuple(tracer.calls), tracer.spans)


def require_built(model: Any) -> None:
    """Raises a UsageError unless `model` is a built Keras 3 model."""
    if not isinstance(model, keras.Model):
        raise UsageError(
            "kacc works on Keras 3 models",
            received=type(model).__module__ + "." + type(model).__name__,
            fix="Build the model with `keras`, version 3, or make it of a tf_keras "
            "model with kacc.from_tf_keras",
        )
    known = hasattr(model, "kept_graph") or has_graph(model)
    if not model.built or (not known and not model._build_shapes_dict):
        raise UsageError(
            "The model must be built, so that its shapes are known",
            received=f"the unbuilt model {model.name!r}",
            fix="Call it once on a batch, or give it a keras.Input",
        )


def is_container(operation: Any) -> bool:
    """Whether an operation is made of layers that can be looked into."""
    if isinstance(operation, keras.Model):
        return True
    made_by_keras = type(operation).__module__.startswith("keras.")
    return bool(getattr(operation, "_layers", None)) and not made_by_keras


def has_graph(model: Any) -> bool:
    """Whether the model is a static graph, run as it stands."""
    if isinstance(model, keras.Sequential):
        return model._functional is not None
    return isinstance(model, Functional) and _plain_call(type(model))


def _plain_call(cls: type) -> bool:
    for base in cls.__mro__:
        if base is Functional:
            return True
        if "call" in vars(base) and not vars(base).get("kacc_equivalent", False):
            return False
    return False


def opened(
    model: Any, call_arguments: tuple[Any, Any] | None
) -> tuple[list[Any], Any, bool]:
    """Symbolic inputs and outputs of a container, and whether its operators last."""
    if has_graph(model):
        inner = model._functional if isinstance(model, keras.Sequential) else model
        return inner.inputs, inner._outputs_struct, True
    args, kwargs = call_arguments or _symbolic_arguments(model)
    inputs = [
        x for x in tree.flatten((args, kwargs)) if isinstance(x, keras.KerasTensor)
    ]
    try:
        outputs = model.call(*args, **kwargs)
    except Exception as error:
        raise UsageError(
            f"The `call` of {model.name!r} must run on symbolic tensors, which raw "
            "TensorFlow functions in it do not",
            received=f"{type(error).__name__}: {str(error).splitlines()[0]}",
            fix="Use keras.ops in their place",
        ) from error
    return inputs, outputs, False


def _symbolic_arguments(model: keras.Model) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Symbolic arguments of a subclassed model, from the shapes it was built with."""

    def symbol(shape: Any) -> keras.KerasTensor:
        return keras.KerasTensor((None, *tuple(shape)[1:]), dtype=model.input_dtype)

    shapes = dict(model._build_shapes_dict)
    symbols = {
        name.removesuffix("_shape"): tree.map_shape_structure(symbol, shape)
        for name, shape in shapes.items()
    }
    if len(symbols) == 1:
        return tuple(symbols.values()), {}
    return (), symbols


@contextlib.contextmanager
def restored_nodes(model: keras.Model) -> Iterator[None]:
    """Takes off the nodes that symbolic calls inside leave on the layers."""
    operations: dict[int, Any] = {}
    for layer in model._flatten_layers():
        operations[id(layer)] = layer
        for operation in getattr(layer, "operations", ()):
            operations[id(operation)] = operation
    before = [
        (operation, len(operation._inbound_nodes), len(operation._outbound_nodes))
        for operation in operations.values()
    ]
    try:
        yield
    finally:
        for operation, inbound, outbound in before:
            del operation._inbound_nodes[inbound:]
            del operation._outbound_nodes[outbound:]


class _Tracer:
    """Collects the calls; each expansion of a container numbers its tensors anew."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.spans: dict[tuple[int, int], int] = {}
        self._count = 0

    def new(self, symbol: keras.KerasTensor) -> Tensor:
        self._count += 1
        return Tensor(self._count - 1, tuple(symbol.shape), symbol.dtype)

    def expand(
        self,
        inputs: list[keras.KerasTensor],
        tensors: tuple[Tensor, ...],
        outputs: list[keras.KerasTensor],
        prefix: str,
        lasting: bool,
    ) -> tuple[Tensor, ...]:
        """Adds the calls between inputs and outputs; the outputs' tensors."""
        scope = {id(x): t for x, t in zip(inputs, tensors, strict=True)}
        for node in ordered_nodes(outputs, set(scope)):
            self._visit(node, scope, prefix, lasting)
        return tuple(scope[id(x)] for x in outputs)

    def _visit(
        self, node: Any, scope: dict[int, Tensor], prefix: str, lasting: bool
    ) -> None:
        operation, path = node.operation, prefix + node.operation.name
        reason = None
        if is_container(operation):
            try:
                refs = self._descend(node, scope, path)
            except UsageError as error:
                reason = str(error)
            else:
                scope.update(
                    (id(x), t) for x, t in zip(node.outputs, refs, strict=True)
                )
                return
        tensors = tuple(self.new(x) for x in node.outputs)
        scope.update((id(x), t) for x, t in zip(node.outputs, tensors, strict=True))
        args, kwargs = node.arguments.convert(
            lambda x: scope[id(x)] if isinstance(x, keras.KerasTensor) else x
        )
        lasting = lasting or isinstance(operation, keras.Layer)
        call = Call(operation, path, args, kwargs, tensors, lasting, reason)
        self.calls.append(call)

    def _descend(
        self, node: Any, scope: dict[int, Tensor], path: str
    ) -> tuple[Tensor, ...]:
        arguments = (node.arguments.args, node.arguments.kwargs)
        inputs, outputs, lasting = opened(node.operation, arguments)
        tensors = tuple(scope[id(x)] for x in node.input_tensors)
        flat = tree.flatten(outputs)
        start = len(self.calls), id(node.operation)
        refs = self.expand(inputs, tensors, flat, path + "/", lasting)
        self.spans[start] = len(self.calls)
        return refs


def ordered_nodes(outputs: list[keras.KerasTensor], stop: set[int]) -> list[Any]:
    """The nodes that lead to the outputs, each after the ones that it reads from."""
    order: list[Any] = []
    seen: set[int] = set()
    stack: list[tuple[keras.KerasTensor, bool]] = [(x, False) for x in outputs[::-1]]
    while stack:
        tensor, done = stack.pop()
        if id(tensor) in stop:
            continue
        history = tensor._keras_history
        node = history.operation._inbound_nodes[history.node_index]
        if done:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((tensor, True))
            stack.extend((x, False) for x in reversed(node.input_tensors))
    return order
