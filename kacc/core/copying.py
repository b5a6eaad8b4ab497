"""A model's flat graph made again on other tensors, with layers of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import tree

from kacc.core.graph import Call, Graph, fill
from kacc.core.remake import (
    carry_weights,
    plain_config,
    remade,
    variables_of,
    warn_of_tied,
    without_variables,
)


class Copier:
    """Copies graphs onto tensors of one new model.

    What stands before the weights of several graphs is made once: layers with nothing
    to train that do the same to the same tensors (preprocessing).
    """

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._shared: list[tuple[Call, tuple[int, ...], Any]] = []
        self._copies: list[tuple[Any, Any]] = []
        self._held: list[Any] = []  # so that no id is used twice

    def copied(self, graph: Graph, inputs: Sequence[Any], prefix: str) -> Any:
        """The outputs of a graph, made of tensors of the new model.

        Args:
            graph: from `kacc.core.graph.trace`.
            inputs: symbolic tensors in the place of the graph's inputs.
            prefix: starts the names of the layers.

        Returns:
            Symbolic tensors in the structure of the graph's outputs.
        """
        warn_of_tied(graph)
        operations: dict[int, Any] = {}

        def apply(call: Call, values: list[Any]) -> Any:
            args, kwargs = tree.map_structure(without_variables, fill(call, values))
            known = self._known(call, values)
            if known is not None:
                return known
            key = id(call.operation)
            if key not in operations:
                operations[key] = self._made(call, prefix)
            results = operations[key](*args, **kwargs)
            self._held.append(values)
            if not _trains(call.operation):
                self._shared.append((call, tuple(map(id, values)), results))
            return results

        return graph.run(list(inputs), apply)

    def carry_weights(self) -> None:
        """Gives all layers, built by now, the weights of the old ones."""
        for old, new in self._copies:
            carry_weights(old, new)

    def _made(self, call: Call, prefix: str) -> Any:
        config = plain_config(call.operation)
        name = self._name(f"{prefix}_{call.path.replace('/', '_')}")
        if isinstance(call.operation, keras.Layer):
            config["name"] = name
        new = remade(call.operation, config, call.path)
        new.name = name
        self._copies.append((call.operation, new))
        return new

    def _name(self, wanted: str) -> str:
        name, number = wanted, 1
        while name in self._names:
            name, number = f"{wanted}_{number}", number + 1
        self._names.add(name)
        return name

    def _known(self, call: Call, values: list[Any]) -> Any:
        """What an equal call of another graph makes of the same tensors, or None."""
        if _trains(call.operation):
            return None
        inputs = tuple(map(id, values))
        for other, given, results in self._shared:
            if given == inputs and _same(call, other):
                return results
        return None


def _trains(operation: Any) -> bool:
    return bool(getattr(operation, "trainable_variables", ()))


def _same(call: Call, other: Call) -> bool:
    """Whether two calls compute the same of the same tensors."""
    one, two = call.operation, other.operation
    if type(one) is not type(two):
        return False
    configs = [{**plain_config(x), "name": None} for x in (one, two)]
    if repr(configs[0]) != repr(configs[1]) or repr(_rest(call)) != repr(_rest(other)):
        return False
    pairs = list(zip(variables_of(one), variables_of(two), strict=True))
    return all(np.array_equal(a.numpy(), b.numpy()) for a, b in pairs)


def _rest(call: Call) -> Any:
    """The arguments of a call that are no tensors."""
    return fill(call, [None] * len(call.inputs))
