"""The job of `kacc demo`: train, convert, compare, write the files."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
from rich.console import Console

import kacc
from kacc.cli.demo.models import check_classes, load_classifier, small_cnn
from kacc.cli.demo.training import SEED, Split, split, train, train_quantized
from kacc.cli.images import Dataset, ImageShape, digits, read_class_folders
from kacc.cli.models import image_shape
from kacc.core.errors import KaccError, UsageError
from kacc.core.files import atomic_write, check_writable
from kacc.report.comparison import Variant, comparison_record, comparison_table
from kacc.report.plot import comparison_plot
from kacc.report.progress import Stages

EPOCHS, EPOCHS_OF_OWN_MODEL = 12, 3
CALIBRATION_IMAGES = 200
# What a conversion or a measurement counts on the progress bar, in training steps.
STEPS_OF_A_FILE = 40


@dataclass(frozen=True)
class Request:
    """What the demo is asked to do; None stands for the default."""

    out: Path
    data: Path | None = None
    model: Path | None = None
    epochs: int | None = None
    pixels: str = "0..255"


def run_demo(request: Request, console: Console | None = None) -> list[Variant]:
    """Train, convert and compare, print the table and write all files.

    Args:
        request: what to do.
        console: where the table goes; by default standard output.

    Returns:
        The rows of the table: float Keras, float32 TFLite, PTQ int8, QAT int8.

    Raises:
        KaccError: the images, the model or the output folder cannot be used.
    """
    start = time.monotonic()
    _create_folder(request.out)
    own, dataset = _inputs(request)
    data = split(dataset, request.pixels)
    epochs = request.epochs or (EPOCHS_OF_OWN_MODEL if own else EPOCHS)
    with Stages(2 * epochs * data.steps + 4 * STEPS_OF_A_FILE) as stages:
        floating, quantized = _train_both(request, dataset, data, epochs, stages)
        variants = _compare(floating, quantized, data, request.out, stages)
    title = f"{dataset.source}: {len(data.y_validation):,} validation images"
    record = _record(request, dataset, data, epochs, variants)
    record["seconds"] = round(time.monotonic() - start, 1)
    atomic_write(
        request.out / "report.json", json.dumps(record, indent=2).encode() + b"\n"
    )
    atomic_write(request.out / "report.png", comparison_plot(variants, title))
    console = console or Console()
    console.print(comparison_table(variants, title))
    console.print(
        f"{record['seconds']:.0f} s; files in {request.out}/", highlight=False
    )
    return variants


def _create_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KaccError(
            "--out must be a folder that can be written",
            received=f"{folder}: {error.strerror}",
            fix="Name another folder",
        ) from error
    check_writable(folder / "report.json")


def _inputs(request: Request) -> tuple[keras.Model | None, Dataset]:
    """The person's own model, if there is one, and the images that fit it."""
    if request.model is None:
        if request.pixels != "0..255":
            raise UsageError("--pixels is for a model of your own", fix="Add --model")
        return None, _images(request, ImageShape())
    model = load_classifier(request.model)
    dataset = _images(request, image_shape(model))
    check_classes(model, dataset.classes, dataset.source)
    return model, dataset


def _images(request: Request, shape: ImageShape) -> Dataset:
    if request.data is None:
        return digits(shape)
    return read_class_folders(request.data, shape)


def _train_both(
    request: Request, dataset: Dataset, data: Split, epochs: int, stages: Stages
) -> tuple[keras.Model, keras.Model]:
    """The model trained in float and with quantization, from one start."""

    def new_model() -> keras.Model:
        if request.model is not None:
            return load_classifier(request.model)
        shape, classes = dataset.x.shape[1:], len(dataset.classes)
        return small_cnn(shape, classes, epochs * data.steps)

    keras.utils.set_random_seed(SEED)
    floating, quantized = new_model(), new_model()
    quantized.set_weights(floating.get_weights())
    train(floating, data, epochs, stages)
    # A new model first learns in float; a trained one is ready for quantization.
    start = 0 if request.model else epochs // 2
    train_quantized(quantized, data, epochs, start, stages)
    return floating, quantized


def _compare(
    floating: keras.Model,
    quantized: keras.Model,
    data: Split,
    out: Path,
    stages: Stages,
) -> list[Variant]:
    """Write the files of both models and measure each."""
    x, y = data.x_validation, data.y_validation
    calibration = data.x[:CALIBRATION_IMAGES]
    rows = []
    for name, file, model, target in (
        ("float Keras", "float.keras", floating, None),
        ("float32 TFLite", "float32.tflite", floating, "tflite-float32"),
        ("PTQ int8", "ptq-int8.tflite", floating, "tflite-int8"),
        ("QAT int8", "qat-int8.tflite", quantized, "tflite-int8"),
    ):
        stages.begin(f"comparing: {name}")
        if target is None:
            _save(model, out / file)
            rows.append(_row(name, file, kacc.measure(model, x, y), None))
        else:
            plain = None if model is quantized else calibration
            artifact = kacc.convert(model, out / file, target, plain)
            measured, parity = artifact.measure(x, y), kacc.parity(model, artifact, x)
            rows.append(_row(name, file, measured, parity))
        stages.advance(STEPS_OF_A_FILE)
    _save(quantized, out / "qat.keras")
    return rows


def _row(name: str, file: str, measured: Any, parity: Any) -> Variant:
    return Variant(
        name=name,
        file=file,
        accuracy=measured.accuracy,
        size_bytes=measured.size_bytes,
        latency_ms=measured.latency.median,
        argmax_agreement=parity and parity.argmax_agreement,
        within_one=parity and parity.within_one,
    )


def _save(model: keras.Model, path: Path) -> None:
    """Save a model so that the path holds it whole or not at all."""
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder, path.name)
        model.save(temporary)
        atomic_write(path, temporary.read_bytes())


def _record(
    request: Request,
    dataset: Dataset,
    data: Split,
    epochs: int,
    variants: list[Variant],
) -> dict[str, Any]:
    packages = ("kacc", "tensorflow", "keras", "ai-edge-litert")
    return {
        "data": {
            "source": dataset.source,
            "classes": list(dataset.classes),
            "image_shape": list(dataset.x.shape[1:]),
            "training_images": len(data.y),
            "validation_images": len(data.y_validation),
        },
        "model": str(request.model or "small_cnn"),
        "epochs": epochs,
        "variants": comparison_record(variants),
        "versions": {name: importlib.metadata.version(name) for name in packages}
        | {"python": platform.python_version()},
        "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
    }
