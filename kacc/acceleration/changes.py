"""What acceleration changed in a model, so that it can be undone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from kacc.core.errors import UsageError

# Of a model, what its parts were before acceleration: it is not saved with the model.
_ATTRIBUTE = "_kacc_before_acceleration"


def note(model: keras.Model, what: str, before: Any) -> None:
    """Remembers how a part of a model was; what is known of it already stays."""
    notes(model).setdefault(what, before)


def notes(model: keras.Model) -> dict[str, Any]:
    """All that is remembered of a model: part -> how it was before."""
    if _ATTRIBUTE not in vars(model):
        set_notes(model, {})
    return vars(model)[_ATTRIBUTE]


def set_notes(model: keras.Model, new: dict[str, Any]) -> None:
    """Puts other notes in the place of a model's."""
    # Through `object`: Keras would track what is in them.
    object.__setattr__(model, _ATTRIBUTE, new)


def take(model: keras.Model, start: str) -> list[Any]:
    """The notes of the parts whose name starts so; they are forgotten."""
    known = notes(model)
    return [known.pop(what) for what in list(known) if what.startswith(start)]


def check_model(model: object, compiled: bool = False) -> None:
    """Raises a UsageError for what is no model that can be accelerated.

    Args:
        model: what was given.
        compiled: whether it must be built and compiled too.
    """
    if not isinstance(model, keras.Model):
        raise UsageError(
            "Only a Keras 3 model can be accelerated",
            received=type(model).__name__,
            fix="Pass a keras.Model",
        )
    if keras.backend.backend() != "tensorflow":
        raise UsageError(
            "Acceleration needs Keras's TensorFlow backend",
            received=keras.backend.backend(),
            fix="Set KERAS_BACKEND=tensorflow before importing keras",
        )
    if compiled and not (model.compiled and model.built and model.optimizer):
        raise UsageError(
            "The model must be built and compiled with an optimizer",
            received=f"{model.name!r}, built: {model.built}, compiled: "
            f"{model.compiled}",
            fix="Call model.compile(...), and the model once on a batch",
        )


def optimizer_of(model: keras.Model) -> Any:
    """The optimizer that has the slots, inside the one that scales the loss if any."""
    return getattr(model.optimizer, "inner_optimizer", model.optimizer)


def set_optimizer(model: keras.Model, optimizer: Any) -> None:
    """Puts another optimizer in the place of a compiled model's.

    A saved model says how it was compiled, which names the optimizer too.
    """
    model.optimizer = optimizer
    # Private: test_precision.py fails when a saved model forgets its loss scaling.
    model._compile_config.config["optimizer"] = optimizer


def layers_by_path(model: keras.Model) -> Iterator[tuple[str, keras.Layer]]:
    """The model's layers, those inside other layers too, with their paths."""
    for layer in model._flatten_layers():
        yield layer.path or layer.name, layer
