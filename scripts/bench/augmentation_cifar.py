"""CIFAR-10 from scratch with and without augmentation: a half-width ResNet8, 3 seeds.

Each run is kept in the cache, so that an interrupted table goes on where it was.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    Report,
    arguments,
    code_digest,
    digest,
    fixture,
    loaders,
    say,
    versions,
)
from students import narrow

SEEDS = (0, 1, 2)
CODE = ("kacc/augmentation", "scripts/bench/augmentation_cifar.py")
FULL = (0.0, 255.0)


@dataclass(frozen=True)
class Settings:
    """How long, on what and how fast; a cosine brings the learning rate to zero."""

    epochs: int = 10
    images: int = 10_000
    validation: int = 5_000
    batch: int = 32
    learning_rate: float = 1e-2


def main() -> int:
    options = arguments(__doc__)
    settings = Settings()
    if options.quick:
        settings = replace(settings, epochs=1, images=640, validation=300)
    seeds = SEEDS[:1] if options.quick else SEEDS
    report = Report("augmentation_cifar", options.quick, {**asdict(settings)})
    data = _data(settings)
    rows = []
    for name in _policies():
        runs = [_run(name, seed, settings, data) for seed in seeds]
        accuracies = [run["accuracy"] for run in runs]
        rows.append(
            {
                "augmentation": name,
                "accuracy": float(np.mean(accuracies)),
                "deviation": float(np.std(accuracies, ddof=1)) if seeds[1:] else None,
                "lowest": min(accuracies),
                "highest": max(accuracies),
                "training accuracy": float(np.mean([r["training"] for r in runs])),
                "seconds": float(np.mean([run["seconds"] for run in runs])),
            }
        )
    report.table("CIFAR-10 from scratch", rows)
    return report.finish(options.out)


def _policies() -> dict[str, Any]:
    from kacc import augmentation as aug

    flip_and_crop = (aug.Flip(), aug.RandomCrop(4))
    warp = (aug.Flip(), aug.Rotation(10), aug.Shear(8), aug.Zoom(0.1))
    return {
        "none": None,
        "flip and crop": aug.Policy(flip_and_crop),
        "warp": aug.Policy((*warp, aug.Translation(0.1))),
        "RandAugment": aug.Policy(
            (*flip_and_crop, aug.RandAugment(1, 5)), value_range=FULL
        ),
        "MixUp": aug.Policy((*flip_and_crop, aug.MixUp(0.2))),
    }


def _data(settings: Settings) -> tuple[np.ndarray, ...]:
    x, y = loaders().cifar10("train", shards=1)
    x_val, y_val = loaders().cifar10("val")
    return (
        x[: settings.images],
        y[: settings.images],
        x_val[: settings.validation],
        y_val[: settings.validation],
    )


def _run(name: str, seed: int, settings: Settings, data: Any) -> dict[str, Any]:
    policy = _policies()[name]
    say(f"{name}, seed {seed}")
    folder = fixture(
        "augmentation-cifar",
        lambda work: _train(work, policy, seed, settings, data),
        policy=policy and policy.get_config(),
        seed=seed,
        settings=settings,
        data=digest(*data),
        code=code_digest(*CODE),
        versions=versions("tensorflow", "keras"),
    )
    return json.loads((folder / "run.json").read_text())


def _train(work: Path, policy: Any, seed: int, settings: Settings, data: Any) -> None:
    import keras

    import kacc

    keras.utils.set_random_seed(seed)
    model = _half_width()
    steps = -(-settings.images // settings.batch) * settings.epochs
    model.compile(
        keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(settings.learning_rate, steps)
        ),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    kacc.accelerate(model)
    x, y, x_val, y_val = data
    callbacks = []
    if policy is not None:
        callbacks.append(kacc.callbacks.DataAugmentation(policy, seed=seed))
    start = time.perf_counter()
    history = model.fit(
        x.astype("float32"),
        y,
        batch_size=settings.batch,
        epochs=settings.epochs,
        callbacks=callbacks,
        verbose=0,
    )
    seconds = time.perf_counter() - start
    _, accuracy = model.evaluate(x_val.astype("float32"), y_val, 250, verbose=0)
    found = {
        "accuracy": accuracy,
        "training": history.history["accuracy"][-1],
        "seconds": seconds,
    }
    (work / "run.json").write_text(json.dumps(found))


def _half_width() -> Any:
    """MLPerf Tiny's ResNet8 with 8, 16 and 32 channels, and new weights."""
    import keras

    model = narrow(0.5)
    inputs = keras.Input(model.input_shape[1:])  # 0 to 255
    return keras.Model(inputs, model(keras.layers.Rescaling(1 / 64, -2)(inputs)))


if __name__ == "__main__":
    sys.exit(main())
