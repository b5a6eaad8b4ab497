"""Files for the NPUs Arm Ethos-U55, U65 and U85: an int8 file, compiled by vela.

vela (the package ethos-u-vela) runs as a process of its own. Its figures are the same
every time, so that cycles can be a budget: `kacc.prune_channels(cost=cycles(128))`.
"""

from __future__ import annotations

import csv
import importlib.util
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from kacc.converters import flatbuffer, tflite
from kacc.converters.chatter import logger
from kacc.converters.request import Converted, Request
from kacc.core.errors import ConversionError, KaccError, UsageError


@dataclass(frozen=True)
class Npu:
    """A family of NPUs, and the system around it that vela reckons with.

    Args:
        sizes: MACs per cycle that it comes with.
        default: of these.
        system: Arm's own description of a fast system with it, in vela's Arm/vela.ini.
        memory: how activations and weights lie in that system's memories.
    """

    sizes: tuple[int, ...]
    default: int
    system: str
    memory: str


NPUS = {
    "ethos-u55": Npu(
        (32, 64, 128, 256), 128, "Ethos_U55_High_End_Embedded", "Shared_Sram"
    ),
    "ethos-u65": Npu((256, 512), 256, "Ethos_U65_High_End", "Dedicated_Sram"),
    "ethos-u85": Npu(
        (128, 256, 512, 1024, 2048), 256, "Ethos_U85_SYS_DRAM_Mid", "Dedicated_Sram"
    ),
}
ACCELERATORS, DEFAULT = NPUS["ethos-u55"].sizes, NPUS["ethos-u55"].default
_NPU_OPERATOR = "ethos-u"  # what vela writes in the place of what runs on the NPU
_SECONDS = 1800  # a compilation takes seconds; large files minutes


@dataclass(frozen=True)
class NpuReport:
    """What vela says of a file, estimated for one inference.

    Args:
        accelerator: such as "ethos-u55-128".
        cycles: in total.
        milliseconds: at the clock of vela's system configuration, 500 MHz of U55 and
            1 GHz of the others.
        sram_bytes: of activations and buffers.
        flash_bytes: of weights and commands.
        dram_bytes: the same where the system keeps them in DRAM.
        macs: multiply-accumulates.
        npu_operators: how many operators run on the NPU.
        cpu_operators: how many are left to the CPU.
        vela: its version.
        on_cpu: what is left to the CPU, each operator with its layer.
    """

    accelerator: str
    cycles: int
    milliseconds: float
    sram_bytes: int
    flash_bytes: int
    dram_bytes: int
    macs: int
    npu_operators: int
    cpu_operators: int
    vela: str
    on_cpu: tuple[str, ...] = ()

    @property
    def npu_share(self) -> float:
        """Share of the operators that run on the NPU."""
        return self.npu_operators / max(self.npu_operators + self.cpu_operators, 1)


def to_ethos(request: Request) -> Converted:
    """A file for the NPU that the target names, with vela's figures as notes.

    What vela leaves to the CPU is named in a warning, with its layer.
    """
    require_vela()
    converted = tflite.to_int8(request)
    data, report = compile_for_npu(
        converted.data, request.accelerator, request.target, request.graph.layer_of
    )
    if report.on_cpu:
        warnings.warn(
            f"The CPU runs what the NPU lacks: {', '.join(report.on_cpu)}",
            stacklevel=2,
        )
    notes = {**asdict(report), "npu_share": report.npu_share}
    return Converted(data, converted.backend, {**converted.notes, **notes})


def require_vela() -> None:
    """Raises a KaccError unless vela is installed."""
    if importlib.util.find_spec("ethosu") is None:
        raise KaccError(
            "Targets for the Ethos-U need vela",
            received="no package ethos-u-vela",
            fix='Install it with: pip install "kacc[ethos]"',
        )


def compile_for_npu(
    data: bytes,
    accelerator: int | None = None,
    npu: str = "ethos-u55",
    layer_of: Callable[[str], str | None] = lambda tensor: None,
) -> tuple[bytes, NpuReport]:
    """Compiles an int8 TFLite file with vela.

    Args:
        data: the content of the file; batches are of one sample.
        accelerator: MACs per cycle, one of the sizes in `NPUS`; None for the default.
        npu: one of `NPUS`.
        layer_of: finds the layer that an operation of this name belongs to.

    Returns:
        The content of the compiled file, and the report.

    Raises:
        UsageError: for an unknown accelerator.
        KaccError: if vela is not installed.
        ConversionError: if it cannot compile the file.
    """
    require_vela()
    family = NPUS[npu]
    accelerator = accelerator or family.default
    _check_size(accelerator, family)
    name = f"{npu}-{accelerator}"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model.tflite"
        source.write_bytes(data)
        text = _run(source, name, family)
        compiled = (Path(folder) / "model_vela.tflite").read_bytes()
        (summary,) = Path(folder).glob("model_summary_*.csv")
        with summary.open(newline="") as file:
            row = next(csv.DictReader(file))
    report = _report(name, row, text)
    return compiled, replace(report, on_cpu=_left_to_cpu(compiled, layer_of))


