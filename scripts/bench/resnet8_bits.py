"""ResNet8 on CIFAR-10 at 4, 8 and 16 bits: learned steps beside moving averages.

Each seed fine-tunes the same float model by each scheme, with the same images in the
same order. What counts is the accuracy of the file that is written.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from common import (
    Check,
    Report,
    arguments,
    code_digest,
    fixture,
    resnet8,
    say,
    versions,
)
from recipe import QUICK, Recipe, batches, train
from resnet8_rows import Images, floats, means_of, model_row

TRAINING_CODE = (
    "kacc/core/attach.py",
    "kacc/core/transform.py",
    "kacc/quantization/functional.py",
    "kacc/quantization/learned.py",
    "kacc/quantization/transform.py",
    "kacc/acceleration",
)

# Name in the table -> (scheme, whether steps are learned, seeds).
SCHEMES = {
    "int8, moving averages": ("int8", False, 3),
    "int8, learned steps": ("int8", True, 3),
    "w4a8, moving averages": ("w4a8", False, 3),
    "w4a8, learned steps": ("w4a8", True, 3),
    "int16x8, moving averages": ("int16x8", False, 1),
}

# Name in the table -> how much accuracy its file may lose.
BOUNDS = {"w4a8, learned steps": 0.01, "int16x8, moving averages": 0.001}


def main() -> int:
    options = arguments(
        __doc__,
        ("--seeds", {"type": int, "default": 3, "help": "how many (default 3)"}),
        ("--only", {"help": "a part of the names of the rows to run"}),
    )
    recipe = QUICK if options.quick else Recipe()
    images = Images(recipe)
    report = Report("resnet8_bits", options.quick, {"recipe": recipe})
    start = _float_accuracy(images)
    rows = [
        _row(name, recipe, images, seed)
        for name, (_, _, most) in SCHEMES.items()
        if (options.only or "") in name
        for seed in range(1 if options.quick else min(options.seeds, most))
    ]
    report.table("Each seed", [*rows, {"model": "float", "graph accuracy": start}])
    means = means_of(rows)
    report.table("Mean of the seeds", list(means.values()))
    for name, drop in BOUNDS.items():
        if name in means:
            bound = f"accuracy of the file, {name}; bound: float - {drop}"
            accuracy = means[name]["int8 accuracy"]
            report.checks.append(Check(bound, accuracy, ">=", start - drop))
    for row in means.values():
        report.checks.append(
            Check(f"outputs equal to the file, {row['model']}", row["equal"], ">=", 1.0)
        )
    return report.finish(options.out)


def _float_accuracy(images: Images) -> float:
    outputs = resnet8().predict(floats(images.x_val), batch_size=100, verbose=0)
    return float((outputs.argmax(-1) == images.y_val).mean())


def _row(name: str, recipe: Recipe, images: Images, seed: int) -> dict[str, Any]:
    import keras

    import kacc

    scheme, learned, _ = SCHEMES[name]

    def make(folder: Path) -> None:
        say(f"seed {seed}: training {name}")
        keras.utils.set_random_seed(seed)
        model = kacc.accelerate(resnet8())
        data = batches(recipe, images.x, images.y, seed)
        callback = kacc.callbacks.QuantizationAwareTraining(
            scheme, learned_steps=learned
        )
        train(keras, model, recipe, data, [callback])
        model.save(folder / "model.keras")

    folder = fixture(
        f"resnet8-{scheme}-{'learned' if learned else 'average'}-{seed}",
        make,
        code=code_digest(*TRAINING_CODE),
        script=code_digest("scripts/bench/recipe.py"),
        versions=versions("tensorflow", "keras"),
        recipe=recipe,
        seed=seed,
        images=images.digest,
    )
    model = keras.models.load_model(folder / "model.keras")
    artifact = kacc.convert(model, folder / "model.tflite", f"tflite-{scheme}")
    outputs = model.predict(floats(images.x_val), batch_size=100, verbose=0)
    row = {**model_row(name, outputs, artifact, images), "seed": seed}
    say(f"seed {seed}, {name}: accuracy of the file {row['int8 accuracy']:.4f}")
    return row


if __name__ == "__main__":
    sys.exit(main())
