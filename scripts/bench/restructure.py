"""ResNet8 on CIFAR-10, restructured: MACs, parameters, accuracy before any tuning.

And after one epoch of 10,000 images by the same light recipe for all, the model as
published among them: no more than a first look at what an option costs. ResNet8 ends
each stage in a relu and pools before its Dense, so that cheaper activations and another
head find nothing to do.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
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
from recipe import Recipe, batches, train
from resnet8_rows import Images, floats, means_of

RECIPE = Recipe(epochs=1, images=10_000, learning_rate=3e-4)
QUICK = Recipe(epochs=1, images=640, learning_rate=3e-4, validation=300)
SAMPLES = 256
CODE = ("kacc/restructuring", "kacc/core/rebuild.py", "kacc/core/channels")
BASE = "as published"
STEM = "separable but the first, multiplier 1"  # of three channels, colors


def settings() -> dict[str, tuple[Sequence[Any], bool]]:
    """Name of a row -> the options, and whether they get calibration data."""
    from kacc.restructuring import RoundChannels, SeparableConvolutions, Width

    both = ["fold_normalization", SeparableConvolutions(2)]
    return {
        BASE: ((), False),
        "separable, multiplier 1, by weights": ((SeparableConvolutions(),), False),
        "separable, multiplier 1": ((SeparableConvolutions(),), True),
        STEM: ((SeparableConvolutions(),), True),
        "separable, multiplier 2, by weights": ((SeparableConvolutions(2),), False),
        "separable, multiplier 2": ((SeparableConvolutions(2),), True),
        "folded, separable, multiplier 2": (both, True),
        "rounded to 24": ((RoundChannels(24),), False),
        "width 0.5, fresh": ((Width(0.5),), False),
        "width 0.5, leading": ((Width(0.5, weights="leading"),), False),
        "folded": (("fold_normalization",), False),
        "folded, inserted": (
            ("fold_normalization", "insert_batch_normalization"),
            True,
        ),
    }


def main() -> int:
    options = arguments(
        __doc__,
        ("--seeds", {"type": int, "default": 1, "help": "how many (default 1)"}),
    )
    recipe = QUICK if options.quick else RECIPE
    seeds = range(1 if options.quick else options.seeds)
    report = Report(
        "restructure",
        options.quick,
        {"recipe": recipe, "samples": SAMPLES, "seeds": [*seeds]},
    )
    images = Images(recipe)
    rows = [_row(name, recipe, images, seed) for name in settings() for seed in seeds]
    report.table("Each seed", rows)
    means = means_of(rows)
    report.table("Mean of the seeds", list(means.values()))
    report.checks += _checks(means)
    return report.finish(options.out)


def _checks(means: dict[str, dict[str, Any]]) -> list[Check]:
    before = {name: row["before"] for name, row in means.items()}
    equal = ("rounded to 24", "folded", "folded, inserted")
    worst = max(abs(before[name] - before[BASE]) for name in equal)
    checks = [
        Check("accuracy of equal models, largest change", worst, "<=", 4e-4, True)
    ]
    for multiplier in (1, 2):
        name = f"separable, multiplier {multiplier}"
        checks.append(
            Check(
                f"{name}: by weights; bound: by outputs, before tuning",
                before[f"{name}, by weights"],
                "<",
                before[name],
            )
        )
        ratio = means[name]["MACs"] / means[BASE]["MACs"]
        checks.append(Check(f"{name}: MACs, of the whole", ratio, "<=", 0.5, True))
    return checks


def _row(name: str, recipe: Recipe, images: Images, seed: int) -> dict[str, Any]:
    import keras

    from kacc.core.cost import cost

    def make(folder: Path) -> None:
        say(f"seed {seed}: {name}")
        keras.utils.set_random_seed(seed)
        model = _restructured(name, images)
        model.save(folder / "before.keras")
        data = batches(recipe, images.x, images.y, seed)
        train(keras, model, recipe, data)
        model.save(folder / "after.keras")

    folder = fixture(
        f"restructured-{seed}",
        make,
        row=name,
        options=repr(settings()[name]),
        samples=SAMPLES,
        recipe=recipe,
        images=images.digest,
        code=code_digest(*CODE),
        script=code_digest("scripts/bench/recipe.py"),
        versions=versions("tensorflow", "keras"),
    )
    before = keras.models.load_model(folder / "before.keras")
    after = keras.models.load_model(folder / "after.keras", compile=False)
    whole = cost(before)
    row = {
        "model": name,
        "seed": seed,
        "MACs": whole.macs,
        "parameters": whole.params,
        "before": _accuracy(before, images),
        "after": _accuracy(after, images),
    }
    say(f"{name}: {row['before']:.4f}, tuned {row['after']:.4f}")
    return row


def _restructured(name: str, images: Images) -> Any:
    import kacc

    options, is_calibrated = settings()[name]
    if not options:
        return resnet8()
    calibration = floats(images.x[:SAMPLES]) if is_calibrated else None
    rules = [kacc.Rule("conv2d", skip=True)] if name == STEM else []
    return kacc.restructure(resnet8(), options, calibration=calibration, rules=rules)


def _accuracy(model: Any, images: Images) -> float:
    outputs = model.predict(floats(images.x_val), batch_size=100, verbose=0)
    return float(np.mean(outputs.argmax(-1) == images.y_val))


if __name__ == "__main__":
    sys.exit(main())
