"""`kacc.microcontroller`: a TFLite file as source for TensorFlow Lite Micro."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kacc.converters import flatbuffer
from kacc.converters.artifact import Artifact
from kacc.converters.micro_arena import ArenaEstimate, estimate_arena
from kacc.converters.micro_operators import MicroOperator, operators_of, refused
from kacc.converters.micro_runtime import machine, tflm
from kacc.converters.micro_source import (
    LANGUAGES,
    array_source,
    header_source,
    resolver_source,
)
from kacc.converters.runtime import interpreter
from kacc.core.errors import ConversionError, KaccError, UsageError
from kacc.core.files import atomic_write


@dataclass(frozen=True)
class MicroBundle:
    """The source files of a model for TensorFlow Lite Micro, and what it needs there.

    Args:
        name: of the array.
        files: the array's source, its header, and the header with the resolver's calls.
        size_bytes: of the model, which stays in flash memory.
        operators: the operators that the resolver must have.
        arena: an estimate of the RAM for tensors.
        tried: whether TFLM itself took the file; without the extra kacc[micro] kacc's
            list of its operators did the checking.
    """

    name: str
    files: tuple[Path, ...]
    size_bytes: int
    operators: tuple[MicroOperator, ...]
    arena: ArenaEstimate
    tried: bool

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values, for JSON; the plan by buffer."""
        return {
            "name": self.name,
            "files": [str(path) for path in self.files],
            "size_bytes": self.size_bytes,
            "operators": {op.name: op.count for op in self.operators},
            "resolver_calls": [op.call for op in self.operators],
            "arena_bytes": self.arena.total,
            "activation_bytes": self.arena.activations,
            "persistent_bytes": self.arena.persistent,
            "tried": self.tried,
            "plan": [vars(buffer) for buffer in self.arena.plan],
        }

    def __str__(self) -> str:
        names = ", ".join(path.name for path in self.files)
        return (
            f"{names}: {self.size_bytes:,} bytes of model, {len(self.operators)} "
            f"operators, arena of about {self.arena.total:,} bytes"
        )

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.table import Table

        memory = Table("memory", "bytes", box=None, pad_edge=False)
        memory.columns[1].justify = "right"
        for row, size in (
            ("model, in flash", self.size_bytes),
            ("arena, estimated", self.arena.total),
            ("  of it activations", self.arena.activations),
            ("  of it persistent", self.arena.persistent),
        ):
            memory.add_row(row, f"{size:,}")
        operators = Table("operator", "call", "count", box=None, pad_edge=False)
        operators.columns[2].justify = "right"
        for op in self.operators:
            operators.add_row(op.name, f"{op.call}()", str(op.count))
        return Group(memory, "", operators)


