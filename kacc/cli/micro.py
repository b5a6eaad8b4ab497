"""`kacc micro`: writes a TFLite file as C source for microcontrollers."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from kacc.core.errors import UsageError

DESCRIPTION = """Write a TFLite file as source for TensorFlow Lite Micro: an aligned
array with its header, and the calls that add the operators which the model needs. Shows
these and an estimate of the tensor arena."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `kacc micro` takes."""
    parser.add_argument("path", type=Path, metavar="MODEL.tflite", help="the file")
    parser.add_argument("folder", type=Path, metavar="OUT_DIR", help="where to write")
    parser.add_argument("--name", default="model", help="of the array and the files")
    parser.add_argument(
        "--language",
        choices=("c++", "c"),
        default="c++",
        help="of the array's file, NAME.cc or NAME.c",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    """Write the sources and show what the model needs."""
    from rich.console import Console

    from kacc.converters.artifact import open_artifact
    from kacc.converters.microcontroller import microcontroller

    if not args.path.is_file():
        raise UsageError("There is no such model file", received=str(args.path))
    artifact = open_artifact(args.path)
    bundle = microcontroller(artifact, args.folder, args.name, language=args.language)
    if args.json:
        print(json.dumps(bundle.to_dict(), indent=2))  # noqa: T201
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{args.path}: {', '.join(str(path) for path in bundle.files)}")
    console.print(bundle)
