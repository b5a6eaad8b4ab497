"""A layer or operator made again from its config, for a model beside the old one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from kacc.core import attach, registry
from kacc.core.errors import UsageError
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
        for weight in spec.weights:
            value = attach.weight_before(old, weight.attribute, QUANTIZE)
            getattr(new, weight.attribute).assign(value)


def without_variables(value: Any) -> Any:
    """A constant in the place of a weight that no layer calls its own."""
    if isinstance(value, keras.Variable):
        return keras.ops.convert_to_numpy(value)
    return value
