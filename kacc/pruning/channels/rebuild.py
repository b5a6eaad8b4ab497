"""Building the smaller model: the same layers in the same places, with fewer channels.

A new model is made along Keras's own graph. Sequential and functional models, nested
ones too, stay what they are, and shared layers stay shared. A subclassed model or layer
of layers in which something was cut comes back as a functional model of its name: its
own code would make the layers in their old size when it is loaded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import tree

from kacc.core import graph as flat
from kacc.core.attach import base_class
from kacc.core.graph import Call, Tensor, fill
from kacc.core.remake import remade
from kacc.pruning.channels.follow import Cut, find_row
from kacc.pruning.channels.graph import ROWS, DependencyGraph


class Rebuild(Cut):
    """A model without some of its channels.

    Args:
        dependencies: of the model.
        remaining: for each class whether it remains.
    """

    def __init__(self, dependencies: DependencyGraph, remaining: np.ndarray) -> None:
        self.dependencies = dependencies
        self.remaining = remaining
        self.operations: dict[int, Any] = {}
        self._containers: dict[Any, Any] = {}
        self._copies: list[tuple[Any, Any]] = []
        # id of a variable -> {axis from the end: whether each position remains}
        self.masks: dict[int, dict[int, np.ndarray]] = {}
        for axis in dependencies.axes:
            places = self.masks.setdefault(id(axis.variable), {})
            places[axis.axis] = remaining[axis.channels]
        self._calls: dict[int, list[Call]] = {}
        for call in dependencies.graph.calls:
            self._calls.setdefault(id(call.operation), []).append(call)

    def kept(self, tensor: Tensor) -> np.ndarray:
        """Of a tensor's channels before cutting, whether each remains."""
        return self.remaining[self.dependencies.tensors[tensor]]

    def operation(self, old: Any) -> Any:
        """The layer or operator in the place of an old one; the same each time."""
        if id(old) not in self.operations:
            self.operations[id(old)] = self._made(old)
        return self.operations[id(old)]

    def arguments(self, call: Call, values: list[Any]) -> tuple[Any, Any]:
        """The arguments of a call, adapted, with values in the place of its tensors."""
        row = find_row(call.operation, ROWS)
        if row is not None and row.arguments is not None and self._is_cut(call):
            args, kwargs = row.arguments(call, self)
            call = dataclasses.replace(call, args=args, kwargs=kwargs)
        return fill(call, values)

    def model(self) -> keras.Model:
        """The smaller model, with the weights of the channels that remain."""
        old = self.dependencies.model
        if isinstance(old, keras.Sequential):
            new = self._sequential(old)
        else:
            new = self._functional(old)
        for source, target in self.variables():
            mask = self.masks.get(id(source), {})
            target.assign(cut(keras.ops.convert_to_numpy(source), mask))
        return new

    def variables(self) -> list[tuple[Any, Any]]:
        """(variable of the old model, the one in its place), of all layers made."""
        layers = [
            (self._calls[key][0].operation, new)
            for key, new in self.operations.items()
            if isinstance(new, keras.Layer)
        ]
        return [
            pair
            for old, new in (*layers, *self._copies)
            for pair in zip(old.variables, new.variables, strict=True)
        ]

    # Layers

    def _made(self, old: Any) -> Any:
        config = old.get_config()
        row = find_row(old, ROWS)
        call = self._calls[id(old)][0]
        if row is not None and row.resize is not None and self._is_cut(call):
            counts = [
                [int(self.kept(x).sum()) for x in side]
                for side in (call.inputs, call.outputs)
            ]
            config |= row.resize(config, self._shapes(old), *counts)
        return remade(old, config, call.path)

    def _is_cut(self, call: Call) -> bool:
        return not all(self.kept(x).all() for x in (*call.inputs, *call.outputs))

    def _shapes(self, layer: Any) -> dict[str, tuple[int, ...]]:
        """New shapes of a layer's variables that go with channels."""
        shapes: dict[str, list[int]] = {}
        for axis in self.dependencies.axes:
            if axis.layer is layer:
                shape = shapes.setdefault(axis.attribute, list(axis.variable.shape))
                shape[axis.axis] = int(self.remaining[axis.channels].sum())
        # A grouped kernel whose groups go as a whole has no axis for its inputs.
        if hasattr(layer, "kernel") and "kernel" not in shapes:
            shapes["kernel"] = list(layer.kernel.shape)
        return {name: tuple(shape) for name, shape in shapes.items()}

    # Containers

    def _functional(self, old: Any) -> keras.Model:
        with flat.restored_nodes(old):
            inputs, outputs, _ = flat.opened(old, None)
            walk = _Walk(self, 0)
            symbols = [_like(x) for x in inputs]
            results = walk.through(inputs, symbols, outputs)
            structure = _input_structure(old, symbols)
            return keras.Model(structure, results, name=old.name)

    def _sequential(self, old: Any) -> keras.Model:
        walk = _Walk(self, 0)
        (source,) = old.inputs
        walk.through([source], [_like(source)], old.outputs)
        return keras.Sequential([_like(source), *walk.visited], name=old.name)

    def container(self, node: Any, start: int, values: list[Any]) -> Any:
        """The container in the place of that of a node, for inputs of new shapes."""
        old = node.operation
        key = id(old), tuple(tuple(x.shape) for x in values)
        if key not in self._containers:
            self._containers[key] = self._nested(node, start, values)
        return self._containers[key]

    def _nested(self, node: Any, start: int, values: list[Any]) -> Any:
        old = node.operation
        stop = self.dependencies.graph.spans[start, id(old)]
        if not flat.has_graph(old) and self._can_stay(start, stop):
            copy = self._copied(old)
            if copy is not None:
                return copy
        arguments = (node.arguments.args, node.arguments.kwargs)
        inputs, outputs, _ = flat.opened(old, arguments)
        symbols = [
            _like(x, value.shape) for x, value in zip(inputs, values, strict=True)
        ]
        walk = _Walk(self, start)
        results = walk.through(inputs, symbols, outputs)
        if isinstance(old, keras.Sequential):
            return keras.Sequential([symbols[0], *walk.visited], name=old.name)
        return keras.Model(_input_structure(old, symbols), results, name=old.name)

    def _can_stay(self, start: int, stop: int) -> bool:
        """Whether nothing was cut in a container, and nobody else has its layers."""
        calls = self.dependencies.graph.calls
        inside = {id(call.operation) for call in calls[start:stop]}
        others = {id(call.operation) for call in (*calls[:start], *calls[stop:])}
        return not inside & others and not any(map(self._is_cut, calls[start:stop]))

    def _copied(self, old: Any) -> Any:
        """A container made again from its config, or None if it has none."""
        try:
            copy = base_class(old).from_config(old.get_config())
        except Exception:  # whatever the code of others raises
            return None
        self._copies.append((old, copy))
        return copy


