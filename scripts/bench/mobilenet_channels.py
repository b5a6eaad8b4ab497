"""MobileNet 0.75 on flowers without half of its MACs: accuracy before and after.

ImageNet weights, fine-tuned on the flowers at 128 x 128 by plain Keras, 5 epochs; then
2.0x fewer MACs by reconstruction, and 5 epochs more. Every fifth image of each class is
kept for validation. What is trained is kept, so that a run that was stopped goes on.
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
    loaders,
    say,
    versions,
)

CLASSES = ("daisy", "dandelion", "roses", "sunflowers", "tulips")
CODE = (
    "kacc/core/cost.py",
    "kacc/core/channels",
    "kacc/core/rebuild.py",
    "kacc/core/refitting.py",
    "kacc/pruning/channels",
)


@dataclass(frozen=True)
class Settings:
    """How long, how large and how fast."""

    size: int = 128
    epochs: int = 5
    batch: int = 32
    learning_rate: float = 3e-4
    most: int | None = None  # images of each class
    samples: int = 512


QUICK = Settings(size=32, epochs=1, most=20, samples=32)


@dataclass(frozen=True)
class Flowers:
    """Training and validation images, as MobileNet takes them, and class numbers."""

    x: np.ndarray
    y: np.ndarray
    x_val: np.ndarray
    y_val: np.ndarray

    @classmethod
    def read(cls, settings: Settings) -> Flowers:
        """Reads the images; every fifth of each class is for validation."""
        x, y, last = [], [], []
        for number, name in enumerate(CLASSES):
            paths = sorted((loaders().FLOWERS / name).glob("*.jpg"))[: settings.most]
            x += [_image(path, settings.size) for path in paths]
            y += [number] * len(paths)
            last += [index % 5 == 4 for index in range(len(paths))]
        images, labels, held = np.stack(x), np.array(y), np.array(last)
        return cls(images[~held], labels[~held], images[held], labels[held])


def main() -> int:
    options = arguments(
        __doc__,
        ("--seeds", {"type": int, "default": 3, "help": "how many (default 3)"}),
    )
    settings = QUICK if options.quick else Settings()
    flowers = Flowers.read(settings)
    report = Report("mobilenet_channels", options.quick, {"settings": settings})
    rows = [
        row
        for seed in range(1 if options.quick else options.seeds)
        for row in _seed(settings, flowers, seed)
    ]
    report.table(f"{len(flowers.y_val)} validation images", rows)
    means = {
        name: {
            key: float(np.mean([r[key] for r in rows if r["model"] == name]))
            for key in ("accuracy", "MACs")
        }
        for name in ("before", "cut", "after")
    }
    report.table("Mean", [{"model": name, **row} for name, row in means.items()])
    report.checks += [
        Check(
            "MACs, before / after",
            means["before"]["MACs"] / means["after"]["MACs"],
            ">=",
            2.0,
            of_quick=True,
        ),
        Check(
            "accuracy after; bound: before - 0.02",
            means["after"]["accuracy"],
            ">=",
            means["before"]["accuracy"] - 0.02,
        ),
    ]
    return report.finish(options.out)


def _seed(settings: Settings, flowers: Flowers, seed: int) -> list[dict[str, Any]]:
    import keras

    import kacc
    from kacc.core.cost import cost

    depends = {
        "settings": settings,
        "seed": seed,
        "images": digest(flowers.x, flowers.y),
        "versions": versions("tensorflow", "keras"),
        "script": code_digest("scripts/bench/mobilenet_channels.py"),
    }

    def fine_tune(folder: Path) -> None:
        say(f"seed {seed}: fine-tuning")
        keras.utils.set_random_seed(seed)
        model = _mobilenet(settings)
        _train(model, settings, flowers)
        model.save(folder / "model.keras")

    before = fixture(f"mobilenet-flowers-{seed}", fine_tune, **depends)
    whole = keras.models.load_model(before / "model.keras", compile=False)

    def prune(folder: Path) -> None:
        say(f"seed {seed}: removing channels")
        keras.utils.set_random_seed(seed)
        some = np.random.default_rng(seed).permutation(len(flowers.x))
        model = kacc.prune_channels(
            whole,
            macs=0.5,
            importance="reconstruction",
            data=flowers.x[some[: settings.samples]],
        )
        model.save(folder / "cut.keras")
        _train(model, settings, flowers)
        model.save(folder / "model.keras")

    after = fixture(
        f"mobilenet-channels-{seed}", prune, code=code_digest(*CODE), **depends
    )
    rows = []
    for name, path in (
        ("before", before / "model.keras"),
        ("cut", after / "cut.keras"),
        ("after", after / "model.keras"),
    ):
        model = keras.models.load_model(path, compile=False)
        outputs = model.predict(flowers.x_val, batch_size=32, verbose=0)
        accuracy = float((outputs.argmax(-1) == flowers.y_val).mean())
        counted = cost(model)
        row = {"model": name, "seed": seed, "accuracy": accuracy}
        rows.append(row | {"MACs": counted.macs, "params": counted.params})
        say(f"seed {seed}, {name}: accuracy {accuracy:.4f}")
    return rows


def _mobilenet(settings: Settings) -> Any:
    """MobileNet 0.75 with ImageNet's weights and a new head."""
    import keras

    make = keras.applications.MobileNet
    whole = make(alpha=0.75, weights=None)
    whole.load_weights(DATA / "models/mobilenet_v1_0.75_224_imagenet.weights.h5")
    shape = (settings.size, settings.size, 3)
    body = make(
        alpha=0.75, weights=None, input_shape=shape, include_top=False, pooling="avg"
    )
    body.set_weights(whole.get_weights()[: len(body.get_weights())])
    x = keras.layers.Dropout(0.2)(body.output)
    outputs = keras.layers.Dense(len(CLASSES), activation="softmax")(x)
    return keras.Model(body.input, outputs)


def _train(model: Any, settings: Settings, flowers: Flowers) -> None:
    import keras

    steps = settings.epochs * -(-len(flowers.x) // settings.batch)
    rate = keras.optimizers.schedules.CosineDecay(settings.learning_rate, steps)
    model.compile(
        keras.optimizers.Adam(rate),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(
        _batches(settings, flowers),
        epochs=settings.epochs,
        callbacks=[
            keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: say(
                    f"  epoch {epoch + 1}: accuracy {logs['accuracy']:.4f} in training"
                )
            )
        ],
        verbose=0,
    )


def _batches(settings: Settings, flowers: Flowers) -> Any:
    """The training images, shuffled and flipped at random."""
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((flowers.x, flowers.y))
    data = data.shuffle(len(flowers.x)).batch(settings.batch)
    return data.map(
        lambda x, y: (tf.image.random_flip_left_right(x), y),
        num_parallel_calls=tf.data.AUTOTUNE,
    ).prefetch(2)


def _image(path: Path, size: int) -> np.ndarray:
    from PIL import Image

    image = Image.open(path).convert("RGB").resize((size, size), Image.BILINEAR)
    return np.asarray(image, "float32") / 127.5 - 1


if __name__ == "__main__":
    sys.exit(main())
