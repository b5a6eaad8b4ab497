"""Reading what layers of a model make, while the model runs."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import keras

from kacc.core.errors import UsageError
from kacc.core.graph import trace


class Features:
    """The outputs of chosen layers of a model, from its last call.

    It sits on the layers' own `call`, so that what it reads belongs to the very step
    that runs: no second forward pass, and gradients flow. Each thread has its own, as
    replicas run in threads.

    Args:
        model: a built model.
        paths: of the layers.
        whose: "student" or "teacher", for messages.

    Raises:
        UsageError: for a path that the model does not have.
    """

    def __init__(self, model: keras.Model, paths: Iterable[str], whose: str) -> None:
        self._layers = _layers(model, paths, whose)
        self._seen = threading.local()

    def install(self) -> None:
        """Begins to read."""
        for path, layer in self._layers.items():
            # On the instance: what is attached to the class goes on working below.
            object.__setattr__(layer, "call", self._reading(path, layer))

    def remove(self) -> None:
        """Ends it."""
        for layer in self._layers.values():
            vars(layer).pop("call", None)

    def take(self, path: str) -> Any:
        """The tensor that a layer made last; each can be taken once."""
        return vars(self._seen).pop(path)

    def _reading(self, path: str, layer: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            outputs = type(layer).call(layer, *args, **kwargs)
            vars(self._seen)[path] = outputs
            return outputs

        return call


def _layers(model: keras.Model, paths: Iterable[str], whose: str) -> dict[str, Any]:
    found = {
        call.path: call.operation
        for call in trace(model).calls
        if isinstance(call.operation, keras.Layer)
    }
    for path in paths:
        if path not in found:
            raise UsageError(
                f"`features` must name layers of both models; the {whose} has no such",
                received=path,
                fix=f"Its layers are: {', '.join(list(found)[:20])}",
            )
    return {path: found[path] for path in paths}


def shapes(model: keras.Model, paths: Iterable[str]) -> dict[str, Any]:
    """The shape of what each of these layers makes, with None for the batch."""
    made = {call.path: call.outputs for call in trace(model).calls}
    return {path: made[path][0].shape for path in paths}
