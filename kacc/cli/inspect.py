"""`kacc inspect`: shows what a converted file takes and gives, and what is in it."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kacc.core.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from kacc.converters.artifact import Artifact
    from kacc.converters.tpu import TpuReport
    from kacc.core.manifest import Manifest

DESCRIPTION = """Show what a TFLite or ONNX file, a SavedModel or a folder of StableHLO
takes and gives: names, shapes, types and the scales of its integers, value = scale *
(integer - zero point). Then its operators, with the bytes of their weights and their
multiply-accumulates, and of what kacc wrote how it was made."""
_WIDTH = 140


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `kacc inspect` takes."""
    from kacc.converters.tpu import TPUS

    parser.add_argument("path", type=Path, metavar="PATH", help="the file or folder")
    parser.add_argument(
        "--json", action="store_true", help="print everything as JSON instead"
    )
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="OUT.png",
        default=argparse.SUPPRESS,
        help="draw bytes and multiply-accumulates of each layer",
    )
    parser.add_argument(
        "--tpu",
        choices=tuple(TPUS),
        default=argparse.SUPPRESS,
        help="compile the StableHLO in the folder by the TPU's own compiler, and show "
        "its figures; nothing runs on a TPU (needs the extra kacc[tpu])",
    )


def run(args: argparse.Namespace) -> None:
    """Print the file's manifest and operators."""
    from kacc.converters.artifact import open_artifact
    from kacc.core.files import check_writable

    if "plot" in args:
        check_writable(args.plot)
    artifact = open_artifact(args.path)
    tpu = _compiled(artifact, args.tpu) if "tpu" in args else None
    if "plot" in args:
        _draw(artifact, args.plot)
    if args.json:
        print(json.dumps(_record(artifact, tpu), indent=2, default=dict))  # noqa: T201
    else:
        _show(args.path, artifact, tpu)


def _show(path: Path, artifact: Artifact, tpu: TpuReport | None) -> None:
    from rich.console import Console

    from kacc.report.operators import operators_table

    manifest = artifact.manifest
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:  # a file or pipe has no width of its own
        console.width = _WIDTH
    console.print(f"{path}: {manifest.target}, {manifest.size_bytes:,} bytes")
    console.print(_tensors(manifest))
    console.print(operators_table(artifact.operations()))
    if tpu is not None:
        console.print(f"TPU {tpu.tpu}, the compiler's estimate (nothing was run):")
        for name, value in asdict(tpu).items():
            console.print(f"  {name.replace('_', ' ')}: {_readable(value)}")
    for name, text in _origin(manifest).items():
        console.print(f"{name}: {text}")


def _record(artifact: Artifact, tpu: TpuReport | None) -> dict[str, Any]:
    from kacc.report.operators import by_layer, operators_record

    operations = artifact.operations()
    record = {
        "manifest": asdict(artifact.manifest),
        "operators": operators_record(operations),
        "layers": [asdict(layer) for layer in by_layer(operations)],
    }
    return record if tpu is None else {**record, "tpu": asdict(tpu)}


def _draw(artifact: Artifact, path: Path) -> None:
    from kacc.core.files import atomic_write
    from kacc.report.operators import layers_plot

    title = f"{artifact.path.name}, {artifact.target}"
    atomic_write(path, layers_plot(artifact.operations(), title))


def _compiled(artifact: Artifact, tpu: str) -> TpuReport:
    from kacc.converters.formats.stablehlo import tpu_module
    from kacc.converters.tpu import compile_for_tpu

    module = tpu_module(artifact.path)
    if module is None:
        raise UsageError(
            "--tpu takes what the targets 'stablehlo' and 'xla-tpu' write",
            received=f"{artifact.path}, {artifact.target}",
            fix="Convert the model to one of them",
        )
    manifest = artifact.manifest
    return compile_for_tpu(module, manifest.inputs, manifest.outputs, tpu)


def _readable(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1 else f"{value:.3e}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _tensors(manifest: Manifest) -> Table:
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table("", "name", "shape", "type", "scale", "zero point", box=SIMPLE)
    rows = [("input", tensor) for tensor in manifest.inputs]
    rows += [("output", tensor) for tensor in manifest.outputs]
    for kind, tensor in rows:
        shape = " x ".join("any" if n is None else str(n) for n in tensor.shape)
        grid = (tensor.scale, tensor.zero_point) if tensor.is_quantized else ("", "")
        table.add_row(kind, tensor.name, shape, tensor.dtype, *map(str, grid))
    return table


def _origin(manifest: Manifest) -> dict[str, str]:
    """What is known of how the file was made, by heading."""
    parts = {
        "trained with scheme": manifest.scheme or "",
        "numbers by": manifest.backend or "",
        "options": ", ".join(f"{k}={v}" for k, v in manifest.options.items()),
        "report": ", ".join(f"{k}={v}" for k, v in manifest.report.items()),
        "versions": ", ".join(f"{k} {v}" for k, v in manifest.versions.items()),
        "sha256": manifest.sha256,
    }
    return {heading: text for heading, text in parts.items() if text}
