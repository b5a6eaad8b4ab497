"""Models in files that Keras 2 wrote, which Keras 3 reads not at all or otherwise."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

from kacc.converters.chatter import to_log
from kacc.core.errors import KaccError


def is_legacy_file(path: Path) -> bool:
    """Whether Keras 2, that is tf_keras, wrote a model: an .h5, .keras or SavedModel.

    Keras 3 reads some of these .h5 files, not all as they were meant: for one, its
    "hard_sigmoid" is another function.

    Args:
        path: a file or folder.

    Example:
        >>> is_legacy_file(Path("none.h5"))
        False
    """
    if is_saved_model(path):
        return True
    return path.is_file() and _keras_version(path).startswith("2.")


def is_saved_model(path: Path) -> bool:
    """Whether a folder is a TensorFlow SavedModel."""
    return (path / "saved_model.pb").is_file()


def _keras_version(path: Path) -> str:
    """The version of Keras that a file names, or nothing."""
    import h5py

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if "metadata.json" not in archive.namelist():
                return ""
            return str(json.loads(archive.read("metadata.json")).get("keras_version"))
    if not h5py.is_hdf5(path):
        return ""
    with h5py.File(path) as file:
        return str(file.attrs.get("keras_version", ""))


def load_legacy_model(path: Path) -> Any:
    """Loads a tf_keras model, wrappers of tfmot included.

    Args:
        path: a file or folder that `is_legacy_file` knows.

    Returns:
        A tf_keras model, not compiled.

    Raises:
        KaccError: if it cannot be loaded, or a SavedModel is no Keras model.
    """
    try:
        with to_log():
            model = _load(path)
    except Exception as error:  # unknown classes, damaged files, missing parts
        reason = " ".join(str(error).split()).partition(". ")[0][:200]
        raise KaccError(
            f"The model of Keras 2 cannot be loaded ({reason.rstrip('.')})",
            received=str(path),
            fix="Classes of your own need `kacc.convert` in a program that has them",
        ) from error
    import tf_keras

    if not isinstance(model, tf_keras.Model):
        raise KaccError(
            "A SavedModel must be one that Keras 2 saved",
            received=str(path),
            fix="Save the model with model.save, and not with tf.saved_model.save or "
            "model.export",
        )
    return model


def _load(path: Path) -> Any:
    tfmot = _import_tfmot()
    import tf_keras

    with (
        tfmot.quantization.keras.quantize_scope(),
        tfmot.sparsity.keras.prune_scope(),
        tfmot.clustering.keras.cluster_scope(),
    ):
        return tf_keras.models.load_model(path, compile=False)


def _import_tfmot() -> Any:
    """tfmot, without the environment variable that it sets when it is imported.

    With `TF_USE_LEGACY_KERAS` all processes that this one starts would have Keras 2 as
    `tf.keras`, and would fail to load files of Keras 3.
    """
    before = os.environ.get("TF_USE_LEGACY_KERAS")
    import tensorflow_model_optimization as tfmot

    if before is None:
        os.environ.pop("TF_USE_LEGACY_KERAS", None)
    return tfmot
