"""ResNet8, batch 64: steps of plain Keras 3 and accelerated ones, with and without QAT.

All steps are timed in one process, one of each in turn. `--accuracy` trains instead:
from scratch, plain and accelerated with the same seeds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import legacy
import numpy as np
from common import (
    Check,
    Report,
    arguments,
    code_digest,
    fixture,
    loaders,
    resnet8,
    say,
    versions,
)
from recipe import Recipe, batches
from step_time import BATCH, _compiled, _step
from timing import interleave

# From new weights, with half a cosine from the learning rate to zero.
SCRATCH = Recipe(epochs=5, images=10_000, batch=32, learning_rate=1e-2)
QUICK = Recipe(epochs=1, images=640, validation=300, learning_rate=1e-2)
TRAINING_CODE = ("kacc/core", "kacc/support", "kacc/quantization", "kacc/acceleration")
# What the plan keeps for ResNet8 on CPUs that compute in bfloat16: fixed here, so that
# rows of other machines and runs are the same.
KEPT = {"fused": True, "dtype": "bfloat16"}


def main() -> int:
    options = arguments(
        __doc__,
        ("--rounds", {"type": int, "default": 60, "help": "steps of each (60)"}),
        ("--accuracy", {"action": "store_true", "help": "train: about 30 minutes"}),
        ("--seeds", {"type": int, "default": 6, "help": "of --accuracy (6)"}),
    )
    return _accuracy(options) if options.accuracy else _times(options)


def _times(options: Any) -> int:
    rounds = 3 if options.quick else options.rounds
    report = Report("acceleration", options.quick, {"batch": BATCH, "rounds": rounds})
    candidates, kept, steps = _candidates(options.quick)
    times = interleave(candidates, rounds)
    for name, count in steps.items():
        times.wall[name][:] /= count
        times.cpu[name][:] /= count
    bases = dict.fromkeys(["tf_keras", "tf_keras, tfmot QAT"], "tf_keras")
    report.table(
        "Training step",
        [times.row(name, bases.get(name, "Keras 3")) for name in candidates],
    )
    report.notes.update(kept)
    for name, bound in (("Keras 3, accelerated", 0.70), (_BOTH, 0.85)):
        ratio = times.ratio(name, "Keras 3")[1]
        report.checks.append(Check(f"{name} / plain Keras 3", ratio, "<=", bound))
    for name, note in kept.items():
        say(f"{name}: {note}")
    return report.finish(options.out)


_BOTH = "Keras 3, accelerated, kacc QAT"


def _candidates(
    quick: bool,
) -> tuple[dict[str, Callable[[], Any]], dict[str, str], dict[str, int]]:
    """The steps, what acceleration kept for those that it measured, steps in a call."""
    import keras
    import tf_keras

    import kacc
    from kacc.acceleration import plan

    x, y = loaders().cifar10("train", shards=1)
    data = x[:BATCH].astype("float32"), y[:BATCH]
    kept: dict[str, str] = {}
    steps: dict[str, int] = {}

    def keras3(name: str, *treatments: Callable[[Any], Any]) -> Any:
        model = _compiled(keras, resnet8())
        for treatment in treatments:
            treatment(model)
        return name, _step(model)

    def measured(name: str) -> Callable[[Any], None]:
        def apply(model: Any) -> None:
            options = {"rounds": 3 if quick else 20, "verbose": False}
            result = plan(model, data, batch_size=BATCH, **options)
            say(str(result))
            kept[name] = f"{result.keep}: {result.reason}"
            steps[name] = result.apply(model).steps_per_execution

        return apply

    def tf2(name: str, *treatments: Callable[[Any], Any]) -> Any:
        model = legacy.twin(resnet8())
        for treatment in treatments:
            model = treatment(model)
        return name, _step(_compiled(tf_keras, model))

    one = "Keras 3, accelerated"
    pairs = [
        keras3("Keras 3"),
        keras3(one, measured(one)),
        keras3(_BOTH, kacc.quantize, measured(_BOTH)),
        keras3("Keras 3, float32: fused", kacc.accelerate),
        keras3("Keras 3, float32: fused, kacc QAT", kacc.accelerate, kacc.quantize),
        keras3("Keras 3, kacc QAT", kacc.quantize),
        tf2("tf_keras"),
        tf2("tf_keras, tfmot QAT", legacy.quantize),
    ]
    return dict(pairs), kept, steps


def _accuracy(options: Any) -> int:
    recipe = QUICK if options.quick else SCRATCH
    seeds = range(1 if options.quick else options.seeds)
    settings = {"recipe": recipe, "seeds": [*seeds], "kept": KEPT}
    report = Report("acceleration_accuracy", options.quick, settings)
    rows = [
        {"model": name, "seed": seed, "accuracy": _trained(recipe, name, seed)}
        for seed in seeds
        for name in _TREATMENTS
    ]
    report.table("Each seed", rows)
    by_name = {
        name: np.array([r["accuracy"] for r in rows if r["model"] == name])
        for name in _TREATMENTS
    }
    report.table(
        "Mean of the seeds",
        [
            {"model": name, "accuracy": float(v.mean()), "deviation": _deviation(v)}
            for name, v in by_name.items()
        ],
    )
    for name, base in (("accelerated", "plain"), ("accelerated QAT", "QAT")):
        a, b = by_name[name], by_name[base]
        # Two standard errors of the difference of the means.
        noise = 2 * np.sqrt((_deviation(a) ** 2 + _deviation(b) ** 2) / len(a))
        bound = float(b.mean() - noise)
        title = f"accuracy, {name}; bound: {base}'s less two standard errors"
        report.checks.append(Check(title, float(a.mean()), ">=", bound))
    return report.finish(options.out)


def _deviation(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def _accelerate(model: Any) -> None:
    from kacc.acceleration import Setting

    Setting(**KEPT).apply(model)


def _quantize(model: Any) -> None:
    import kacc

    kacc.quantize(model)


_TREATMENTS: dict[str, tuple[Callable[[Any], None], ...]] = {
    "plain": (),
    "accelerated": (_accelerate,),
    "QAT": (_quantize,),
    "accelerated QAT": (_quantize, _accelerate),
}


def _train(model: Any, recipe: Recipe, data: Any) -> None:
    import keras

    steps = recipe.epochs * recipe.steps
    rate = keras.optimizers.schedules.CosineDecay(recipe.learning_rate, steps)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    model.fit(data, epochs=recipe.epochs, steps_per_epoch=recipe.steps, verbose=0)


def _trained(recipe: Recipe, name: str, seed: int) -> float:
    """Validation accuracy after training, in float32 and of QAT that of the file."""
    import keras

    from kacc.acceleration import restore

    x, y = loaders().cifar10("train")
    x, y = x[: recipe.images], y[: recipe.images]
    x_val, y_val = loaders().cifar10("val")
    x_val, y_val = x_val[: recipe.validation], y_val[: recipe.validation]

    def make(folder: Path) -> None:
        say(f"seed {seed}, {name}: training")
        keras.utils.set_random_seed(seed)
        model = keras.models.clone_model(resnet8())
        for treatment in _TREATMENTS[name]:
            treatment(model)
        _train(model, recipe, batches(recipe, x, y, seed))
        restore(model)
        outputs = model.predict(x_val.astype("float32"), batch_size=100, verbose=0)
        accuracy = float((outputs.argmax(-1) == y_val.reshape(-1)).mean())
        (folder / "row.json").write_text(json.dumps({"accuracy": accuracy}))

    code = TRAINING_CODE if _TREATMENTS[name] else ()
    folder = fixture(
        f"resnet8-accelerated-{name.replace(' ', '-')}-{seed}",
        make,
        recipe=recipe,
        kept=KEPT,
        seed=seed,
        code=code_digest(
            *code, "scripts/bench/recipe.py", "scripts/bench/acceleration.py"
        ),
        versions=versions("tensorflow", "keras"),
    )
    accuracy = float(json.loads((folder / "row.json").read_text())["accuracy"])
    say(f"seed {seed}, {name}: accuracy {accuracy:.4f}")
    return accuracy


if __name__ == "__main__":
    sys.exit(main())
