"""The inputs and outputs of a Keras model: names, shapes, types and structure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kacc.converters import legacy
from kacc.core.errors import UsageError
from kacc.core.manifest import DICT, LIST, SINGLE, TensorInfo


@dataclass(frozen=True)
class Signature:
    """What a model takes, flat, and the structure that it takes it in."""

    inputs: tuple[TensorInfo, ...]
    structure: Any

    @property
    def kind(self) -> str:
        """How a person hands over the inputs: "single", "list" or "dict"."""
        return kind_of(self.structure)

    def packed(self, flat: Sequence[Any]) -> Any:
        """One value per input, in the structure that the model takes."""
        import keras

        return keras.tree.pack_sequence_as(self.structure, list(flat))


def kind_of(structure: Any) -> str:
    """How a person hands over such a structure: "single", "list" or "dict"."""
    if isinstance(structure, Mapping):
        return DICT
    if isinstance(structure, list | tuple):
        return LIST
    return SINGLE


def signature_of(model: Any, batch: int | None) -> Signature:
    """Reads the inputs of a built model.

    Args:
        model: a built Keras model of any kind.
        batch: the batch size that the shapes get, or None for any.

    Returns:
        Its inputs, named as in the model; subclassed models have no names, so their
        inputs are called by dictionary key or "input_0", "input_1".

    Raises:
        UsageError: if the model is not a built Keras model.
    """
    import keras

    require_model(model)
    structure = _input_structure(_named(model))
    flat = keras.tree.flatten(structure)
    names = _names(structure, flat, "input")
    if legacy.is_legacy(model):
        names = legacy.input_names(model, len(flat)) or names
    names = unique([_file_name(name) for name in names])
    inputs = tuple(
        TensorInfo(name, (batch, *x.shape[1:]), _file_dtype(x.dtype))
        for name, x in zip(names, flat, strict=True)
    )
    return Signature(inputs, structure)


def require_model(model: Any) -> None:
    """Raises a UsageError unless something is a model of Keras 3 or of tf_keras."""
    import keras

    if not isinstance(model, keras.Model) and not legacy.is_legacy(model):
        raise UsageError(
            "Only Keras 3 models and those of tf_keras can be converted",
            received=f"{type(model).__module__}.{type(model).__qualname__}",
            fix="Pass a keras.Model",
        )


def output_names(model: Any, structure: Any) -> list[str]:
    """Names of a model's outputs, in the flat order of what its call returned."""
    import keras

    flat = keras.tree.flatten(structure)
    if kind_of(structure) != DICT:
        model = _named(model)
        known = getattr(model, "output_names", None)
        if isinstance(model, keras.Sequential):
            known = [model.layers[-1].name]
        if known and len(known) == len(flat):
            return unique([_file_name(name) for name in known])
    return unique([_file_name(name) for name in _names(structure, flat, "output")])


def unique(names: Sequence[str]) -> list[str]:
    """The names with "_1", "_2" added where one comes again."""
    result: list[str] = []
    for name in names:
        candidate, count = name, 0
        while candidate in result:
            count += 1
            candidate = f"{name}_{count}"
        result.append(candidate)
    return result


def _named(model: Any) -> Any:
    """The model whose inputs and outputs have names: a quantized copy has none."""
    return getattr(model, "kacc_original", model)


def _input_structure(model: Any) -> Any:
    import keras

    # Private: Keras does not export the class of functional models, the only ones to
    # know the structure of their inputs. tests/converters/test_signature.py watches.
    from keras.src.models.functional import Functional

    if not model.built:
        raise _unbuilt(model)
    if legacy.is_legacy(model):
        structure = legacy.input_structure(model)
        if structure is None:
            raise _unbuilt(model)
        return structure
    if isinstance(model, keras.Sequential):
        return model.inputs[0]
    if isinstance(model, Functional):
        return model.input
    config = model.get_build_config() or {}
    if "input_shape" not in config:
        raise _unbuilt(model)

    def tensor(shape: tuple[int | None, ...]) -> Any:
        return keras.KerasTensor((None, *shape[1:]), dtype=model.input_dtype)

    return keras.tree.map_shape_structure(tensor, config["input_shape"])


def _unbuilt(model: Any) -> UsageError:
    return UsageError(
        "The model must be built, so that its input shapes are known",
        received=f"{type(model).__name__} {model.name!r}",
        fix="Call it once on a batch, or give it a keras.Input",
    )


def _names(structure: Any, flat: Sequence[Any], default: str) -> list[str]:
    if isinstance(structure, Mapping) and len(structure) == len(flat):
        return [str(key) for key in sorted(structure)]  # Keras flattens in this order
    # Private: a tensor's own name may be that of a copy; its layer's is the one given
    # to keras.Input.
    made_by = [getattr(x, "_keras_history", None) for x in flat]
    if default == "input" and all(history is not None for history in made_by):
        return [str(history.operation.name) for history in made_by if history]
    return [f"{default}_{i}" for i in range(len(flat))]


def _file_name(name: str) -> str:
    return name.split(":")[0]


def _file_dtype(dtype: Any) -> str:
    """Half-precision inputs become float32: files compute in float32 or integers."""
    name = str(getattr(dtype, "name", dtype))
    return "float32" if name in ("float16", "bfloat16", "float64") else name