def microcontroller(
    artifact: Artifact,
    folder: str | os.PathLike[str],
    name: str = "model",
    *,
    language: str = "c++",
) -> MicroBundle:
    """Writes a TFLite file as source for TensorFlow Lite Micro (TFLM).

    That is an aligned, constant array NAME with its length NAME_len (in NAME.cc or
    NAME.c), a header NAME.h with the arena's size, and NAME_operators.h with a function
    that adds just the operators that the model has to a `MicroMutableOpResolver`. What
    the device computes with TFLM's own kernels, `kacc.simulate(model, "micro")` tells;
    with the extra kacc[micro], `kacc.parity(model, artifact, x, kernels="micro")` runs
    the file in TFLM.

    Args:
        artifact: a file from `kacc.convert`; free batch sizes become one sample.
        folder: where to write; made if it is missing.
        name: of the array and the files.
        language: "c++" or "c", of the array's file.

    Returns:
        A `MicroBundle` with the files, the operators and an estimate of the arena.

    Raises:
        UsageError: if an argument is wrong.
        ConversionError: if TFLM does not run an operator of the file, or its shapes are
            only known at run time.
        KaccError: if the files cannot be written.

    Example:
        >>> import keras, tempfile
        >>> import kacc
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> path = tempfile.mkdtemp() + "/model.tflite"
        >>> artifact = kacc.convert(model, path, "tflite-float32")
        >>> bundle = microcontroller(artifact, tempfile.mkdtemp())
        >>> [operator.call for operator in bundle.operators]
        ['AddFullyConnected']
    """
    _check_call(artifact, name, language)
    data = artifact.read()
    flatbuffer.check_tflite(data, artifact.path)
    _check_operators(data, artifact.target)
    _check_shapes(data)
    tried = tflm() is not None
    if tried:
        machine(data)
    arena = estimate_arena(data)
    operators = operators_of(data)
    comment = f"{artifact.target}, {len(data)} bytes, sha256 {artifact.manifest.sha256}"
    sources = {
        f"{name}{LANGUAGES[language]}": array_source(data, name, language, comment),
        f"{name}.h": header_source(name, arena.total, comment),
        f"{name}_operators.h": resolver_source(name, operators, comment),
    }
    place = _folder(folder)
    files = [
        atomic_write(place / file, text.encode()) for file, text in sources.items()
    ]
    return MicroBundle(name, tuple(files), len(data), operators, arena, tried)


def _check_call(artifact: Any, name: Any, language: Any) -> None:
    if not isinstance(artifact, Artifact):
        raise UsageError(
            "kacc.microcontroller takes an Artifact",
            received=type(artifact).__name__,
            fix="kacc.convert returns one",
        )
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise UsageError(
            "`name` must be a name in C: letters, digits and underscores",
            received=name,
        )
    if language not in LANGUAGES:
        raise UsageError(
            f"`language` must be one of {list(LANGUAGES)}", received=language
        )


def _check_operators(data: bytes, target: str) -> None:
    found = [
        f"{operator.name} {reason} ({_origin(graph.tensors[operator.outputs[0]].name)})"
        for operator, graph, reason in refused(data)
    ]
    if found:
        raise ConversionError(
            "TensorFlow Lite Micro must run every operator",
            received=", ".join(dict.fromkeys(found)),
            fix="Replace these layers"
            + ("" if target == "tflite-int8" else ", or convert to 'tflite-int8'"),
        )


def _origin(tensor: str) -> str:
    return tensor.partition(";")[0].partition(":")[0]


def _check_shapes(data: bytes) -> None:
    """Raises if a tensor has another shape than the one that the file gives it.

    TFLM computes no shapes: where a size is free, it takes the file's, which is 1.
    """
    written = _written_shapes(data)
    if all(None not in shape for shape, _ in written.values()):
        return
    runtime = interpreter(data, "reference", keep_all=True)
    runtime.allocate_tensors()
    for detail in runtime.get_input_details():
        runtime.set_tensor(detail["index"], np.zeros(detail["shape"], detail["dtype"]))
    runtime.invoke()
    actual = {
        detail["index"]: tuple(detail["shape"].tolist())
        for detail in runtime.get_tensor_details()
    }
    wrong = [
        f"{actual[index]} in {_origin(name)}"
        for index, (shape, name) in written.items()
        if tuple(size or 1 for size in shape) != actual[index]
    ]
    if wrong:
        raise ConversionError(
            "TensorFlow Lite Micro must find the shapes in the file",
            received=", ".join(wrong[:5]),
            fix="Convert the model with batch=1",
        )


def _written_shapes(data: bytes) -> dict[int, tuple[tuple[int | None, ...], str]]:
    graph = flatbuffer.subgraphs(data)[0]
    return {
        index: (graph.tensors[index].shape, graph.tensors[index].name)
        for operator in graph.operators
        for index in operator.outputs
    }


def _folder(folder: str | os.PathLike[str]) -> Path:
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KaccError(
            "The folder must be one that can be made",
            received=f"{path}: {error.strerror}",
        ) from error
    return path
