"""Images/s from a folder of 2,934 JPEGs at 128x128: kacc, Keras 3 and Keras 2.

An epoch of each in turn, on all cores; nothing trains. Keras 2's `ImageDataGenerator`
reads in the threads that `fit` would give it. Building a dataset is timed apart.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import DATA, Check, Report, arguments, loaders
from timing import Times, interleave

SIDE, BATCH = 128, 64
OPTIONS = {"image_size": (SIDE, SIDE), "batch_size": BATCH, "seed": 0}
LEGACY = {"shear_range": 10.0, "zoom_range": 0.2, "horizontal_flip": True}


def main() -> int:
    options = arguments(
        __doc__,
        ("--rounds", {"type": int, "default": 7, "help": "epochs of each (7)"}),
    )
    loaders()  # says so where the data is not there
    rounds = 1 if options.quick else options.rounds
    with tempfile.TemporaryDirectory() as folder:
        sets, built = _datasets(Path(folder))
        count = len(list((DATA / "data/flowers128/train").glob("*/*.jpg")))
        epochs = {name: _epoch(data) for name, data in sets.items()}
        times = interleave(epochs, rounds, warmup=0 if options.quick else 1)
    settings = {"images": count, "side": SIDE, "batch": BATCH, "rounds": rounds}
    report = Report("flow_from_directory", options.quick, settings)
    report.table(
        "An epoch",
        [
            {
                "what": name,
                "images/s": count / float(_median(times, name)),
                **{
                    k: v for k, v in times.row(name, _BASE[name]).items() if k != "what"
                },
                "building, s": built[name],
            }
            for name in sets
        ],
    )
    report.checks += [
        Check(
            "kacc / image_dataset_from_directory, time of an epoch",
            times.ratio("kacc", "Keras 3")[1],
            "<=",
            1.0,
        ),
        Check(
            "kacc / ImageDataGenerator, both augmented, time of an epoch",
            times.ratio("kacc, augmented", "Keras 2, augmented")[1],
            "<=",
            0.2,
        ),
        Check(
            "kacc with a cache / without, time of an epoch",
            times.ratio("kacc, cache in memory", "kacc")[1],
            "<=",
            0.3,
        ),
    ]
    return report.finish(options.out)


_BASE = {
    "Keras 3": "Keras 3",
    "kacc": "Keras 3",
    "kacc, cache in memory": "Keras 3",
    "kacc, cache in files": "Keras 3",
    "Keras 2, augmented": "Keras 2, augmented",
    "kacc, augmented": "Keras 2, augmented",
    "kacc, augmented, cache in memory": "Keras 2, augmented",
}


def _datasets(folder: Path) -> tuple[dict[str, Any], dict[str, float]]:
    import keras
    from tf_keras.preprocessing.image import ImageDataGenerator

    from kacc.augmentation import flow_from_directory

    root = DATA / "data" / "flowers128" / "train"

    def ours(**more: Any) -> Callable[[], Any]:
        return lambda: flow_from_directory(root, **OPTIONS, **more)

    makers: dict[str, Callable[[], Any]] = {
        "Keras 3": lambda: keras.utils.image_dataset_from_directory(
            root, verbose=False, **OPTIONS
        ).prefetch(2),
        "kacc": ours(),
        "kacc, cache in memory": ours(cache=True),
        "kacc, cache in files": ours(cache=folder),
        "Keras 2, augmented": lambda: ImageDataGenerator(**LEGACY).flow_from_directory(
            root, target_size=(SIDE, SIDE), batch_size=BATCH, interpolation="bilinear"
        ),
        "kacc, augmented": ours(augmentation=LEGACY),
        "kacc, augmented, cache in memory": ours(augmentation=LEGACY, cache=True),
    }
    sets, built = {}, {}
    for name, make in makers.items():
        start = time.perf_counter()
        sets[name] = make()
        built[name] = time.perf_counter() - start
    return sets, built


def _epoch(data: Any) -> Callable[[], None]:
    import tensorflow as tf
    import tf_keras

    def all_batches() -> None:
        for _ in data:
            pass

    def by_threads() -> None:
        queue = tf_keras.utils.OrderedEnqueuer(data, shuffle=False)
        queue.start(workers=2, max_queue_size=10)
        batches = queue.get()
        for _ in range(len(data)):
            next(batches)
        queue.stop()

    return all_batches if isinstance(data, tf.data.Dataset) else by_threads


def _median(times: Times, name: str) -> float:
    return times.row(name, name)["median ms"] / 1e3


if __name__ == "__main__":
    sys.exit(main())
