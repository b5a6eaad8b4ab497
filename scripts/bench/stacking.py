"""Three half-width ResNet8 as one int8 file, against one ResNet8.

The students are those of `distillation.py`. Their weights or head are found on images
that they were not trained on and that do not count in the end.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from common import Check, Report, arguments, loaders, resnet8, say
from resnet8_rows import Images, floats
from students import QUICK, StudentRecipe, student
from timing import interleave

MEMBERS = 3
HELD_OUT = 2_000


def main() -> int:
    options = arguments(
        __doc__,
        ("--rounds", {"type": int, "default": 300, "help": "of timing (300)"}),
    )
    recipe = QUICK if options.quick else StudentRecipe()
    rounds = 5 if options.quick else options.rounds
    report = Report("stacking", options.quick, {"recipe": recipe, "rounds": rounds})
    images = Images(recipe)
    with tempfile.TemporaryDirectory() as folder:
        artifacts = _artifacts(recipe, images, Path(folder), options.quick)
        rows = [_row(name, a, images) for name, a in artifacts.items()]
        times = _times(artifacts, images, rounds)
        for row in rows:
            timed = times.row(row["model"], "ResNet8")
            row |= {"median ms": timed["median ms"], "to ResNet8": timed["ratio"]}
    report.table("int8 files, batch 1", rows)
    one = next(row for row in rows if row["model"] == "ResNet8")
    best = max((row for row in rows if "three" in row["model"]), key=_accuracy)
    alone = next(row for row in rows if row["model"] == "one student")
    report.checks += [
        Check(
            "three students over one", best["accuracy"] - alone["accuracy"], ">", 0.0
        ),
        Check("bytes of three / of ResNet8", best["bytes"] / one["bytes"], "<=", 1.0),
    ]
    return report.finish(options.out)


def _accuracy(row: dict[str, Any]) -> float:
    return float(row["accuracy"])


def _artifacts(
    recipe: StudentRecipe, images: Images, folder: Path, quick: bool
) -> dict[str, Any]:
    import keras

    import kacc

    members = [
        keras.models.load_model(
            student(recipe, images, seed, taught=True) / "model.keras"
        )
        for seed in range(MEMBERS)
    ]
    # The last of the training images, which the students have not seen.
    x, y = loaders().cifar10("train", shards=4)
    held = 100 if quick else HELD_OUT
    data = floats(x[-held:]), y[-held:]
    models = {"ResNet8": resnet8(), "one student": members[0]}
    for method in ("average", "weighted", "stacked"):
        say(f"three students, {method}")
        models[f"three students, {method}"] = kacc.ensemble(members, method, data)
    calibration = floats(images.x[:500])
    return {
        name: kacc.convert(
            model, folder / f"{number}.tflite", "tflite-int8", calibration
        )
        for number, (name, model) in enumerate(models.items())
    }


def _row(name: str, artifact: Any, images: Images) -> dict[str, Any]:
    best = artifact.predict(floats(images.x_val)).argmax(-1)
    return {
        "model": name,
        "accuracy": float((best == images.y_val).mean()),
        "bytes": artifact.size_bytes,
        "gzip": artifact.gzip_bytes,
    }


def _times(artifacts: dict[str, Any], images: Images, rounds: int) -> Any:
    x = floats(images.x_val[:1])

    def call(artifact: Any) -> Any:
        runtime, feeds = artifact.runtime(), artifact.feeds([x])
        return lambda: runtime.run(feeds)

    return interleave({name: call(a) for name, a in artifacts.items()}, rounds, 10)


if __name__ == "__main__":
    sys.exit(main())
