"""The table of targets: what each is called, how it is made, and from what."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kacc.converters import ethos, hls, onnx, stablehlo, tflite, xla
from kacc.converters.formats import Format, format_of
from kacc.converters.post_training import BACKEND
from kacc.converters.request import Converted, Request
from kacc.core.errors import UsageError


@dataclass(frozen=True)
class Target:
    """A row of the table.

    Args:
        name: what `kacc.convert` calls it.
        handler: makes the content of the file.
        schemes: the quantization schemes of attached models that it can hold; models
            without a scheme always fit.
        integer: whether every operator is integer, so that `io` has a meaning.
        backends: the names that `backend` may have for models without a scheme.
        accelerators: the sizes that `accelerator` may name.
        batch: the only batch size that it takes, or None.
        io: the integer type of the inputs and outputs.
        sparse: whether it can store weights without their zeros.
        options: the options of `Export` that it takes, with the values that they may
            have, the default first; without any they are positive integers.
        keeps_fake_quantization: whether it takes models of any scheme, and computes
            their quantization in floats.
        calibrates: whether a target without integers of its own takes samples to find
            the ranges of plain models.
    """

    name: str
    handler: Callable[[Request], Converted]
    schemes: frozenset[str] = frozenset()
    integer: bool = False
    backends: tuple[str, ...] = ()
    accelerators: tuple[int, ...] = ()
    batch: int | None = None
    io: str = "int8"
    sparse: bool = False
    options: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    keeps_fake_quantization: bool = False
    calibrates: bool = False

    @property
    def format(self) -> Format:
        """The kind of artefact that it writes."""
        return format_of(self.name)

    @property
    def scheme(self) -> str:
        """The scheme by which kacc itself quantizes a plain model for the target."""
        (scheme,) = self.schemes
        return scheme


TARGETS = {
    target.name: target
    for target in (
        Target("tflite-float32", tflite.to_float32, sparse=True),
        Target("tflite-float16", tflite.to_float16, sparse=True),
        Target("tflite-dynamic", tflite.to_dynamic),
        Target(
            "tflite-int8",
            tflite.to_int8,
            schemes=frozenset({"int8"}),
            integer=True,
            backends=("tflite", "ai-edge", BACKEND),
        ),
        Target(
            "tflite-w4a8",
            tflite.to_w4a8,
            schemes=frozenset({"w4a8"}),
            integer=True,
            backends=(BACKEND,),
        ),
        Target(
            "tflite-int16x8",
            tflite.to_int16x8,
            schemes=frozenset({"int16x8"}),
            integer=True,
            backends=(BACKEND,),
            io="int16",
        ),
        *(
            Target(
                name,
                ethos.to_ethos,
                schemes=frozenset({"int8"}),
                integer=True,
                backends=("tflite", "ai-edge", BACKEND),
                accelerators=npu.sizes,
                batch=1,
            )
            for name, npu in ethos.NPUS.items()
        ),
        Target(
            "xla-cpu",
            xla.to_xla_cpu,
            options={
                "batch_sizes": (),
                "xla": ("auto", "always", "never"),
                "version": (),
            },
            io="float32",
            keeps_fake_quantization=True,
        ),
        Target(
            "xla-gpu",
            xla.to_xla_gpu,
            options={
                "batch_sizes": (),
                "compute": ("float32", "float16", "bfloat16"),
                "version": (),
            },
            io="float32",
            keeps_fake_quantization=True,
        ),
        Target(
            "xla-tpu",
            xla.to_xla_tpu,
            options={
                "batch_sizes": (),
                "compute": ("float32", "bfloat16"),
                "version": (),
            },
            io="float32",
            keeps_fake_quantization=True,
        ),
        Target(
            "stablehlo",
            stablehlo.to_stablehlo,
            options={
                "platforms": stablehlo.PLATFORMS,
                "compute": ("float32", "float16", "bfloat16"),
            },
            io="float32",
            keeps_fake_quantization=True,
        ),
        Target(
            "onnx",
            onnx.to_onnx,
            options={"opset": onnx.OPSETS},
            io="float32",
            keeps_fake_quantization=True,
        ),
        Target(
            "onnx-int8",
            onnx.to_onnx_int8,
            schemes=frozenset({"int8"}),
            integer=True,
            backends=("tflite", "ai-edge", BACKEND),
            options={"opset": onnx.OPSETS},
            io="float32",
        ),
        Target(
            "fpga-hls",
            hls.to_fpga_hls,
            schemes=frozenset({"int8", "w4a8", "int16x8"}),
            options={"reuse_factor": (), "io_type": hls.IO_TYPES},
            io="float32",
            calibrates=True,
        ),
    )
}


def target_called(name: Any) -> Target:
    """Finds a target by its name.

    Raises:
        UsageError: if there is none, with the nearest name.

    Example:
        >>> target_called("tflite-int9")
        Traceback (most recent call last):
        ...
        kacc.core.errors.UsageError: `target` must be one of ... Did you mean ...
    """
    if name in TARGETS:
        return TARGETS[name]
    near = difflib.get_close_matches(str(name), TARGETS, n=1, cutoff=0.4)
    raise UsageError(
        f"`target` must be one of {sorted(TARGETS)}",
        received=name,
        fix=f"Did you mean {near[0]!r}?" if near else "",
    )
