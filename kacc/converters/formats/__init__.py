"""The kinds of artefacts: one row for each, found by a target's name or by a path."""

from __future__ import annotations

import os
from pathlib import Path

from kacc.converters.formats.base import Format
from kacc.converters.formats.hls import Hls
from kacc.converters.formats.onnx import Onnx
from kacc.converters.formats.saved_model import SavedModel
from kacc.converters.formats.stablehlo import StableHlo
from kacc.converters.formats.tflite import TFLite
from kacc.core.errors import KaccError

TFLITE = TFLite()
SAVED_MODEL = SavedModel()
STABLEHLO = StableHlo()
ONNX = Onnx()
HLS = Hls()
FORMATS: tuple[Format, ...] = (TFLITE, SAVED_MODEL, STABLEHLO, ONNX, HLS)


def format_of(target: str) -> Format:
    """The format that a target writes.

    Example:
        >>> format_of("tflite-int8").extension
        '.tflite'
    """
    return next(f for f in FORMATS if target.startswith(f.prefixes))


def format_at(path: str | os.PathLike[str]) -> Format:
    """The format of what lies at a path.

    Raises:
        KaccError: if there is nothing, or nothing of a known format.

    Example:
        >>> format_at("no/such.tflite")
        Traceback (most recent call last):
        ...
        kacc.core.errors.KaccError: The file must exist. Received: 'no/such.tflite'.
    """
    place = Path(path)
    if not place.exists():
        raise KaccError("The file must exist", received=os.fspath(path))
    for candidate in FORMATS:
        if candidate.is_at(place):
            return candidate
    # Let the format that the name promises say what is wrong with the content.
    named = [f for f in FORMATS if f.extension and place.suffix == f.extension]
    if named and place.is_file():
        return named[0]
    raise KaccError(
        "Only these can be opened: "
        + ", ".join(candidate.name for candidate in FORMATS),
        received=os.fspath(path),
    )
