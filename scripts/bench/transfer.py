"""MobileNet 0.75 on the flowers, from ImageNet's weights and from scratch.

At 128 x 128 and 5 epochs: the head alone, and the rest unfrozen after 2 epochs, from a
fifth of the images and from all; beside it all from scratch. Every fifth image of each
class is kept for validation.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    DATA,
    Check,
    Report,
    arguments,
    code_digest,
    digest,
    fixture,
    say,
    versions,
)
from mobilenet_channels import CLASSES, QUICK, Flowers, Settings

RATES = (1e-3, 1e-3, 1e-4, 5e-5, 1e-5)  # of the epochs: the head, then all
WEIGHTS = DATA / "models/mobilenet_v1_0.75_224_imagenet.weights.h5"


@dataclass(frozen=True)
class Way:
    """How a model is trained.

    Args:
        name: in the table.
        share: of the training images.
        pretrained: whether it starts with ImageNet's weights.
        unfrozen: whether more than the head is trained.
    """

    name: str
    share: float
    pretrained: bool = True
    unfrozen: bool = True


WAYS = (
    Way("head only, 20% of the images", 0.2, unfrozen=False),
    Way("unfrozen, 20%", 0.2),
    Way("head only, 100%", 1.0, unfrozen=False),
    Way("unfrozen, 100%", 1.0),
    Way("from scratch, 100%", 1.0, pretrained=False),
)


def main() -> int:
    options = arguments(
        __doc__,
        ("--seeds", {"type": int, "default": 1, "help": "how many (default 1)"}),
    )
    settings = QUICK if options.quick else Settings()
    flowers = Flowers.read(settings)
    seeds = range(1 if options.quick else options.seeds)
    report = Report("transfer", options.quick, {"settings": settings})
    rows = []
    for way in WAYS:
        found = [_accuracy(way, settings, flowers, seed) for seed in seeds]
        spread = float(np.std(found, ddof=1)) if len(found) > 1 else None
        row = {"model": way.name, "accuracy": float(np.mean(found)), "spread": spread}
        rows.append(row)
    report.table(f"{len(flowers.y_val)} validation images", rows)
    table = {row["model"]: row["accuracy"] for row in rows}
    scratch = table["from scratch, 100%"]
    report.checks += [
        Check("unfrozen, 20% over scratch", table["unfrozen, 20%"] - scratch, ">", 0.0),
        Check("unfrozen over scratch", table["unfrozen, 100%"] - scratch, ">", 0.0),
    ]
    return report.finish(options.out)


def _accuracy(way: Way, settings: Settings, flowers: Flowers, seed: int) -> float:
    import keras

    def make(folder: Path) -> None:
        say(f"seed {seed}: {way.name}")
        keras.utils.set_random_seed(seed)
        model = _model(way, settings)
        _train(model, way, settings, flowers, seed)
        model.save(folder / "model.keras")

    folder = fixture(
        f"flowers-{seed}",
        make,
        way=way,
        settings=settings,
        seed=seed,
        images=digest(flowers.x, flowers.y),
        versions=versions("tensorflow", "keras"),
        script=code_digest("scripts/bench/transfer.py"),
        code=code_digest("kacc/transfer"),
    )
    model = keras.models.load_model(folder / "model.keras", compile=False)
    outputs = model.predict(_raw(flowers.x_val), batch_size=32, verbose=0)
    accuracy = float((outputs.argmax(-1) == flowers.y_val).mean())
    say(f"seed {seed}: {way.name}: {accuracy:.4f}")
    return accuracy


def _raw(images: np.ndarray) -> np.ndarray:
    """Images of 0 to 255, as `kacc.pretrained` takes them."""
    return (images + 1) * 127.5


def _model(way: Way, settings: Settings) -> Any:
    import keras

    import kacc

    shape = (settings.size, settings.size, 3)
    weights = WEIGHTS if way.pretrained else None
    model = kacc.pretrained(
        "MobileNet", len(CLASSES), weights, input_shape=shape, alpha=0.75
    )
    if not way.pretrained:
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                # With Keras's 0.99 so few steps end with the statistics of the first.
                layer.momentum = 0.9
    return model


def _train(
    model: Any, way: Way, settings: Settings, flowers: Flowers, seed: int
) -> None:
    import keras
    import tensorflow as tf

    import kacc

    chosen = np.random.default_rng(seed).permutation(len(flowers.x))
    chosen = chosen[: round(len(chosen) * way.share)]
    x, y = _raw(flowers.x[chosen]), flowers.y[chosen]
    data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=seed)
    data = data.batch(settings.batch).map(
        lambda x, y: (tf.image.random_flip_left_right(x), y)
    )
    rate: Any = RATES[0]
    if not way.pretrained:
        steps = settings.epochs * len(data)
        rate = keras.optimizers.schedules.CosineDecay(rate, steps)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    callbacks = []
    if way.pretrained and way.unfrozen:
        start = min(2, settings.epochs - 1)
        callbacks = [
            kacc.callbacks.Unfreezing(start),
            keras.callbacks.LearningRateScheduler(lambda epoch, _: RATES[epoch]),
        ]
    model.fit(data.prefetch(2), epochs=settings.epochs, callbacks=callbacks, verbose=0)


if __name__ == "__main__":
    sys.exit(main())
