"""A layer or operator made again from its config, for a model beside the old one."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from kacc.core import attach, registry
from kacc.core.errors import UsageError
from kacc.core.graph import Graph
from kacc.core.transform import QUANTIZE, State


def remade(old: Any, config: Mapping[str, Any], path: str) -> Any:
    """A new operation of the class that an old one had before anything was attached.

    Args:
        old: a layer or operator.
        config: of the new one: the old one's `get_config`, changed as needed.
        path: of the old one, for the error.

    Returns:
        The new operation, not built; of what is attached to the old one it has nothing.

    Raises:
        UsageError: if the class cannot be made from its config.

    Example:
        >>> dense = keras.layers.Dense(2)
        >>> remade(dense, {**dense.get_config(), "units": 3}, "dense").units
        3
    """
    # A Lambda is made of code, which Keras distrusts in files; this one is the user's.
    options = {"safe_mode": False} if isinstance(old, keras.layers.Lambda) else {}
    try:
        return attach.base_class(old).from_config(dict(config), **options)
    except Exception as error:
        raise UsageError(
            "Every layer must be one that its config can make again",
            received=f"{path}: {type(error).__name__}: {error}",
            fix="Give its class a get_config that fits its __init__",
        ) from error


def plain_config(operation: Any) -> dict[str, Any]:
    """The config that an operation has without what is attached to it."""
    return dict(attach.base_class(operation).get_config(operation))


def variables_of(operation: Any) -> list[Any]:
    """The variables of a layer without those of what is attached to it."""
    if not isinstance(operation, keras.Layer):
        return []
    states = [x for x in operation._flatten_layers() if isinstance(x, State)]
    attached = {id(v) for state in states for v in state.variables}
    return [v for v in operation.variables if id(v) not in attached]


def carry_weights(old: Any, new: Any) -> None:
    """Gives a layer the weights of another one, as pruning and the like leave them."""
    if not isinstance(old, keras.Layer):
        return
    pairs = zip(variables_of(old), new.variables, strict=True)
    for source, target in pairs:
        target.assign(source.value)
    if isinstance(new, keras.layers.Normalization):
        new.finalize_state()  # what it computes with was taken from its variables
    spec = registry.find(old)
    if spec is not None and attach.transforms_of(old):
        for weight in (*spec.weights, *(row for row, _ in registry.tables(old))):
            value = attach.weight_before(old, weight.attribute, QUANTIZE)
            getattr(new, weight.attribute).assign(value)


def tied(graph: Graph) -> dict[int, tuple[str, Any]]:
    """The variables that operations other than their own layers read.

    So an output layer shares the table of an embedding: `x @ transpose(table)`.

    Args:
        graph: of a model.

    Returns:
        Id of each variable -> (path of the first reader, the variable).
    """
    found: dict[int, tuple[str, Any]] = {}
    for call in graph.calls:
        for value in keras.tree.flatten((call.args, call.kwargs)):
            variable = _read(value, graph)
            if variable is not None:
                found.setdefault(id(variable), (call.path, variable))
    return found


def _read(value: Any, graph: Graph) -> Any:
    """The variable that an argument is, or is the value of; None if it is another."""
    if isinstance(value, keras.Variable):
        return value
    # An operator on a variable alone was computed when the model was traced.
    if not keras.ops.is_tensor(value) or len(value.shape) < 2:
        return None
    layers = {id(c.operation): c.operation for c in graph.calls}.values()
    for layer in layers:
        for variable in variables_of(layer):
            if sorted(variable.shape) == sorted(value.shape) and _equal(
                keras.ops.convert_to_numpy(value), keras.ops.convert_to_numpy(variable)
            ):
                return variable
    return None


def _equal(value: np.ndarray, other: np.ndarray) -> bool:
    """Whether arrays, which are not zero everywhere, are equal or each other's turn."""
    return bool(value.any()) and any(
        np.array_equal(value, turned) for turned in (other, other.T)
    )


def warn_of_tied(graph: Graph) -> None:
    """Says which variables become constants where a graph is made again.

    Keras saves no layer that reads another one's variable.
    """
    for path, variable in tied(graph).values():
        warnings.warn(
            f"kacc: {path} reads {variable.path}, the weight of a layer, from outside "
            "of it; in the new model that is a constant, which training leaves alone",
            stacklevel=2,
        )


def without_variables(value: Any) -> Any:
    """A constant in the place of a weight that no layer calls its own."""
    if isinstance(value, keras.Variable):
        return keras.ops.convert_to_numpy(value)
    return value
