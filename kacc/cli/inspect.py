"""`kacc inspect`: shows what a TFLite file takes and gives, and how it was made."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from kacc.core.manifest import Manifest

DESCRIPTION = """Show what a TFLite file takes and gives: names, shapes, types and the
scales of its integers, value = scale * (integer - zero point). Of a file that kacc
wrote also how it was made."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `kacc inspect` takes."""
    parser.add_argument("path", type=Path, metavar="FILE.tflite", help="the file")


def run(args: argparse.Namespace) -> None:
    """Print the file's manifest."""
    from rich.console import Console

    from kacc.converters.artifact import open_artifact

    manifest = open_artifact(args.path).manifest
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{args.path}: {manifest.target}, {manifest.size_bytes:,} bytes")
    console.print(_tensors(manifest))
    for name, text in _origin(manifest).items():
        console.print(f"{name}: {text}")


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
        "versions": ", ".join(f"{k} {v}" for k, v in manifest.versions.items()),
        "sha256": manifest.sha256,
    }
    return {heading: text for heading, text in parts.items() if text}
