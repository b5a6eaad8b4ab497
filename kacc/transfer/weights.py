"""Files of weights of `keras.applications`: checked, and read into a backbone."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from kacc.core.errors import UsageError
from kacc.transfer.preprocessing import PREPROCESSING

# What Keras raises for a file of other weights: by its count or shapes of variables, by
# names that HDF5 does not find, and for a file that is no HDF5.
_UNFIT = (ValueError, KeyError, OSError)


def checked(path: str | os.PathLike[str], sha256: str | None) -> Path:
    """The path of a file of weights, if its content is what it should be.

    Args:
        path: of the file.
        sha256: its digest in hexadecimal (FIPS 180-4). Without one, that in a file of
            the same name with ".sha256" behind, as `sha256sum` writes it, if there is.

    Raises:
        UsageError: if there is no such file, or its digest is another.
    """
    if not isinstance(path, str | os.PathLike):
        raise UsageError("`weights` must be the path of a file", received=path)
    if sha256 is not None and not isinstance(sha256, str):
        raise UsageError("`sha256` must be hexadecimal digits", received=sha256)
    file = Path(path)
    if not file.is_file():
        raise UsageError("The file of weights must exist", received=os.fspath(path))
    listed = file.with_name(file.name + ".sha256")
    if sha256 is None and listed.is_file():
        sha256 = (listed.read_text().split() or [""])[0]
    if sha256 is None:
        return file
    with file.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != sha256.strip().lower():
        raise UsageError(
            "The file of weights must have the SHA-256 that is asked for",
            received=f"{found} of {os.fspath(path)}",
            fix=f"Fetch it anew; {sha256} is expected",
        )
    return file


def load(body: keras.Model, whole: Callable[[], keras.Model], path: Path) -> bool:
    """Gives a backbone the weights of a file, with a head in it or without.

    Args:
        body: the backbone.
        whole: makes the same with ImageNet's head.
        path: a file of weights, or a saved model; also of a model that
            `kacc.pretrained` made, with a head of any size.

    Returns:
        Whether `kacc.pretrained` made it, so that it reads red first already.

    Raises:
        UsageError: if the file is not one of this architecture.
    """
    if path.name.endswith(".keras"):
        saved = _of(lambda: keras.models.load_model(path, compile=False), path)
        _take(body, saved, path)
        return any(layer.name == PREPROCESSING for layer in saved.layers)
    model = whole()
    try:
        with warnings.catch_warnings():  # of a file without a head, which is tried next
            warnings.simplefilter("ignore")
            model.load_weights(path)
    except _UNFIT as with_head:
        if _loads(body, path):
            return False
        if _loads(_around(body), path):
            return _reads_preprocessed(path)
        raise UsageError(
            f"The file must have the weights of {body.name}",
            received=f"{path.name}: {str(with_head).strip().splitlines()[0][:200]}",
            fix="Pass the options that it was made with, such as alpha=0.75",
        ) from with_head
    _take(body, model, path)
    return False


def _loads(model: keras.Model, path: Path) -> bool:
    """Loads a file of weights if it is the model's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model.load_weights(path)
        except _UNFIT:
            return False
    return True


def _around(body: keras.Model) -> keras.Model:
    """A model with the backbone inside, as in a file of `kacc.pretrained`'s result.

    What such a file has besides, the head, is not asked for.
    """
    inputs = keras.Input(body.input_shape[1:])
    return keras.Model(inputs, body(inputs))


def _reads_preprocessed(path: Path) -> bool:
    """Whether a file of weights is of a model that begins with preprocessing."""
    import h5py

    # Keras names what it stores by the class of the layer.
    with h5py.File(path) as stored:
        return bool({"normalization", "rescaling"} & set(stored["layers"]))


def _of(make: Callable[[], Any], path: Path) -> Any:
    try:
        return make()
    except Exception as error:
        raise UsageError(
            "The file must be a model that Keras can load",
            received=f"{path.name}: {str(error).strip().splitlines()[0][:200]}",
        ) from error


def _take(body: keras.Model, model: Any, path: Path) -> None:
    """The first weights of a model, which are those below its head."""
    weights = model.get_weights()[: len(body.weights)]
    shapes = [tuple(variable.shape) for variable in body.weights]
    if [w.shape for w in weights] != shapes:
        raise UsageError(
            f"The file must have the weights of {body.name}",
            received=f"{path.name}, whose weights have other shapes",
            fix="Pass the options that it was made with, such as alpha=0.75",
        )
    body.set_weights(weights)
