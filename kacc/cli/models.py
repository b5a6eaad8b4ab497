"""Saved Keras models, for the commands that take one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras

from kacc.cli.images import ImageShape
from kacc.converters.legacy_files import (
    is_legacy_file,
    is_saved_model,
    load_legacy_model,
)
from kacc.core.errors import KaccError, UsageError


def load_model(path: Path) -> keras.Model:
    """Load a Keras 3 model.

    Args:
        path: a .keras file, or an .h5 file with a whole model.

    Returns:
        The model, compiled if it was saved so.

    Raises:
        UsageError: there is no such file.
        KaccError: it cannot be loaded.

    Example:
        >>> load_model(Path("none.keras"))
        Traceback (most recent call last):
        ...
        kacc.core.errors.UsageError: There is no such model file. Received: 'none...'.
    """
    if not path.is_file():
        raise UsageError("There is no such model file", received=str(path))
    try:
        return keras.saving.load_model(path)
    except (ValueError, TypeError, OSError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split()).partition(". ")[0][:200]
        raise KaccError(
            f"The model cannot be loaded ({reason.rstrip('.')})",
            received=str(path),
            fix="Save it with Keras 3 as FILE.keras; Lambda layers and classes of your "
            "own need `kacc.convert` in a program that defines them",
        ) from error


def load_any_model(path: Path) -> Any:
    """Load a model of Keras 3, or of Keras 2 into tf_keras.

    Args:
        path: a .keras or .h5 file, or the folder of a SavedModel.

    Returns:
        A Keras 3 model, or one of tf_keras if Keras 2 wrote it. A SavedModel of another
        origin is a model of one layer.

    Raises:
        UsageError: there is no such file.
        KaccError: it cannot be loaded.
    """
    if is_exported(path):
        return load_exported(path)
    return load_legacy_model(path) if is_legacy_file(path) else load_model(path)


def is_exported(path: Path) -> bool:
    """Whether a SavedModel was written by `model.export` or TensorFlow, not Keras 2."""
    return is_saved_model(path) and not (path / "keras_metadata.pb").is_file()


def load_exported(path: Path) -> keras.Model:
    """A SavedModel's function "serving_default" as a Keras 3 model of one layer.

    Args:
        path: the folder, such as one that `model.export` wrote.

    Returns:
        The model, whose layers cannot be told apart.

    Raises:
        KaccError: the SavedModel has no such function, or takes no batches.
    """
    import tensorflow as tf

    endpoint = "serving_default"
    loaded = tf.saved_model.load(str(path))
    signatures = loaded.signatures
    if endpoint not in signatures:
        raise KaccError(
            f"A SavedModel must have the signature {endpoint!r}",
            received=f"{path} with {sorted(signatures)}",
        )
    specs = signatures[endpoint].structured_input_signature[1]
    if not all(spec.shape.rank for spec in specs.values()):
        raise KaccError(
            "A SavedModel must take tensors with a batch axis",
            received=f"{path} with {sorted(map(str, specs.values()))}",
        )
    inputs = {
        name: keras.Input(tuple(spec.shape[1:]), name=name, dtype=spec.dtype.name)
        for name, spec in specs.items()
    }
    outputs = _Signature(loaded, endpoint)(inputs)
    flat = list(outputs.values())
    return keras.Model(inputs, flat[0] if len(flat) == 1 else outputs)


class _Signature(keras.layers.Layer):
    """A function of a SavedModel as a layer, from a dictionary to a dictionary."""

    def __init__(self, loaded: Any, endpoint: str) -> None:
        super().__init__(name="saved_model")
        self._loaded = loaded  # which keeps the variables
        self._function = loaded.signatures[endpoint]

    def call(self, inputs: dict[str, Any]) -> Any:
        return self._function(**inputs)

    def compute_output_spec(self, inputs: dict[str, Any]) -> Any:
        return {
            name: keras.KerasTensor((None, *spec.shape[1:]), dtype=spec.dtype.name)
            for name, spec in self._function.structured_outputs.items()
        }


def image_shape(model: Any) -> ImageShape:
    """The size and channels that a model asks of its images, None where free.

    Args:
        model: a built model.

    Returns:
        The shape.

    Raises:
        UsageError: the model does not take images alone.

    Example:
        >>> image = keras.Input((8, None, 1))
        >>> image_shape(keras.Sequential([image, keras.layers.ReLU()]))
        ImageShape(height=8, width=None, channels=1)
    """
    shape = getattr(model, "input_shape", None)
    if isinstance(shape, tuple) and len(shape) == 4 and shape[-1] in (1, 3, None):
        return ImageShape(*shape[1:])
    raise UsageError(
        "The model must take images (height, width, 1 or 3 channels)",
        received=f"input {shape}",
        fix="For other inputs, pass a calibration as an .npz file",
    )
