"""The recipe that a root model carries in its config.

An attached layer saves itself. What has no config of its own to save in (operators, the
children of subclassed models and composite layers) is attached again by the root: its
config names each technique with its settings, and loading applies them before the
weights come.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import keras
from keras.src.saving import object_registration

from kacc.core import attach
from kacc.core.errors import UsageError
from kacc.core.graph import require_built
from kacc.core.transform import is_observing, is_training

REGISTERED_NAME = "kacc>AttachedModel"

_RESTORE: dict[str, Callable[[keras.Model, dict[str, Any]], None]] = {}
_INFER: list[Callable[[keras.Model, Any], Callable[[Any], Any] | None]] = []
_CLASSES: dict[type, type] = {}

# The model that is being called and what it was called with: Keras hands a bfloat16
# model's `call` rounded inputs, and the file reads the full ones.
_GIVEN: ContextVar[Any] = ContextVar("kacc_given", default=(None, ()))


def register_technique(
    name: str, restore: Callable[[keras.Model, dict[str, Any]], None]
) -> None:
    """Names a technique; `restore(model, settings)` attaches it to a loaded model."""
    _RESTORE[name] = restore


def register_inference(
    infer: Callable[[keras.Model, Any], Callable[[Any], Any] | None],
) -> None:
    """Adds a way to run a root model at inference.

    Args:
        infer: (model, the model's own call as a function without arguments) ->
            a function of the call's positional arguments, or None to decline.
    """
    _INFER.append(infer)


def recipe_of(model: Any) -> dict[str, dict[str, Any]]:
    """The techniques on a root model: name -> settings."""
    return getattr(model, "_kacc_recipe", {})


def set_technique(model: keras.Model, name: str, settings: dict[str, Any]) -> None:
    """Writes a technique into the model's recipe."""
    recipe = {**recipe_of(model), name: settings}
    model.__class__ = _model_class(attach.base_class(model))
    object.__setattr__(model, "_kacc_recipe", recipe)


def strip(model: keras.Model) -> keras.Model:
    """Takes all transforms off, in place; the weights stay as they are trained.

    Those that pruning removed are exact zeros.

    Args:
        model: a Keras 3 model, attached or not.

    Returns:
        The same model, of plain Keras layers again. Compile it before `fit`.

    Raises:
        UsageError: if `model` is not a Keras 3 model.

    Example:
        >>> import keras, kacc
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> type(kacc.strip(kacc.quantize(model)).layers[0]) is keras.layers.Dense
        True
    """
    require_built(model)
    for operation in list(attach.attached(model)):
        attach.detach(operation)
    for layer in model._flatten_layers():
        attach.drop_state(layer)
        if recipe_of(layer):
            layer.__class__ = attach.base_class(layer)
            object.__delattr__(layer, "_kacc_recipe")
    attach.refresh_functions(model)
    return model


def _model_class(base: type) -> type:
    if base not in _CLASSES:
        members = {
            "kacc_base": base,
            "kacc_equivalent": True,
            "__module__": base.__module__,
            "__qualname__": base.__qualname__,
            "__doc__": base.__doc__,
            "__call__": _outer_call,
            "call": _call,
            "get_config": _get_config,
            "from_config": classmethod(_from_config),
            "build_from_config": _build_from_config,
            "save": _save,
        }
        _CLASSES[base] = type(base.__name__, (base,), members)
        object_registration.GLOBAL_CUSTOM_NAMES[_CLASSES[base]] = REGISTERED_NAME
    return _CLASSES[base]


def _outer_call(self: Any, *args: Any, **kwargs: Any) -> Any:
    token = _GIVEN.set((self, args))
    try:
        return attach.base_class(self).__call__(self, *args, **kwargs)
    finally:
        _GIVEN.reset(token)


def _given(model: Any, args: tuple[Any, ...]) -> Any:
    """The positional arguments as they were before Keras cast them."""
    called, given = _GIVEN.get()
    if called is not model or len(given) != len(args):
        return args
    return keras.tree.map_structure(keras.ops.convert_to_tensor, given)


def _call(self: Any, *args: Any, **kwargs: Any) -> Any:
    """The model's own call in training; at inference what a technique offers."""

    def own() -> Any:
        return attach.base_class(self).call(self, *args, **kwargs)

    flat = keras.tree.flatten((args, kwargs))
    symbolic = any(isinstance(x, keras.KerasTensor) for x in flat)
    by_name = any(keras.ops.is_tensor(kwargs[k]) for k in kwargs if k != "mask")
    if (
        symbolic
        or by_name
        or is_training()
        or is_observing()
        or keras.src.backend.in_symbolic_scope()
    ):
        return own()
    for infer in _INFER:
        run = infer(self, own)
        if run is not None:
            with keras.src.backend.AutocastScope(None):
                return run(_given(self, args))
    return own()


def _save(self: Any, filepath: Any, *args: Any, **kwargs: Any) -> None:
    """Saves a model, and refuses a format that could not be loaded again."""
    if os.fspath(filepath).endswith((".h5", ".hdf5")):
        raise UsageError(
            "A model that kacc works on must be saved in the .keras format: the older "
            "one knows only Keras's own models",
            received=os.fspath(filepath),
            fix="Save it as .keras, or call kacc.strip(model) first",
        )
    attach.base_class(self).save(self, filepath, *args, **kwargs)


def _get_config(self: Any) -> dict[str, Any]:
    with attach.plain(self):
        inner = keras.saving.serialize_keras_object(self)
    # Keras writes these two beside the outer config, from where they are read.
    inner.pop("build_config", None)
    inner.pop("compile_config", None)
    return {"name": self.name, "inner": inner, "recipe": recipe_of(self)}


def _from_config(cls: type, config: dict[str, Any], custom_objects: Any = None) -> Any:
    if "inner" not in config:
        return attach.base_class_of(cls).from_config(config)
    return from_config(config, custom_objects)


def from_config(config: dict[str, Any], custom_objects: Any = None) -> Any:
    """Makes the attached model that a saved file describes, before its weights load."""
    model = keras.saving.deserialize_keras_object(
        config["inner"], custom_objects=custom_objects
    )
    for name, settings in config["recipe"].items():
        set_technique(model, name, settings)
    if model.built:
        _restore(model)
    return model


def _build_from_config(self: Any, config: dict[str, Any]) -> None:
    attach.base_class(self).build_from_config(self, config)
    self.built = True  # Keras says so only after this
    _restore(self)


def _restore(model: keras.Model) -> None:
    for name, settings in recipe_of(model).items():
        _RESTORE[name](model, settings)
