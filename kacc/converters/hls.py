"""Projects for high-level synthesis: C++ that FPGA tools make circuits of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kacc.converters import legacy
from kacc.converters.fixed_type import Fixed
from kacc.converters.formats.base import Folder, Operation, require
from kacc.converters.formats.hls import require_compiler
from kacc.converters.request import Converted, Request
from kacc.core.errors import UsageError
from kacc.core.manifest import TensorInfo

if TYPE_CHECKING:
    from kacc.converters.hls_layers import Part

IO_TYPES = ("io_parallel", "io_stream")


def to_fpga_hls(request: Request) -> Converted:
    """A project of hls4ml, compiled for this machine to run what the FPGA computes.

    Each tensor has a fixed-point type: as many bits as the model's scheme gives it, of
    which as many before the point as its range needs. Steps are powers of two so, and
    those of the scheme are not: the numbers are near, not the same.
    """
    require("hls4ml", "fpga", f"The target {request.target!r}")
    if legacy.is_legacy(request.model):
        raise UsageError(
            f"The target {request.target!r} takes Keras 3 models",
            received="a model of tf_keras",
            fix="Call kacc.from_tf_keras(model) first",
        )
    require_compiler()
    # Both import Keras.
    from kacc.converters.hls_layers import plain_model
    from kacc.converters.hls_numbers import numbers_of

    numbers = numbers_of(request.model, request.calibration)
    plain = plain_model(numbers, request.target)
    reuse_factor = request.export.reuse_factor or 1
    io_type = request.export.io_type or IO_TYPES[0]

    def fill(folder: Path) -> None:
        from kacc.converters.hls_project import write_project

        write_project(plain, folder, reuse_factor, io_type)

    from kacc.converters.hls_project import BACKEND, version

    notes = {
        "macs": request.macs,
        "precisions": {part.name: _texts(part) for part in plain.parts},
        "tool": BACKEND,
        **version(),
    }
    content = Folder(
        fill, [_operation(part) for part in plain.parts[len(plain.inputs) :]]
    )
    return Converted(
        content,
        "hls4ml",
        notes,
        inputs=_on_grid(request.graph.inputs, plain.inputs),
        outputs=_on_grid(request.graph.outputs, plain.outputs),
    )


def _texts(part: Part) -> dict[str, str]:
    return {name: str(fixed) for name, fixed in part.types.items()}


def _operation(part: Part) -> Operation:
    result = part.types["result"]
    bits = sum(part.types[name].width * count for name, count in part.weights.items())
    return Operation(
        layer=part.path,
        kind=type(part.layer).__name__,
        output=part.shape,
        dtype=str(result),
        bytes=(bits + 7) // 8,
        macs=part.macs,
        scale=result.step,
        zero_point=0,
    )


def _on_grid(infos: Any, types: tuple[Fixed, ...]) -> tuple[TensorInfo, ...]:
    """The tensors with the steps of their types; they are given as floats."""
    return tuple(
        replace(
            info,
            dtype="float32",
            scale=fixed.step,
            zero_point=0,
            integers=fixed.storage,
        )
        for info, fixed in zip(infos, types, strict=True)
    )
