"""ResNet8 sparse and int8 at once, in one fit, beside the same sparse in float.

Each seed trains twice with the same images: by kacc's pruning alone, and by pruning and
quantization together, the latter from the middle on. What counts are the accuracies of
the float and of the int8 file, and the int8 file's size after gzip beside that of a
dense one.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from common import Check, Report, arguments, resnet8, say
from resnet8_rows import means_of
from sparse_recipe import (
    LONG,
    Images,
    SparseRecipe,
    converted_row,
    quick,
    trained,
)

WAY = "75%"
QUANTIZATION_CODE = (
    "kacc/quantization/callback.py",
    "kacc/quantization/functional.py",
    "kacc/quantization/placement.py",
    "kacc/quantization/transform.py",
    "kacc/support",
)


def main() -> int:
    options = arguments(
        __doc__,
        ("--seeds", {"type": int, "default": 3, "help": "how many (default 3)"}),
        ("--epochs", {"type": int, "default": 6, "help": "of 40,000 images (6)"}),
    )
    recipe = replace(LONG, epochs=options.epochs)
    if options.quick:
        recipe = replace(quick(recipe), epochs=2)
    seeds = range(1 if options.quick else options.seeds)
    report = Report("sparse_qat", options.quick, {"recipe": recipe, "seeds": [*seeds]})
    images = Images(recipe)
    rows = [_dense_row(images)]
    for seed in seeds:
        rows += [
            _row("sparse, float32", recipe, images, seed, quantized=False),
            _row("sparse, int8", recipe, images, seed, quantized=True),
        ]
    report.table("Each seed", rows)
    means = means_of(rows)
    report.table("Mean of the seeds", list(means.values()))
    whole, both = means["sparse, float32"], means["sparse, int8"]
    report.checks += [
        Check(
            "accuracy, sparse int8; bound: sparse float - 0.007",
            both["accuracy"],
            ">=",
            whole["accuracy"] - 0.007,
        ),
        Check(
            "gzip of the int8 file / of the dense int8 file",
            both["gzip"] / means["dense, int8"]["gzip"],
            "<=",
            0.55,
            of_quick=True,
        ),
        Check("sparsity of the int8 file", both["sparsity"], ">=", 0.75, of_quick=True),
    ]
    return report.finish(options.out)


def _dense_row(images: Images) -> dict[str, Any]:
    """The model as published, calibrated."""
    samples = images.x[:500].astype("float32")
    row = converted_row(resnet8(), "tflite-int8", images, samples)
    return {"model": "dense, int8", "seed": None, **row}


def _row(
    name: str, recipe: SparseRecipe, images: Images, seed: int, *, quantized: bool
) -> dict[str, Any]:
    import keras

    import kacc

    def callbacks() -> list[Any]:
        start = recipe.epochs // 2
        return [kacc.callbacks.QuantizationAwareTraining("int8", start_epoch=start)]

    more: dict[str, Any] = {}
    if quantized:
        more = {"also": callbacks, "name": "-qat", "code": QUANTIZATION_CODE}
    folder = trained(WAY, recipe, images, seed, **more)
    model = keras.models.load_model(folder / "model.keras")
    target = "tflite-int8" if quantized else "tflite-float32"
    row = converted_row(model, target, images)
    say(f"seed {seed}, {name}: accuracy of the file {row['accuracy']:.4f}")
    return {"model": name, "seed": seed, **row}


if __name__ == "__main__":
    sys.exit(main())
