"""Files for Arm Ethos-U NPUs: an int8 file, compiled by vela.

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
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from kacc.converters import tflite
from kacc.converters.chatter import logger
from kacc.converters.request import Converted, Request
from kacc.core.errors import ConversionError, KaccError, UsageError

ACCELERATORS = (32, 64, 128, 256)  # MACs per cycle of the Ethos-U55
DEFAULT = 128
# Arm's own description of a fast microcontroller, which vela takes by default.
_SYSTEM = (
    *("--config", "Arm/vela.ini"),
    *("--system-config", "Ethos_U55_High_End_Embedded"),
    *("--memory-mode", "Shared_Sram"),
)
_SECONDS = 1800  # a compilation takes seconds; large files minutes


@dataclass(frozen=True)
class NpuReport:
    """What vela says of a file, estimated for one inference.

    Args:
        accelerator: such as "ethos-u55-128".
        cycles: in total.
        milliseconds: at the clock of vela's system configuration (500 MHz).
        sram_bytes: of activations and buffers.
        flash_bytes: of weights and commands.
        macs: multiply-accumulates.
        npu_operators: how many operators run on the NPU.
        cpu_operators: how many are left to the CPU.
        vela: its version.
    """

    accelerator: str
    cycles: int
    milliseconds: float
    sram_bytes: int
    flash_bytes: int
    macs: int
    npu_operators: int
    cpu_operators: int
    vela: str

    @property
    def npu_share(self) -> float:
        """Share of the operators that run on the NPU."""
        return self.npu_operators / max(self.npu_operators + self.cpu_operators, 1)


def to_ethos_u55(request: Request) -> Converted:
    """A file for the Ethos-U55, with vela's figures as notes."""
    require_vela()
    converted = tflite.to_int8(request)
    data, report = compile_for_npu(converted.data, request.accelerator or DEFAULT)
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


def compile_for_npu(data: bytes, accelerator: int = DEFAULT) -> tuple[bytes, NpuReport]:
    """Compiles an int8 TFLite file with vela.

    Args:
        data: the content of the file; batches are of one sample.
        accelerator: MACs per cycle, one of `ACCELERATORS`.

    Returns:
        The content of the compiled file, and the report.

    Raises:
        UsageError: for an unknown accelerator.
        KaccError: if vela is not installed.
        ConversionError: if it cannot compile the file.
    """
    require_vela()
    if accelerator not in ACCELERATORS:
        raise UsageError(
            f"`accelerator` must be one of {ACCELERATORS}, the MACs per cycle",
            received=accelerator,
        )
    name = f"ethos-u55-{accelerator}"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model.tflite"
        source.write_bytes(data)
        text = _run(source, name)
        compiled = (Path(folder) / "model_vela.tflite").read_bytes()
        (summary,) = Path(folder).glob("model_summary_*.csv")
        with summary.open(newline="") as file:
            row = next(csv.DictReader(file))
    return compiled, _report(name, row, text)


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
    if accelerator not in ACCELERATORS:
        raise UsageError(
            f"`accelerator` must be one of {ACCELERATORS}, the MACs per cycle",
            received=accelerator,
        )

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


def _run(source: Path, accelerator: str) -> str:
    """Runs vela in the folder of a file; what it printed."""
    command = [
        *(sys.executable, "-m", "ethosu.vela", source.name, *_SYSTEM),
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
        macs=round(float(row["nn_macs"])),
        npu_operators=counts["NPU"],
        cpu_operators=counts["CPU"],
        vela=metadata.version("ethos-u-vela"),
    )
