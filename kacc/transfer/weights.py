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


def load(body: keras.Model, whole: Callable[[], keras.Model], path: Path) -> None:
    """Gives a backbone the weights of a file, with a head in it or without.

    Args:
        body: the backbone.
        whole: makes the same with ImageNet's head.
        path: a file of weights, or a saved model.

    Raises:
        UsageError: if the file is not one of this architecture.
    """
    if path.name.endswith(".keras"):
        saved = _of(lambda: keras.models.load_model(path, compile=False), path)
        _take(body, saved, path)
        return
    model = whole()
    try:
        with warnings.catch_warnings():  # of a file without a head, which is tried next
            warnings.simplefilter("ignore")
            model.load_weights(path)
    except Exception as with_head:
        try:
            body.load_weights(path)
        except Exception as without:
            lines = [str(e).strip().splitlines()[0] for e in (with_head, without)]
            raise UsageError(
                f"The file must have the weights of {body.name}",
                received=f"{path.name}: {lines[0][:200]}",
                fix="Pass the options that it was made with, such as alpha=0.75",
            ) from without
        return
    _take(body, model, path)


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
