"""ResNet8 on CIFAR-10, pruned: 75% and 2:4, beside tfmot and beside the float model.

Two comparisons. Short: 3 epochs of 20,000 images by kacc and by tfmot's
prune_low_magnitude, each with Adam at three learning rates. Long: 10 epochs of 40,000
images with flips and crops, at 75% and at 2:4, against the float model as published and
beside that model trained on for the same steps. Sparsities are counted from the files'
bytes. What was trained once is in the cache, so that a run that was stopped goes on.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import legacy_pruning
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
from resnet8_rows import means_of
from sparse_recipe import (
    LONG,
    SHORT,
    WAYS,
    Images,
    SparseRecipe,
    converted_row,
    data_of,
    file_row,
    quick,
    train,
    trained,
)

RATES = (3e-4, 1e-3, 3e-3)
_PRUNED = 8  # kernels of ResNet8 between the stem and the last layer


def main() -> int:
    options = arguments(
        __doc__,
        ("--seeds", {"type": int, "default": 3, "help": "how many (default 3)"}),
        ("--part", {"choices": ("short", "long"), "help": "one comparison only"}),
    )
    short, long = (quick(r) if options.quick else r for r in (SHORT, LONG))
    seeds = range(1 if options.quick else options.seeds)
    settings = {"short": short, "long": long, "seeds": [*seeds], "rates": RATES}
    report = Report("resnet8_sparsity", options.quick, settings)
    if options.part != "long":
        _compare_with_tfmot(report, short, seeds)
    if options.part != "short":
        _compare_with_float(report, long, seeds)
    return report.finish(options.out)


def _compare_with_tfmot(report: Report, recipe: SparseRecipe, seeds: range) -> None:
    images = Images(recipe)
    rows = []
    for seed, rate in itertools.product(seeds, RATES):
        mine = replace(recipe, learning_rate=rate)
        theirs = replace(mine, cosine=False)
        rows += [
            _short_row("kacc", rate, seed, _kacc_row("75%", mine, images, seed)),
            _short_row("tfmot", rate, seed, _tfmot_row(theirs, images, seed)),
        ]
    report.table("Short: each seed", rows)
    means = means_of(rows)
    report.table("Short: mean of the seeds", list(means.values()))
    best = {
        tool: max(row["accuracy"] for row in means.values() if row["tool"] == tool)
        for tool in ("kacc", "tfmot")
    }
    report.checks += [
        Check(
            "75%, short; bound: tfmot at its best rate + 0.02",
            best["kacc"],
            ">=",
            best["tfmot"] + 0.02,
        ),
        *_exactly(0.75, [row for row in rows if row["tool"] == "kacc"], "short"),
    ]


def _short_row(tool: str, rate: float, seed: int, row: dict[str, Any]) -> Any:
    name = f"{tool}, Adam {rate:g}"
    say(f"seed {seed}, {name}: accuracy {row['accuracy']:.4f}")
    return {"model": name, "tool": tool, "seed": seed, **row}


def _compare_with_float(report: Report, recipe: SparseRecipe, seeds: range) -> None:
    images = Images(recipe)
    rows = []
    for seed, way in itertools.product(seeds, WAYS):
        row = _kacc_row(way, recipe, images, seed)
        say(f"seed {seed}, {way}: accuracy {row['accuracy']:.4f}")
        rows.append({"model": way, "seed": seed, **row})
    report.table("Long: each seed", rows)
    means = means_of(rows)
    report.table("Long: mean of the seeds", list(means.values()))
    published = converted_row(resnet8(), "tflite-float32", images)["accuracy"]
    report.table("Float, as published", [{"accuracy": published}])
    pattern = [row for row in rows if row["model"] == "2:4"]
    report.checks += [
        *(
            Check(
                f"{way}, long; bound: float as published - 0.003",
                means[way]["accuracy"],
                ">=",
                published - 0.003,
            )
            for way in ("75%", "2:4")
        ),
        *_exactly(0.75, [row for row in rows if row["model"] == "75%"], "long"),
        *_between("kernels of 2:4", pattern, "2:4 kernels", _PRUNED, _PRUNED),
        *_between("zeros in them", pattern, "their sparsity", 0.5, 0.5),
    ]


def _kacc_row(
    way: str, recipe: SparseRecipe, images: Images, seed: int
) -> dict[str, Any]:
    import keras

    folder = trained(way, recipe, images, seed)
    model = keras.models.load_model(folder / "model.keras")
    return converted_row(model, "tflite-float32", images)


def _tfmot_row(recipe: SparseRecipe, images: Images, seed: int) -> dict[str, Any]:
    from kacc.converters.artifact import open_artifact

    def make(folder: Path) -> None:
        import tf_keras

        say(f"seed {seed}: training with tfmot, Adam {recipe.learning_rate:g}")
        tf_keras.utils.set_random_seed(seed)
        end = int(recipe.total * recipe.ramp)
        model, callbacks = legacy_pruning.prunable(resnet8(), end)
        train(tf_keras, model, recipe, data_of(recipe, images, seed), callbacks)
        (folder / "model.tflite").write_bytes(legacy_pruning.convert(model))

    scripts = ("legacy", "legacy_pruning", "recipe", "sparse_recipe")
    folder = fixture(
        f"resnet8-tfmot-pruned-{seed}",
        make,
        code=code_digest(*(f"scripts/bench/{name}.py" for name in scripts)),
        versions=versions("tensorflow", "tf-keras", "tensorflow-model-optimization"),
        recipe=recipe,
        seed=seed,
        images=images.digest,
    )
    return file_row(open_artifact(folder / "model.tflite"), images)


def _exactly(sparsity: float, rows: list[dict[str, Any]], part: str) -> list[Check]:
    """The zeros counted in the files are those that were asked for, to the weight.

    ResNet8 has 77,360 weights in its kernels, of which 75% are a whole number.
    """
    name = f"sparsity of the file, {part}"
    return _between(name, rows, "sparsity", sparsity, sparsity)


def _between(
    name: str, rows: list[dict[str, Any]], key: str, low: float, high: float
) -> list[Check]:
    values = [row[key] for row in rows]
    return [
        Check(f"{name}, least", min(values), ">=", low, of_quick=True),
        Check(f"{name}, most", max(values), "<=", high, of_quick=True),
    ]


if __name__ == "__main__":
    sys.exit(main())
