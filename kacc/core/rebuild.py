"""Building a changed model beside an old one: other layers in the same places.

A new model is made along Keras's own graph. Sequential and functional models, nested
ones too, stay what they are, and shared layers stay shared. A subclassed model or layer
of layers in which something changed comes back as a functional model of its name: its
own code would make the layers as they were when it is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import tree

from kacc.core import graph as flat
from kacc.core.attach import base_class
from kacc.core.graph import Call, Graph, fill
from kacc.core.remake import remade, warn_of_tied, without_variables


class Rebuild:
    """A model made again; what changes is said by the methods of a subclass.

    Args:
        model: the old one, which stays as it is, plain.
        graph: its flat graph.

    Example:
        >>> from kacc.core.graph import trace
        >>> old = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> Rebuild(old, trace(old)).model().count_params()
        10
    """

    def __init__(self, model: keras.Model, graph: Graph) -> None:
        self.old = model
        self.graph = graph
        self.operations: dict[int, Any] = {}
        self._containers: dict[Any, Any] = {}
        self._copies: list[tuple[Any, Any]] = []
        self._calls: dict[int, Call] = {}
        for call in graph.calls:
            self._calls.setdefault(id(call.operation), call)

    # What subclasses change

    def made(self, call: Call) -> Any:
        """What stands in the place of an operation, made at its first call.

        Returns:
            A new operation, or a tuple of layers that run one after another and get
            their weights from whoever made them; an empty one if nothing does, and
            the first input is passed on.
        """
        return remade(call.operation, call.operation.get_config(), call.path)

    def is_changed(self, call: Call) -> bool:
        """Whether a call is not what it was."""
        return False

    def arguments(self, call: Call, values: list[Any]) -> tuple[Any, Any]:
        """The arguments of a call, with values in the place of its tensors."""
        return fill(call, values)

    def value(self, variable: Any) -> np.ndarray:
        """What the new variable in the place of an old one holds."""
        return np.asarray(keras.ops.convert_to_numpy(variable))

    # What they use

    def operation(self, old: Any) -> Any:
        """What stands in the place of an old operation; the same each time."""
        if id(old) not in self.operations:
            self.operations[id(old)] = self.made(self._calls[id(old)])
        return self.operations[id(old)]

    def standing(self, old: Any) -> Any:
        """What computes what stands in the place of an old operation.

        Inside of a container that was copied as a whole that is the old one itself.
        """
        return self.operations.get(id(old), old)

    def model(self) -> keras.Model:
        """The new model, with the weights of the old one where nothing changed."""
        warn_of_tied(self.graph)
        if isinstance(self.old, keras.Sequential):
            new = self._sequential(self.old)
        else:
            new = self._functional(self.old)
        for source, target in self.variables():
            target.assign(self.value(source))
        for layer in new._flatten_layers():
            if isinstance(layer, keras.layers.Normalization):
                layer.finalize_state()  # its numbers, from its variables
        return new

    def variables(self) -> list[tuple[Any, Any]]:
        """(variable of the old model, the one in its place), of all layers made."""
        made = [
            (self._calls[key].operation, new)
            for key, new in self.operations.items()
            if isinstance(new, keras.Layer)
        ]
        return [
            pair
            for old, new in (*made, *self._copies)
            for pair in zip(old.variables, new.variables, strict=True)
        ]

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
        return keras.Sequential([_like(source), *walk.layers], name=old.name)

    def container(self, node: Any, start: int, values: list[Any]) -> Any:
        """The container in the place of that of a node, for inputs of new shapes."""
        old = node.operation
        key = id(old), tuple(tuple(x.shape) for x in values)
        if key not in self._containers:
            self._containers[key] = self._nested(node, start, values)
        return self._containers[key]

    def _nested(self, node: Any, start: int, values: list[Any]) -> Any:
        old = node.operation
        stop = self.graph.spans[start, id(old)]
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
            return keras.Sequential([symbols[0], *walk.layers], name=old.name)
        return keras.Model(_input_structure(old, symbols), results, name=old.name)

    def _can_stay(self, start: int, stop: int) -> bool:
        """Whether nothing changed in a container, and nobody else has its layers."""
        calls = self.graph.calls
        inside = {id(call.operation) for call in calls[start:stop]}
        others = {id(call.operation) for call in (*calls[:start], *calls[stop:])}
        return not inside & others and not any(map(self.is_changed, calls[start:stop]))

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

    @property
    def layers(self) -> list[Any]:
        """What a Sequential model is made of: it computes masks by itself."""
        return [x for x in self.visited if isinstance(x, keras.Layer)]

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
        graph = self.rebuild.graph
        stop = graph.spans.get((self.position, id(node.operation)))
        if stop is None:
            call = graph.calls[self.position]
            self.position += 1
            new = self.rebuild.operation(call.operation)
            # The old model's variables would tie the new one to it.
            args, kwargs = tree.map_structure(
                without_variables, self.rebuild.arguments(call, values)
            )
        else:
            new = self.rebuild.container(node, self.position, values)
            self.position = stop
            args, kwargs = _call_arguments(node, new, values)
        if new == ():
            return values[0]
        first, *others = new if isinstance(new, tuple) else (new,)
        self.visited += [first, *others]
        results = first(*args, **kwargs)
        for layer in others:
            results = layer(results)
        return results


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