def _check_size(accelerator: int, family: Npu) -> None:
    if accelerator not in family.sizes:
        raise UsageError(
            f"`accelerator` must be one of {family.sizes}, the MACs per cycle",
            received=accelerator,
        )


def _left_to_cpu(
    compiled: bytes, layer_of: Callable[[str], str | None]
) -> tuple[str, ...]:
    """The operators of a compiled file that the NPU does not run."""
    (graph, *_) = flatbuffer.subgraphs(compiled)
    return tuple(
        f"{operator.name} from {tflite.origin(operator, graph, layer_of)}"
        for operator in graph.operators
        if operator.name != _NPU_OPERATOR
    )


def cycles(
    accelerator: int = DEFAULT, calibration: Any = None
) -> Callable[[Any], float]:
    """A cost of models: the cycles that an Ethos-U55 takes for one inference.

    Args:
        accelerator: MACs per cycle, one of `ACCELERATORS`.
        calibration: samples for the int8 file; random ones by default, since the
            numbers hardly touch the cycles.

    Returns:
        A function model -> cycles, for `kacc.prune_channels(cost=...)`.

    Raises:
        UsageError: for an unknown accelerator.

    Example:
        >>> cycles(100)
        Traceback (most recent call last):
        ...
        kacc.core.errors.UsageError: `accelerator` must be one of (32, 64, 128, 256)...
    """
    _check_size(accelerator, NPUS["ethos-u55"])

    def measure(model: Any) -> float:
        import kacc  # convert.py imports this module; only the facade binds both ways

        samples = random_samples(model) if calibration is None else calibration
        with tempfile.TemporaryDirectory() as folder:
            artifact = kacc.convert(
                model,
                f"{folder}/model.tflite",
                "ethos-u55",
                samples,
                accelerator=accelerator,
                backend="tflite",
            )
        return float(artifact.manifest.report["cycles"])

    return measure


def random_samples(model: Any, count: int = 8) -> Any:
    """Samples between 0 and 1 in the structure of a model's inputs."""
    import numpy as np

    from kacc.converters.signature import signature_of

    random = np.random.default_rng(0)
    signature = signature_of(model, None)
    arrays = [
        random.uniform(size=(count, *(n or 1 for n in info.shape[1:]))).astype(
            info.dtype
        )
        for info in signature.inputs
    ]
    return signature.packed(arrays)


def _run(source: Path, accelerator: str, family: Npu) -> str:
    """Runs vela in the folder of a file; what it printed."""
    command = [
        *(sys.executable, "-m", "ethosu.vela", source.name),
        *("--config", "Arm/vela.ini", "--system-config", family.system),
        *("--memory-mode", family.memory),
        *("--accelerator-config", accelerator, "--output-dir", "."),
    ]
    try:
        process = subprocess.run(
            command,
            cwd=source.parent,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ConversionError(
            f"vela must compile the file within {_SECONDS} seconds",
            received=f"a file of {source.stat().st_size:,} bytes",
            fix="Make the model smaller",
        ) from error
    text = process.stdout + process.stderr
    for line in text.splitlines():
        logger.debug("vela: %s", line)
    if process.returncode:
        lines = [line for line in text.splitlines() if line.strip()]
        raise ConversionError(
            "vela must be able to compile the file",
            received=lines[-1] if lines else f"exit status {process.returncode}",
            fix="Set the logger 'kacc.converters' to DEBUG to see what it printed",
        )
    return text


def _report(name: str, row: Mapping[str, str], text: str) -> NpuReport:
    counts = {
        kind: int(count)
        for kind, count in re.findall(r"^(CPU|NPU) operators = (\d+)", text, re.M)
    }
    flash = sum(
        float(row[f"{kind}_memory_used"])
        for kind in ("on_chip_flash", "off_chip_flash")
    )
    return NpuReport(
        accelerator=name,
        cycles=round(float(row["cycles_total"])),
        milliseconds=float(row["inference_time"]) * 1e3,
        sram_bytes=round(float(row["sram_memory_used"]) * 1024),
        flash_bytes=round(flash * 1024),
        dram_bytes=round(float(row.get("dram_memory_used", 0)) * 1024),
        macs=round(float(row["nn_macs"])),
        npu_operators=counts["NPU"],
        cpu_operators=counts["CPU"],
        vela=metadata.version("ethos-u-vela"),
    )
