"""Augmented images per second, beside Keras, ImageDataGenerator and albumentations.

albumentations is installed for this alone, out of the way of everything else:
    pip install --target DIR --no-deps albumentations==2.0.8 albucore==0.0.24
    pip install --target DIR simsimd stringzilla pydantic==2.11.7 pyyaml
    PYTHONPATH=$PYTHONPATH:DIR python scripts/bench/augmentation.py
Without it its rows are absent. `--no-deps` keeps the installed OpenCV.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from common import Check, Report, arguments, loaders, say
from timing import Times, interleave

BATCH = 64
SHEAR, ZOOM, DEGREES = 10, 0.2, 15
Step = Callable[[], Any]


def main() -> int:
    options = arguments(
        __doc__,
        ("--rounds", {"type": int, "default": 30, "help": "turns of each (30)"}),
    )
    rounds = 2 if options.quick else options.rounds
    report = Report(
        "augmentation",
        options.quick,
        {"batch": BATCH, "rounds": rounds, "shear": SHEAR, "zoom": ZOOM},
    )
    images = loaders().cifar10("train", shards=1)[0][: 16 * BATCH]
    small = _measured(report, _warps(images, 128), "Warp, 32x32", rounds, 128 * BATCH)
    large = images[: 2 * BATCH].repeat(7, 1).repeat(7, 2)
    fewer = rounds // 3 + 1
    big = _measured(report, _warps(large, 8), "Warp, 224x224", fewer, 8 * BATCH)
    chosen = _measured(report, _rand(images), "RandAugment, 32x32", fewer, 64 * BATCH)
    report.checks += _checks(small, big, chosen)
    return report.finish(options.out)


def _checks(small: Times, big: Times, chosen: Times) -> list[Check]:
    def faster(times: Times, name: str, base: str) -> float:
        return times.ratio(base, name)[1]

    checks = [
        Check(f"32x32: {name} / {base}", faster(small, name, base), ">=", bound)
        for name, base, bound in (
            ("kacc host", "ImageDataGenerator", 8.0),
            ("kacc host", "Keras layers", 5.0),
            ("kacc graph", "ImageDataGenerator", 2.0),
            ("kacc graph", "Keras layers", 2.0),
        )
    ]
    checks.append(
        Check(
            "RandAugment: kacc / Keras",
            faster(chosen, "kacc host", "Keras RandAugment"),
            ">=",
            15.0,
        )
    )
    for title, times, name in (
        ("32x32", small, "one core: kacc host"),
        ("224x224", big, "one core: kacc host"),
        ("RandAugment", chosen, "one core: kacc host"),
    ):
        if "one core: albumentations" in times.wall:
            value = faster(times, name, "one core: albumentations")
            checks.append(
                Check(f"{title}, one core: kacc / albumentations", value, ">=", 1.0)
            )
    return checks


def _measured(
    report: Report,
    candidates: dict[str, tuple[Step, int]],
    title: str,
    rounds: int,
    n: int,
) -> Times:
    """Times turns of `n` images each; some do fewer and are scaled."""
    say(title)
    times = interleave(
        {name: step for name, (step, _) in candidates.items()}, rounds, 2
    )
    scaled = Times(
        {k: v * (n / candidates[k][1]) for k, v in times.wall.items()},
        {k: v * (n / candidates[k][1]) for k, v in times.cpu.items()},
    )
    rows = []
    for name, seconds in scaled.wall.items():
        low, middle, high = np.percentile(n / seconds, [25, 50, 75])
        rows.append(
            {
                "what": name,
                "images/s": float(middle),
                "quartiles": f"{low:,.0f} .. {high:,.0f}",
                "CPU us per image": float(np.median(scaled.cpu[name])) / n * 1e6,
            }
        )
    report.table(title, rows)
    return scaled


def _turn(dataset: Any, batches: int) -> Step:
    """A turn reads some batches, from a new iterator.

    An old one would have made them in the time of the others' turns.
    """
    some = dataset.take(batches).prefetch(2)

    def turn() -> None:
        for _ in some:
            pass

    return turn


def _endless(images: np.ndarray) -> Any:
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(images).repeat().batch(BATCH)


def _warps(images: np.ndarray, batches: int) -> dict[str, tuple[Step, int]]:
    import keras
    import tensorflow as tf

    from kacc import augmentation as aug

    size = images.shape[1]
    data = _endless(images)
    policy = aug.Policy(
        [aug.Shear(SHEAR), aug.Zoom(ZOOM), aug.Flip(), aug.Rotation(DEGREES)]
    )
    layers = [
        keras.layers.RandomShear(np.tan(np.radians(SHEAR)), 0.0),
        keras.layers.RandomZoom(ZOOM),
        keras.layers.RandomFlip("horizontal"),
        keras.layers.RandomRotation(DEGREES / 360),
    ]

    def keras_layers(batch: Any) -> Any:
        batch = tf.cast(batch, tf.float32)
        for layer in layers:
            batch = layer(batch, training=True)
        return batch

    parallel = tf.data.AUTOTUNE
    fewer = max(2, batches // 16)  # of the slow ones
    result = {
        "kacc host": (_turn(policy.map(data, "host"), batches), batches * BATCH),
        "kacc graph": (_turn(policy.map(data, "graph"), batches), batches * BATCH),
        "Keras layers": (_turn(data.map(keras_layers, parallel), fewer), fewer * BATCH),
        "ImageDataGenerator": (_legacy(images, fewer), fewer * BATCH),
    }
    return result | _one_core(policy, images[:BATCH], _albumentations_warp(size))


def _legacy(images: np.ndarray, batches: int) -> Step:
    from tf_keras.preprocessing.image import ImageDataGenerator

    generator = ImageDataGenerator(
        shear_range=SHEAR, zoom_range=ZOOM, horizontal_flip=True, rotation_range=DEGREES
    )
    flow = generator.flow(images, batch_size=BATCH, shuffle=False)

    def turn() -> None:
        for _ in range(batches):
            next(flow)

    return turn


def _rand(images: np.ndarray) -> dict[str, tuple[Step, int]]:
    import keras
    import tensorflow as tf

    from kacc import augmentation as aug

    data = _endless(images)
    policy = aug.Policy([aug.RandAugment(2, 9)])
    layer = keras.layers.RandAugment((0, 255), num_ops=2, factor=0.3)
    theirs = data.map(lambda x: layer(x, training=True), tf.data.AUTOTUNE)
    return {
        "kacc host": (_turn(policy.map(data, "host"), 64), 64 * BATCH),
        "kacc graph": (_turn(policy.map(data, "graph"), 64), 64 * BATCH),
        "Keras RandAugment": (_turn(theirs, 4), 4 * BATCH),
        **_one_core(policy, images[:BATCH], _albumentations_rand()),
    }


# On one core, without a pipeline: what the engine itself does


def _one_core(
    policy: Any, images: np.ndarray, other: Any
) -> dict[str, tuple[Step, int]]:
    """Drawing parameters and changing a batch, in the thread that asks."""
    import cv2
    import tensorflow as tf

    from kacc.augmentation import host
    from kacc.augmentation.apply import augment

    cv2.setNumThreads(1)
    seeds = iter(range(10**9))
    tensor = tf.constant(images)  # as batches are in a pipeline

    def ours() -> None:
        seed = tf.constant((0, next(seeds), 0))
        augment(policy, seed, {"images": tensor}, "host")["images"].numpy()

    assert host.available()
    result = {"one core: kacc host": (ours, len(images))}
    if other is not None:

        def theirs() -> None:
            np.stack([other(image=image)["image"] for image in images])

        result["one core: albumentations"] = (theirs, len(images))
    return result


def _albumentations() -> Any:
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    try:
        import albumentations
    except ImportError:
        say("albumentations is not installed: its rows are absent (see the docstring)")
        return None
    return albumentations


def _albumentations_warp(size: int) -> Any:
    other = _albumentations()
    if other is None:
        return None
    return other.Compose(
        [
            other.HorizontalFlip(p=0.5),
            other.Affine(
                scale=(1 - ZOOM, 1 + ZOOM),
                rotate=(-DEGREES, DEGREES),
                shear={"x": (-SHEAR, SHEAR), "y": (0, 0)},
                border_mode=2,
                p=1.0,
            ),
        ]
    )


def _albumentations_rand() -> Any:
    other = _albumentations()
    if other is None:
        return None
    factor = (0.73, 1.27)
    same = {
        "contrast": (1, 1),
        "saturation": (1, 1),
        "hue": (0, 0),
        "brightness": (1, 1),
    }
    kinds = [
        other.NoOp(p=1),
        other.AutoContrast(p=1),
        other.Equalize(p=1),
        other.Affine(rotate=(-9, 9), p=1),
        other.Solarize(p=1),
        other.ColorJitter(**same | {"saturation": factor}, p=1),
        other.Posterize(num_bits=7, p=1),
        other.ColorJitter(**same | {"contrast": factor}, p=1),
        other.ColorJitter(**same | {"brightness": factor}, p=1),
        other.Sharpen(p=1),
        other.Affine(shear={"x": (-5, 5), "y": (0, 0)}, p=1),
        other.Affine(shear={"x": (0, 0), "y": (-5, 5)}, p=1),
        other.Affine(translate_percent={"x": (-0.14, 0.14), "y": (0, 0)}, p=1),
        other.Affine(translate_percent={"x": (0, 0), "y": (-0.14, 0.14)}, p=1),
    ]
    return other.SomeOf(kinds, n=2, replace=True, p=1)


if __name__ == "__main__":
    sys.exit(main())
