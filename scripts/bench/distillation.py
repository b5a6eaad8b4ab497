"""A half-width ResNet8 from scratch, with the published ResNet8 as teacher and alone.

The same images in the same order for both; the gain is counted seed by seed.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from common import Check, Report, arguments, resnet8
from resnet8_rows import Images, floats
from students import QUICK, StudentRecipe, student


def main() -> int:
    options = arguments(
        __doc__,
        ("--seeds", {"type": int, "default": 3, "help": "how many (default 3)"}),
    )
    recipe = QUICK if options.quick else StudentRecipe()
    seeds = range(1 if options.quick else options.seeds)
    settings = {"recipe": recipe, "seeds": [*seeds]}
    report = Report("distillation", options.quick, settings)
    images = Images(recipe)
    rows = [_row(recipe, images, seed) for seed in seeds]
    report.table("Accuracy of each seed", rows)
    gains = np.array([row["gain"] for row in rows])
    report.table(
        "Over the seeds",
        [
            {
                "teacher": accuracy(resnet8(), images),
                "alone": float(np.mean([row["alone"] for row in rows])),
                "with a teacher": float(
                    np.mean([row["with a teacher"] for row in rows])
                ),
                "gain": float(gains.mean()),
                "spread of the gain": float(gains.std(ddof=1))
                if len(gains) > 1
                else None,
            }
        ],
    )
    report.checks += [Check("mean gain in accuracy", float(gains.mean()), ">", 0.0)]
    return report.finish(options.out)


def _row(recipe: StudentRecipe, images: Images, seed: int) -> dict[str, Any]:
    import keras

    found = {
        name: accuracy(
            keras.models.load_model(
                student(recipe, images, seed, taught=taught) / "model.keras"
            ),
            images,
        )
        for name, taught in (("alone", False), ("with a teacher", True))
    }
    return {"seed": seed, **found, "gain": found["with a teacher"] - found["alone"]}


def accuracy(model: Any, images: Images) -> float:
    """Of the validation images."""
    outputs = model.predict(floats(images.x_val), batch_size=100, verbose=0)
    return float((outputs.argmax(-1) == images.y_val).mean())


if __name__ == "__main__":
    sys.exit(main())
