"""ResNet8 on CIFAR-10 after training: what ranges, roundings and biases are worth.

Files from 500 training images, without any training, one option after the other; what
counts is the accuracy of the file on the validation images.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import Check, Report, arguments, resnet8, say
from recipe import QUICK, Recipe
from resnet8_rows import Images, floats, model_row

# Name in the table -> the target, and the options of `kacc.convert`.
FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "int8": ("tflite-int8", {}),
    "int8, ranges by squared error": ("tflite-int8", {"ranges": "mse"}),
    "int8, bias correction": ("tflite-int8", {"bias_correction": True}),
    "int16x8": ("tflite-int16x8", {}),
    "w4a8": ("tflite-w4a8", {}),
    "w4a8, ranges by squared error": ("tflite-w4a8", {"ranges": "mse"}),
    "w4a8, bias correction": ("tflite-w4a8", {"bias_correction": True}),
    "w4a8, AdaRound": ("tflite-w4a8", {"rounding": "adaround"}),
}

# Of points of accuracy that AdaRound brings back: it earns its place by these.
EARNED = 0.05


def main() -> int:
    options = arguments(__doc__)
    recipe = QUICK if options.quick else Recipe()
    images = Images(recipe)
    report = Report("resnet8_ptq", options.quick, {"calibration images": 500})
    outputs = resnet8().predict(floats(images.x_val), batch_size=100, verbose=0)
    rows = [_row(name, outputs, images) for name in FILES]
    float_accuracy = float((outputs.argmax(-1) == images.y_val).mean())
    rows.append({"file": "float model", "accuracy": float_accuracy})
    report.table("Files without training", rows)
    accuracy = {row["file"]: row["accuracy"] for row in rows}
    gain = accuracy["w4a8, AdaRound"] - accuracy["w4a8"]
    report.checks += [
        Check("points that AdaRound adds at 4 bits / 100", gain, ">=", EARNED),
        Check("int16x8 - float", accuracy["int16x8"] - float_accuracy, ">=", -0.001),
    ]
    return report.finish(options.out)


def _row(name: str, outputs: Any, images: Images) -> dict[str, Any]:
    import kacc

    say(name)
    target, chosen = FILES[name]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        artifact = kacc.convert(
            resnet8(),
            Path(folder, "model.tflite"),
            target,
            floats(images.x[:500]),
            backend="kacc",
            **chosen,
        )
        seconds = time.perf_counter() - start
        row = model_row(name, outputs, artifact, images)
    return {
        "file": name,
        "accuracy": row["int8 accuracy"],
        "same class as the float model": row["argmax agreement"],
        "bytes": row["bytes"],
        "seconds": seconds,
    }


if __name__ == "__main__":
    sys.exit(main())
