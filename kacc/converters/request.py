"""What the handler of a target is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kacc.converters.frozen_graph import FrozenGraph
from kacc.converters.samples import Samples
from kacc.core.manifest import TensorInfo

if TYPE_CHECKING:
    from kacc.quantization.constants import FileConstant
    from kacc.quantization.inference import ExplicitKernel


@dataclass(frozen=True)
class Export:
    """Options of `kacc.convert` that only some targets take; None is the default.

    Args:
        batch_sizes: sizes with a function of their own.
        xla: "auto", "always" or "never".
        compute: "float32", "bfloat16" or "float16".
        version: number of the version folder.
        platforms: that modules are lowered for.
        opset: ONNX operator set.
        reuse_factor: how often a multiplier is used for one sample.
        io_type: how tensors go through an HLS project.
    """

    batch_sizes: Sequence[int] | None = None
    xla: str | None = None
    compute: str | None = None
    version: int | None = None
    platforms: Sequence[str] | None = None
    opset: int | None = None
    reuse_factor: int | None = None
    io_type: str | None = None

    @property
    def given(self) -> dict[str, Any]:
        """The options that were given."""
        return {k: v for k, v in vars(self).items() if v is not None}


@dataclass(frozen=True)
class Request:
    """A checked conversion.

    Args:
        graph: the model's inference.
        scheme: the quantization scheme that is attached to the model, or None.
        calibration: samples, or None.
        io: "int8", "int16" or "float32", the type of an integer file's inputs and
            outputs.
        backend: the program that is forced to write the numbers, or None.
        target: the target's name, for errors.
        kernels: weights of a quantized model that are written as they are.
        by_tfmot: whether the scheme is tfmot's, which may leave layers out that
            calibration then fills in.
        own: makes the request for a copy of a plain model that kacc has quantized.
        skipped: paths of the layers of a quantized model that a rule keeps in float.
        accelerator: the size of the NPU, or None.
        constants: gives the constant operands of a quantized model.
        wide: whether the file's activations have 16 bits, and its biases 64.
        sparse: whether weights with many zeros are stored without them.
        export: the options of targets other than TFLite.
        macs: the model's multiply-accumulates for one sample, or None if unknown.
        model: the model itself, for targets that start from its layers.
    """

    graph: FrozenGraph
    scheme: str | None
    calibration: Samples | None
    io: str
    backend: str | None
    target: str
    kernels: tuple[ExplicitKernel, ...] = ()
    by_tfmot: bool = False
    own: Callable[[], Request] | None = None
    skipped: frozenset[str] = frozenset()
    accelerator: int | None = None
    constants: Callable[[], tuple[FileConstant, ...]] = tuple
    wide: bool = False
    sparse: bool = False
    export: Export = Export()
    macs: int | None = None
    model: Any = None


@dataclass(frozen=True)
class Converted:
    """The content of an artefact, who wrote its numbers, and what to keep about it.

    Args:
        data: what the target's format writes: bytes, a protocol buffer, or a function
            that fills a folder.
        backend: the program.
        notes: the manifest's report.
        outputs: the outputs in the file, where they are not those of the graph.
        inputs: the same of the inputs.
    """

    data: Any
    backend: str
    notes: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[TensorInfo, ...] | None = None
    outputs: tuple[TensorInfo, ...] | None = None
