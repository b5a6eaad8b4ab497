"""Sizes of int8 files, and MobileNet's agreement and latency as int8.

ResNet8 is converted by calibration, and with quantization attached; MobileNet 0.75 at
224 x 224, with ImageNet weights, by calibration. Its agreement is that of the classes
that file and float model name for the same flower images.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import DATA, Check, Report, arguments, loaders, resnet8, say
from timing import interleave

SIZE = 224
CALIBRATION = 100


def main() -> int:
    options = arguments(
        __doc__,
        ("--rounds", {"type": int, "default": 100, "help": "latencies of each (100)"}),
    )
    images = 20 if options.quick else 500
    rounds = 5 if options.quick else options.rounds
    report = Report("sizes", options.quick, {"images": images, "rounds": rounds})
    with tempfile.TemporaryDirectory() as folder:
        _resnet8(report, Path(folder))
        _mobilenet(report, Path(folder), images, rounds)
    return report.finish(options.out)


def _resnet8(report: Report, folder: Path) -> None:
    import kacc

    say("ResNet8: float32, int8 by calibration, int8 by quantization-aware training")
    x = loaders().cifar10("train", shards=1)[0][:500].astype("float32")
    whole = kacc.convert(resnet8(), folder / "float32.tflite", "tflite-float32")
    files = {
        "PTQ": kacc.convert(resnet8(), folder / "ptq.tflite", "tflite-int8", x),
        "QAT": kacc.convert(
            kacc.quantize(resnet8()), folder / "qat.tflite", "tflite-int8", x
        ),
    }
    rows = [{"file": "float32", "bytes": whole.size_bytes, "share": 1.0}]
    for name, file in files.items():
        share = file.size_bytes / whole.size_bytes
        rows.append({"file": f"int8, {name}", "bytes": file.size_bytes, "share": share})
        report.checks.append(
            Check(f"ResNet8 int8 / float32 bytes, {name}", share, "<=", 0.32, True)
        )
    report.table("ResNet8", rows)


def _mobilenet(report: Report, folder: Path, count: int, rounds: int) -> None:
    import kacc

    say("MobileNet 0.75 at 224 x 224: float32 and int8 by calibration")
    model = mobilenet()
    calibration, x = flowers(CALIBRATION, count)
    whole = kacc.convert(model, folder / "whole.tflite", "tflite-float32")
    small = kacc.convert(model, folder / "small.tflite", "tflite-int8", calibration)
    wanted = model.predict(x, batch_size=25, verbose=0).argmax(-1)
    say(f"MobileNet: {count} images through both files")
    rows = [
        {
            "file": file.target,
            "bytes": file.size_bytes,
            "share": file.size_bytes / whole.size_bytes,
            "agreement with Keras": float(
                (file.predict(x).argmax(-1) == wanted).mean()
            ),
            "backend": file.manifest.backend,
        }
        for file in (whole, small)
    ]
    report.table(f"MobileNet 0.75, {count} flower images", rows)
    one = {file.target: file.feeds([x[:1]]) for file in (whole, small)}
    times = interleave(
        {
            file.target: lambda file=file: file.runtime().run(one[file.target])
            for file in (whole, small)
        },
        rounds,
    )
    report.table(
        "MobileNet 0.75, latency of one image, LiteRT with XNNPACK, one thread",
        [times.row(file.target, whole.target) for file in (whole, small)],
    )
    say(f"int8 / float32 latency: {times.ratio(small.target, whole.target)[1]:.3f}")


def mobilenet() -> Any:
    """MobileNet 0.75 for images of `SIZE`, with ImageNet weights."""
    import keras

    model = keras.applications.MobileNet(alpha=0.75, weights=None)
    model.load_weights(DATA / "models/mobilenet_v1_0.75_224_imagenet.weights.h5")
    return model


def flowers(*counts: int) -> list[np.ndarray]:
    """Disjoint sets of flower images of all classes, as MobileNet takes them."""
    from PIL import Image

    folders = sorted(p for p in loaders().FLOWERS.iterdir() if p.is_dir())
    paths = [sorted(folder.glob("*.jpg")) for folder in folders]
    turns = [path for group in zip(*paths, strict=False) for path in group]

    def read(path: Path) -> Any:
        image = Image.open(path).convert("RGB").resize((SIZE, SIZE), Image.BILINEAR)
        return np.asarray(image, "float32") / 127.5 - 1

    ends = np.cumsum([0, *counts])
    return [
        np.stack([read(path) for path in turns[start:end]])
        for start, end in itertools.pairwise(ends)
    ]


if __name__ == "__main__":
    sys.exit(main())
