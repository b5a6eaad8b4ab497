"""`kacc convert`: converts a Keras model to the file that a device runs."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import kacc
from kacc.cli.arguments import add_pixels, positive
from kacc.core.errors import UsageError

DESCRIPTION = """Convert a saved Keras model, trained with kacc or not: a .keras or .h5
file, or the folder of a SavedModel that Keras 2 wrote. An integer target needs
--calibration, samples of what the model will see, unless the model was trained with
quantization."""

MOST_SAMPLES = 500
_OF_TARGETS = (
    "accelerator",
    "batch_sizes",
    "xla",
    "compute",
    "platforms",
    "opset",
    "reuse_factor",
    "io_type",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `kacc convert` takes."""
    from kacc.converters.targets import TARGETS

    parser.add_argument("model", type=Path, metavar="MODEL.keras", help="the model")
    parser.add_argument(
        "path", type=Path, metavar="OUT", help="the file or folder to write"
    )
    parser.add_argument(
        "--target", metavar="NAME", default="tflite-int8", help=", ".join(TARGETS)
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="PATH",
        default=argparse.SUPPRESS,
        help="a folder of JPEG or PNG images, or an .npz or .npy file with the model's "
        f"inputs (in .npz by name); {MOST_SAMPLES} samples are used at most",
    )
    add_pixels(parser)
    parser.add_argument(
        "--io",
        choices=("int8", "int16", "float32"),
        default=None,
        help="the type of an integer file's inputs and outputs (default: its own)",
    )
    parser.add_argument(
        "--ranges",
        metavar="METHOD",
        default=argparse.SUPPRESS,
        help="how the range of a tensor is chosen from the samples: minmax (default), "
        "mse, percentile, or percentile:P with P in percent",
    )
    parser.add_argument(
        "--rounding",
        choices=("nearest", "adaround"),
        default="nearest",
        help="how weights are rounded; adaround fits them to the samples, in minutes",
    )
    parser.add_argument(
        "--bias-correction",
        action="store_true",
        help="let biases make up for the mean error of quantization on the samples",
    )
    parser.add_argument(
        "--backend",
        metavar="NAME",
        default=argparse.SUPPRESS,
        help="who quantizes a model that was trained without: tflite, ai-edge or kacc "
        "(default: whichever file is nearest to the model)",
    )
    parser.add_argument(
        "--batch",
        type=positive,
        metavar="N",
        default=argparse.SUPPRESS,
        help="fix the batch size (default: any)",
    )
    parser.add_argument(
        "--sparse",
        action="store_true",
        help="store weights without their zeros, in float TFLite files",
    )
    _add_options_of_targets(parser)


def _add_options_of_targets(parser: argparse.ArgumentParser) -> None:
    """Declare the options that only some targets take."""
    left_out = argparse.SUPPRESS
    parser.add_argument(
        "--accelerator",
        type=positive,
        metavar="MACS",
        default=left_out,
        help="ethos-...: the NPU's MACs per cycle",
    )
    parser.add_argument(
        "--batch-sizes",
        type=_positives,
        metavar="N,N",
        default=left_out,
        help="xla-...: sizes with a compiled function of their own, such as 1,8,32",
    )
    parser.add_argument(
        "--xla",
        choices=("auto", "always", "never"),
        default=left_out,
        help="xla-cpu: whether XLA compiles; auto times both here",
    )
    parser.add_argument(
        "--compute",
        choices=("float32", "bfloat16", "float16"),
        default=left_out,
        help="xla-gpu, xla-tpu, stablehlo: the type to compute in",
    )
    parser.add_argument(
        "--model-version",
        type=positive,
        metavar="N",
        default=left_out,
        help="xla-...: the number of the version folder (default: 1)",
    )
    parser.add_argument(
        "--platforms",
        type=lambda text: tuple(text.split(",")),
        metavar="P,P",
        default=left_out,
        help="stablehlo: some of cpu,cuda,tpu (default: all)",
    )
    parser.add_argument(
        "--opset",
        type=positive,
        metavar="N",
        default=left_out,
        help="onnx...: the operator set (default: 17)",
    )
    parser.add_argument(
        "--reuse-factor",
        type=positive,
        metavar="N",
        default=left_out,
        help="fpga-hls: products of a layer that share a multiplier (default: 1)",
    )
    parser.add_argument(
        "--io-type",
        choices=("io_parallel", "io_stream"),
        default=left_out,
        help="fpga-hls: tensors all at once (default) or pixel by pixel",
    )


def _positives(text: str) -> tuple[int, ...]:
    return tuple(positive(word) for word in text.split(","))


def run(args: argparse.Namespace) -> None:
    """Convert and say what came out."""
    from kacc.cli import backend
    from kacc.converters.legacy_files import is_saved_model
    from kacc.converters.targets import target_called

    start = time.monotonic()
    # What is wrong already should not wait for TensorFlow.
    form = target_called(args.target).format
    version = getattr(args, "model_version", None)
    form.check_path(form.place(args.path, version), args.target)
    if not args.model.is_file() and not is_saved_model(args.model):
        raise UsageError("There is no such model file", received=str(args.model))
    backend.start()
    from kacc.cli.models import load_any_model

    ranges = _ranges(getattr(args, "ranges", "minmax"))
    model = load_any_model(args.model)
    calibration = None
    if "calibration" in args:
        calibration = _samples(args.calibration, model, args.pixels)
    artifact = kacc.convert(
        model,
        args.path,
        args.target,
        calibration,
        io=args.io,
        batch=getattr(args, "batch", None),
        backend=getattr(args, "backend", None),
        ranges=ranges,
        rounding=args.rounding,
        bias_correction=args.bias_correction,
        sparse=args.sparse,
        version=version,
        **{name: getattr(args, name) for name in _OF_TARGETS if name in args},
    )
    size = f"{artifact.size_bytes:,} bytes"
    seconds = f"{time.monotonic() - start:.0f} s"
    place = args.path
    if artifact.path.name != place.name:  # a folder in it, of a version
        place = place / artifact.path.name
    print(f"{place}: {artifact.target}, {size}, {seconds}")  # noqa: T201


def _ranges(text: str) -> Any:
    """The ranges that "mse" or "percentile:99.9" names."""
    from kacc.quantization import Ranges

    method, _, percentile = text.partition(":")
    if not percentile:
        return Ranges(method)
    try:
        if method == "percentile":
            return Ranges(method, float(percentile))
    except UsageError:
        raise
    except ValueError:
        pass
    raise UsageError(
        "--ranges takes a number only as percentile:P",
        received=text,
        fix="Write it like percentile:99.9",
    )


def _samples(path: Path, model: Any, pixels: str) -> Any:
    from kacc.cli.images import read_folder, scale
    from kacc.cli.models import image_shape

    if path.is_dir():
        shape = image_shape(model)
        return scale(read_folder(path, shape, MOST_SAMPLES), pixels)
    return _arrays(path)


def _arrays(path: Path) -> Any:
    """One array, or several by name, from a NumPy file."""
    import numpy as np

    try:
        loaded = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(
            "--calibration takes a folder of images, an .npz or an .npy file",
            received=f"{path}: {error}",
        ) from error
    if isinstance(loaded, np.ndarray):
        return loaded
    arrays = dict(loaded)
    return next(iter(arrays.values())) if len(arrays) == 1 else arrays
