"""Layers with matrices that a technique leaves as they are, and why."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from kacc.core import registry, remake
from kacc.core.graph import Graph

# Matrices of so few weights are of no account in a file.
_FEW = 256


def unknown_type(operation: Any, done: str, few: int = _FEW) -> str | None:
    """Why a layer stays as it is that has matrices of which the registry knows nothing.

    Of a type that is known, matrices without a row are few: depthwise kernels, slopes.

    Args:
        operation: a layer or operator.
        done: what is not done to it, such as "pruned".
        few: smaller matrices do not count, nor those of so many weights.

    Returns:
        The reason, or None for a layer without such matrices.

    Example:
        >>> import keras
        >>> layer = keras.layers.LSTM(32)
        >>> layer.build((None, 4, 8))
        >>> unknown_type(layer, "pruned")
        'the layer type LSTM is not pruned'
    """
    spec = registry.find(operation)
    if spec is not None and (spec.weights or spec.tables):
        return None
    for variable in getattr(operation, "trainable_variables", ()):
        if len(variable.shape) > 1 and math.prod(variable.shape) > few:
            return f"the layer type {type(operation).__name__} is not {done}"
    return None


def read_elsewhere(graph: Graph) -> dict[int, str]:
    """The layers whose matrices are read past them, as a tied output layer does.

    Whoever reads the variable itself sees it without what is attached to its layer.

    Args:
        graph: of a model.

    Returns:
        Id of each such layer -> the reason to leave it alone.
    """
    operations = {id(call.operation): call for call in graph.calls}
    holders: dict[int, list[Any]] = {}
    for call in operations.values():
        for variable in remake.variables_of(call.operation):
            holders.setdefault(id(variable), []).append(call)
    tied = {key: path for key, (path, _) in remake.tied(graph).items()}
    found: dict[int, str] = {}
    for key, call in operations.items():
        for _, variable in registry.matrix_weights(call.operation):
            others = [
                other.path
                for other in holders[id(variable)]
                if not _share_calls(other.operation, call.operation)
            ]
            reader = tied.get(id(variable)) or next(iter(others), None)
            if reader is not None:
                found[key] = f"{reader} reads its weights as well, from outside of it"
    return found


def _share_calls(one: Any, other: Any) -> bool:
    """Whether a layer is the other one, or inside it, where it is called as well."""
    return any(x is other for x in one._flatten_layers()) or any(
        x is one for x in other._flatten_layers()
    )


def warn_of_left(
    said: str, skipped: Mapping[str, str], expected: Sequence[str] = ()
) -> None:
    """Warns, once for all layers, of those that stay as they are.

    Args:
        said: what is said of them, such as "does not prune".
        skipped: path -> reason.
        expected: the reasons that need no warning.
    """
    rest = {path: why for path, why in skipped.items() if why not in expected}
    if rest:
        listed = "; ".join(f"{path} ({why})" for path, why in rest.items())
        warnings.warn(f"kacc {said}: {listed}", stacklevel=4)
