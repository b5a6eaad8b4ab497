"""`kacc demo`: trains a small CNN for int8, converts it and compares the files.

The modules of this package are the job in parts: models.py, training.py, job.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kacc.cli.arguments import add_pixels, positive
from kacc.core.errors import UsageError

DESCRIPTION = """Train a small CNN twice from the same start, plainly and with
quantization-aware training by callback; convert it to int8 TFLite, after training (PTQ)
and as trained (QAT); print accuracy, bytes, latency and parity of each in one table.
By default on scikit-learn's handwritten digits: nothing is downloaded."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `kacc demo` takes."""
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        default=argparse.SUPPRESS,
        help="a folder with one sub-folder of JPEG or PNG images for each class",
    )
    parser.add_argument(
        "--model",
        type=Path,
        metavar="FILE.keras",
        default=argparse.SUPPRESS,
        help="an image classifier of your own to train on instead of the small CNN",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=Path("out/demo"),
        help="where the models, report.json and report.png go",
    )
    parser.add_argument(
        "--epochs",
        type=positive,
        metavar="N",
        default=argparse.SUPPRESS,
        help="epochs of each training (default: 12, or 3 for a model of your own)",
    )
    add_pixels(parser)


def run(args: argparse.Namespace) -> None:
    """Run the demo and print its table."""
    from kacc.cli import backend

    for option in ("data", "model"):  # a wrong path should not wait for TensorFlow
        path = getattr(args, option, None)
        if path is not None and not path.exists():
            raise UsageError(f"--{option} must exist", received=str(path))
    backend.start()
    from kacc.cli.demo.job import Request, run_demo

    run_demo(
        Request(
            out=args.out,
            data=getattr(args, "data", None),
            model=getattr(args, "model", None),
            epochs=getattr(args, "epochs", None),
            pixels=args.pixels,
        )
    )
