"""ResNet8 on CIFAR-10 without half of its MACs: accuracy, latency and NPU cycles.

Channels are chosen by reconstruction until the model has 2.0x fewer MACs and takes 1.5x
fewer cycles on an Ethos-U55-128; what the second and third stack hand on stays whole,
and so does the inside of the first. Then the smaller model is trained for 10 epochs of
40,000 images, flipped and cropped by up to 2 pixels, on their labels and on the answers
of the model as published. Beside it stand that model, which is what the bounds are
about, and the same trained on by the same recipe. A run that was stopped goes on from
its last epoch.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    CACHE,
    Check,
    Report,
    arguments,
    code_digest,
    fixture,
    resnet8,
    say,
    versions,
)
from distilled_recipe import DistilledRecipe, train
from mobilenet_channels import CODE as CHANNELS
from resnet8_rows import Images, floats, means_of
from timing import Times, interleave

RECIPE = DistilledRecipe(epochs=10, images=40_000, batch=32)
QUICK = DistilledRecipe(epochs=1, images=640, validation=300, warmup=2)
WHOLE = ("conv2d_1", "conv2d_[45]", "conv2d_[78]")  # keep all their channels
MACS, CYCLES = 1 / 2.0, 1 / 1.5  # what is left at most
CODE = (*CHANNELS, "kacc/acceleration")
BASE = "as published"


@dataclass(frozen=True)
class Setting:
    """How a model comes about: what is done before it is trained, and its seeds."""

    name: str
    prepare: Callable[[Images], Any]
    seeds: int


def main() -> int:
    options = arguments(
        __doc__,
        ("--seeds", {"type": int, "default": 3, "help": "how many (default 3)"}),
        ("--rounds", {"type": int, "default": 300, "help": "of latencies (300)"}),
    )
    recipe = QUICK if options.quick else RECIPE
    images = Images(recipe)
    seeds = 1 if options.quick else options.seeds
    settings = [
        Setting("pruned", _pruned, seeds),
        Setting("trained on", lambda images: resnet8(), 1),
    ]
    report = Report("resnet8_channels", options.quick, {"recipe": recipe})
    rows, files = [_row(BASE, resnet8(), images, None)], {}
    files[BASE] = _file(resnet8())
    for setting in settings:
        for seed in range(setting.seeds):
            model = _trained(setting, recipe, images, seed)
            rows.append(_row(setting.name, model, images, seed))
            files.setdefault(setting.name, _file(model))
    report.table("Each seed", rows)
    means = means_of(rows)
    report.table("Mean of the seeds", list(means.values()))
    times = _latencies(files, images, 5 if options.quick else options.rounds)
    report.table("Latency, LiteRT, float32", [times.row(n, BASE) for n in files])
    _judge(report, means[BASE], means["pruned"], times)
    return report.finish(options.out)


def _judge(
    report: Report, whole: dict[str, Any], small: dict[str, Any], times: Times
) -> None:
    faster = 1 / times.ratio("pruned", BASE)[1]
    for name, value, bound, quick in (
        ("MACs, as published / pruned", whole["MACs"] / small["MACs"], 2.0, True),
        ("accuracy, pruned; bound: as published - 0.02", None, None, False),
        ("latency, as published / pruned", faster, 1.5, False),
        ("Ethos-U55-128 cycles", whole["cycles"] / small["cycles"], 1.5, True),
    ):
        if value is None:
            value, bound = small["accuracy"], whole["accuracy"] - 0.02
        report.checks.append(Check(name, value, ">=", bound, quick))


def _pruned(images: Images) -> Any:
    """Without the channels that the layers behind can do without."""
    import kacc
    from kacc.converters.ethos import cycles
    from kacc.core.cost import macs

    model, count = resnet8(), cycles(128)
    whole = macs(model), count(model)

    def excess(candidate: Any) -> float:
        """The larger of both costs, in shares of what it may be."""
        return max(
            macs(candidate) / whole[0] / MACS, count(candidate) / whole[1] / CYCLES
        )

    return kacc.prune_channels(
        model,
        share=1 / excess(model),
        cost=excess,
        importance="reconstruction",
        data=floats(images.x[:512]),
        rules=[kacc.Rule(pattern, skip=True) for pattern in WHOLE],
    )


def _trained(
    setting: Setting, recipe: DistilledRecipe, images: Images, seed: int
) -> Any:
    """The model of a seed, from the cache if it is there."""
    import keras

    import kacc

    depends = {
        "recipe": recipe,
        "seed": seed,
        "images": images.digest,
        "code": code_digest(*CODE),
        "script": code_digest(
            "scripts/bench/recipe.py", "scripts/bench/distilled_recipe.py"
        ),
        "bounds": (MACS, CYCLES),
        "whole": WHOLE,
        "versions": versions("tensorflow", "keras"),
    }

    def make(folder: Path) -> None:
        say(f"seed {seed}: {setting.name}")
        start = fixture(
            f"resnet8-channels-{setting.name.split()[0]}-start",
            lambda empty: setting.prepare(images).save(empty / "model.keras"),
            **{k: v for k, v in depends.items() if k not in ("seed", "script")},
        )
        keras.utils.set_random_seed(seed)
        model = kacc.accelerate(keras.models.load_model(start / "model.keras"))
        _train(model, recipe, images, seed, CACHE / "bench" / backup)
        model.save(folder / "model.keras")

    name = f"resnet8-channels-{setting.name.replace(' ', '-')}-{seed}"
    key = hashlib.sha256(repr(depends).encode()).hexdigest()[:16]
    backup = f".{name}-{key}-epochs"
    folder = fixture(name, make, **depends)
    return keras.models.load_model(folder / "model.keras", compile=False)


def _train(
    model: Any, recipe: DistilledRecipe, images: Images, seed: int, backup: Path
) -> None:
    """A run that was stopped goes on from its last epoch."""
    import keras

    restore = keras.callbacks.BackupAndRestore(backup)
    train(model, recipe, images, seed, [_Progress(), restore])
    shutil.rmtree(backup, ignore_errors=True)


def _Progress() -> Any:  # noqa: N802
    import keras

    return keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: say(
            f"  epoch {epoch + 1}: accuracy {logs['accuracy']:.4f} in training"
        )
    )


def _row(name: str, model: Any, images: Images, seed: int | None) -> dict[str, Any]:
    import tempfile

    import kacc
    from kacc.core.cost import cost

    x = floats(images.x_val)
    counted = cost(model)
    with tempfile.TemporaryDirectory() as folder:
        calibration = floats(images.x[:500])
        small = kacc.convert(model, f"{folder}/a.tflite", "tflite-int8", calibration)
        npu = kacc.convert(model, f"{folder}/b.tflite", "ethos-u55", calibration)
        classes = small.predict(x).argmax(-1)
    row = {
        "model": name,
        "seed": seed,
        "accuracy": _accuracy(model.predict(x, batch_size=100, verbose=0), images),
        "int8 accuracy": float((classes == images.y_val).mean()),
        "MACs": counted.macs,
        "params": counted.params,
        "cycles": npu.manifest.report["cycles"],
        "on the NPU": npu.manifest.report["npu_share"],
        "filters": " ".join(
            str(layer.filters) for layer in model.layers if hasattr(layer, "filters")
        ),
    }
    say(f"{name}, seed {seed}: accuracy {row['accuracy']:.4f}")
    return row


def _accuracy(outputs: np.ndarray, images: Images) -> float:
    return float((outputs.argmax(-1) == images.y_val).mean())


def _file(model: Any) -> Any:
    import tempfile

    import kacc

    path = Path(tempfile.mkdtemp()) / "model.tflite"
    artifact = kacc.convert(model, path, "tflite-float32", batch=1)
    artifact.runtime()  # reads the file, which may go then
    shutil.rmtree(path.parent)
    return artifact


def _latencies(files: dict[str, Any], images: Images, rounds: int) -> Times:
    x = floats(images.x_val[:1])
    calls = {}
    for name, file in files.items():
        runtime = file.runtime()
        runtime.load(file.feeds([x]))
        calls[name] = runtime.invoke
    return interleave(calls, rounds, warmup=20)


if __name__ == "__main__":
    sys.exit(main())
