"""Whether simulations equal their files: every output, on three sets of kernels.

ResNet8 with each scheme on CIFAR-10's validation images, MobileNet 0.75 with ImageNet
weights on flower images, and small models with random weights of what needs care:
concatenations, gates, LayerNormalization. Ranges come from calibration: how a model
was trained does not matter here.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import Check, Report, arguments, loaders, resnet8, say
from sizes import flowers, mobilenet

CALIBRATION = 100
KERNELS = ("xnnpack", "builtin", "reference")


@dataclass(frozen=True)
class Subject:
    """A model to try.

    Args:
        name: in the table.
        make: builds the plain model.
        images: count -> as many inputs.
        counts: how many are run on each of `KERNELS`.
        scheme: how it is quantized.
    """

    name: str
    make: Callable[[], Any]
    images: Callable[[int], np.ndarray]
    counts: tuple[int, int, int]
    scheme: str = "int8"


def main() -> int:
    options = arguments(
        __doc__, ("--only", {"help": "a part of the names of the models to run"})
    )
    report = Report("simulation", options.quick, {"calibration": CALIBRATION})
    rows: list[dict[str, Any]] = []
    for subject in _subjects():
        if (options.only or "") in subject.name:
            rows += _rows(subject, options.quick)
    report.table("Outputs of file and simulation", rows)
    for row in rows:
        name = f"{row['model']}, {row['kernels']}, {row['against']}"
        report.checks.append(Check(f"equal: {name}", row["equal"], ">=", 1.0, True))
    return report.finish(options.out)


def _subjects() -> list[Subject]:
    resnets = [
        Subject(f"ResNet8 {scheme}", resnet8, _cifar, (5000, 5000, 1000), scheme)
        for scheme in ("int8", "w4a8", "int16x8")
    ]
    small = [
        Subject(name, make, _cifar, (5000, 5000, 1000))
        for name, make in (
            ("Concatenate", _concatenate),
            ("gates", _gates),
            ("LayerNormalization", _layer_normalization),
        )
    ]
    pictures = Subject("MobileNet 0.75 int8", mobilenet, _flower_images, (500, 500, 50))
    return [*resnets, *small, pictures]


def _rows(subject: Subject, quick: bool) -> list[dict[str, Any]]:
    import keras

    import kacc

    say(f"{subject.name}: quantizing, converting")
    keras.utils.set_random_seed(0)
    model = subject.make()
    counts = (20, 20, 20) if quick else subject.counts
    images = subject.images(CALIBRATION + max(counts))
    kacc.quantize(model, subject.scheme)
    kacc.quantization.calibrate(model, [images[:CALIBRATION]])
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tflite")
        artifact = kacc.convert(model, path, f"tflite-{subject.scheme}")
        for kernels, count in zip(KERNELS, counts, strict=True):
            x = images[CALIBRATION : CALIBRATION + count]
            if kernels == "xnnpack":
                rows.append(_row(subject, artifact, kernels, "predict", model, x))
            simulation = kacc.simulate(model, kernels)
            rows.append(_row(subject, artifact, kernels, "simulate", simulation, x))
            if rows[-1]["equal"] < 1:
                found = kacc.parity(model, artifact, x[:16], kernels).first_difference
                rows[-1]["first operator"] = f"{found.operator} {found.layer}"
    return rows


def _row(
    subject: Subject, artifact: Any, kernels: str, against: str, model: Any, x: Any
) -> dict[str, Any]:
    say(f"{subject.name}: {len(x)} images, {kernels}, {against}")
    info = artifact.manifest.outputs[0]
    want = np.asarray(model.predict(x, batch_size=50, verbose=0))
    got = artifact.predict(x, kernels=kernels)
    steps = np.rint(np.abs(want - got) / info.scale)
    return {
        "model": subject.name,
        "kernels": kernels,
        "against": against,
        "images": len(x),
        "outputs": want.size,
        "equal": float((want == got).mean()),
        "largest LSB": int(steps.max()),
        "first operator": None,
    }


def _cifar(count: int) -> np.ndarray:
    """Training images to calibrate, then validation images."""
    first = loaders().cifar10("train", shards=1)[0][:CALIBRATION]
    rest = loaders().cifar10("val")[0][: count - CALIBRATION]
    return np.concatenate([first, rest]).astype("float32")


def _flower_images(count: int) -> np.ndarray:
    return flowers(count)[0]


# Small models


def _beginning() -> tuple[Any, Any]:
    from keras import Input, layers

    image = Input((32, 32, 3), name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1.0)(image)
    return image, layers.Conv2D(12, 3, strides=2, activation="relu")(x)


def _ended(image: Any, x: Any) -> Any:
    import keras
    from keras import layers

    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(10)(x))


def _concatenate() -> Any:
    from keras import layers

    image, x = _beginning()
    wide = layers.Conv2D(8, 3, padding="same")(x)
    narrow = layers.Conv2D(8, 1, activation="relu")(x)
    pooled = layers.MaxPooling2D(3, strides=1, padding="same")(x)
    x = layers.Concatenate()([wide, narrow, pooled])
    return _ended(image, layers.Conv2D(16, 3, activation="relu")(x))


def _gates() -> Any:
    """LeakyReLU, sigmoid, swish, and products with gates, one of them per channel."""
    from keras import layers

    image, x = _beginning()
    x = layers.Conv2D(16, 3)(x)
    x = layers.LeakyReLU()(x)
    gate = layers.Conv2D(16, 1, activation="sigmoid")(x)
    x = layers.Multiply()([x, gate])
    x = layers.Conv2D(16, 3, activation="swish")(x)
    channels = layers.GlobalAveragePooling2D(keepdims=True)(x)
    channels = layers.Conv2D(4, 1, activation="swish")(channels)
    channels = layers.Conv2D(16, 1, activation="sigmoid")(channels)
    return _ended(image, layers.Multiply()([x, channels]))


def _layer_normalization() -> Any:
    from keras import layers

    image, x = _beginning()
    x = layers.LayerNormalization()(x)
    y = layers.Conv2D(24, 1, activation="relu")(x)
    x = layers.Add()([x, layers.Conv2D(12, 1)(y)])
    return _ended(image, layers.LayerNormalization()(x))


if __name__ == "__main__":
    sys.exit(main())
