"""What augmentation adds to a training step of ResNet8, batch 64.

Steps are those of `fit`: `train_function` on an iterator, the input pipeline included.
All candidates are timed in one process, a step of each in turn.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from common import Check, Report, arguments, loaders, resnet8
from timing import interleave

BATCH = 64
PLAIN = "plain"


def main() -> int:
    options = arguments(
        __doc__,
        ("--rounds", {"type": int, "default": 100, "help": "steps of each (100)"}),
    )
    rounds = 3 if options.quick else options.rounds
    candidates = _candidates()
    times = interleave(candidates, rounds, 10)
    report = Report(
        "augmentation_step", options.quick, {"batch": BATCH, "rounds": rounds}
    )
    report.table("Training step", [times.row(name, PLAIN) for name in candidates])
    for name in candidates:
        if name == PLAIN:
            continue
        bound = 1.12 if name.startswith("callback") else 1.05
        ratio = times.ratio(name, PLAIN)[1]
        report.checks.append(Check(f"{name} / plain step", ratio, "<=", bound))
    return report.finish(options.out)


def _candidates() -> dict[str, Callable[[], Any]]:
    from kacc import augmentation as aug

    warp = aug.Policy(
        [aug.Shear(10), aug.Zoom(0.2), aug.Flip(), aug.Rotation(15)],
        value_range=(0, 255),
    )
    crop = aug.policy_of("flip_and_crop", value_range=(0, 255))
    chosen = aug.policy_of("randaugment", value_range=(0, 255))
    return {
        PLAIN: _step(),
        "callback, warp": _step(callback=warp),
        "callback, flip and crop": _step(callback=crop),
        "callback, RandAugment": _step(callback=chosen),
        "tf.data on the host, warp": _step(mapped=warp),
        "tf.data on the host, flip and crop": _step(mapped=crop),
        "tf.data on the host, RandAugment": _step(mapped=chosen),
    }


def _step(callback: Any = None, mapped: Any = None) -> Callable[[], Any]:
    import keras
    import tensorflow as tf

    import kacc

    model = resnet8()
    model.compile(
        keras.optimizers.Adam(1e-4),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    x, y = loaders().cifar10("train", shards=1)
    x, y = x[: 20 * BATCH].astype("float32"), y[: 20 * BATCH]
    data = tf.data.Dataset.from_tensor_slices((x, y)).repeat().batch(BATCH)
    if mapped is not None:
        data = mapped.map(data, "host")
    iterator = iter(data.prefetch(2))
    if callback is not None:
        kacc.callbacks.DataAugmentation(callback).set_model(model)
    model.make_train_function()
    # Reading the loss waits for the step to end.
    return lambda: float(model.train_function(iterator)["loss"])


if __name__ == "__main__":
    sys.exit(main())