class _Walk:
    """Applies new operations along the nodes of a container, from a flat call on."""

    def __init__(self, rebuild: Rebuild, position: int) -> None:
        self.rebuild = rebuild
        self.position = position
        self.visited: list[Any] = []

    def through(
        self, inputs: Sequence[Any], symbols: Sequence[Any], outputs: Any
    ) -> Any:
        """The new outputs, in the structure of the old ones."""
        scope = {id(x): y for x, y in zip(inputs, symbols, strict=True)}
        for node in flat.ordered_nodes(tree.flatten(outputs), set(scope)):
            results = self._visit(node, [scope[id(x)] for x in node.input_tensors])
            scope.update(zip(map(id, node.outputs), tree.flatten(results), strict=True))
        return tree.map_structure(lambda x: scope[id(x)], outputs)

    def _visit(self, node: Any, values: list[Any]) -> Any:
        graph = self.rebuild.dependencies.graph
        stop = graph.spans.get((self.position, id(node.operation)))
        if stop is None:
            call = graph.calls[self.position]
            self.position += 1
            new = self.rebuild.operation(call.operation)
            args, kwargs = self.rebuild.arguments(call, values)
        else:
            new = self.rebuild.container(node, self.position, values)
            self.position = stop
            args, kwargs = _call_arguments(node, new, values)
        self.visited.append(new)
        return new(*args, **kwargs)


def _call_arguments(node: Any, new: Any, values: list[Any]) -> tuple[Any, Any]:
    """As the old container was called; of what became functional just the tensors."""
    if flat.has_graph(new) and not flat.has_graph(node.operation):
        return (values[0] if len(values) == 1 else values,), {}
    rest = iter(values)
    return tree.map_structure(
        lambda x: next(rest) if isinstance(x, keras.KerasTensor) else x,
        (node.arguments.args, node.arguments.kwargs),
    )


def _like(symbol: Any, shape: Any = None) -> Any:
    """A new input in the place of a symbolic tensor."""
    operation = (
        symbol._keras_history.operation if hasattr(symbol, "_keras_history") else None
    )
    name = operation.name if isinstance(operation, keras.layers.InputLayer) else None
    return keras.Input(batch_shape=shape or symbol.shape, dtype=symbol.dtype, name=name)


def _input_structure(old: Any, symbols: list[Any]) -> Any:
    if flat.has_graph(old):
        return tree.pack_sequence_as(old.input, symbols)
    return symbols[0] if len(symbols) == 1 else symbols


def cut(value: np.ndarray, masks: dict[int, np.ndarray]) -> np.ndarray:
    """An array without the positions of its axes that do not remain.

    Example:
        >>> mask = np.array([True, False, True])
        >>> cut(np.arange(6).reshape(2, 3), {-1: mask}).tolist()
        [[0, 2], [3, 5]]
    """
    for axis, mask in masks.items():
        value = np.compress(mask, value, axis=axis)
    return value
