"""`xla-cpu` against Keras's own `model.export`, on this machine's CPUs, in one run.

ResNet8 at batches of 1 and 8, and ten models of keras.applications at a batch of 1:
both SavedModels are loaded by TensorFlow and called through their signatures in turn.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import Check, Report, arguments, resnet8, say
from timing import interleave

MODELS = (
    *("MobileNet", "MobileNetV2", "MobileNetV3Small", "EfficientNetB0", "ResNet50"),
    *("ResNet50V2", "DenseNet121", "NASNetMobile", "Xception", "InceptionV3"),
)
SIZE = 224


def main() -> int:
    options = arguments(__doc__, ("--rounds", {"type": int, "default": 200}))
    rounds = 5 if options.quick else options.rounds
    threads = os.cpu_count()
    report = Report("xla_cpu", options.quick, {"rounds": rounds, "threads": threads})
    rows = [
        compared("ResNet8", resnet8(), batch, rounds, 1.3, report) for batch in (1, 8)
    ]
    for name in MODELS[:1] if options.quick else MODELS:
        model = application(name)
        rows.append(compared(name, model, 1, max(rounds // 5, 5), 0.97, report))
    report.table(f"SavedModels, {threads} threads", rows)
    return report.finish(options.out)


def application(name: str) -> Any:
    """With random weights and statistics of normalization that are not trivial."""
    import keras

    keras.utils.set_random_seed(0)
    shape = (SIZE, SIZE, 3)
    model = getattr(keras.applications, name)(weights=None, input_shape=shape)
    random = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(random.normal(0, 0.1, layer.moving_mean.shape))
    return model


def compared(
    name: str, model: Any, batch: int, rounds: int, bound: float, report: Report
) -> dict[str, Any]:
    import tensorflow as tf

    import kacc

    x = np.random.default_rng(0).uniform(0, 1, (batch, *model.input_shape[1:]))
    x = tf.constant(x, tf.float32)
    with tempfile.TemporaryDirectory() as folder:
        model.export(f"{folder}/keras", verbose=False)
        sizes = (batch,)
        artifact = kacc.convert(
            model, Path(folder, "kacc"), "xla-cpu", batch_sizes=sizes
        )
        theirs = tf.saved_model.load(f"{folder}/keras").signatures["serving_default"]
        loaded = tf.saved_model.load(str(artifact.path))
        ours = loaded.signatures[f"batch_{batch}"]
        times = interleave(
            {"keras": _caller(theirs, x), "kacc": _caller(ours, x)}, rounds
        )
        gap = np.abs(_caller(theirs, x)() - _caller(ours, x)()).max()
    low, ratio, high = times.ratio("keras", "kacc")
    what = f"{name}, batch {batch}"
    say(f"{what}: {ratio:.3f}")
    report.checks.append(Check(f"{what}: keras / kacc", ratio, ">=", bound))
    return {
        "model": what,
        "keras ms": float(np.median(times.wall["keras"]) * 1e3),
        "kacc ms": float(np.median(times.wall["kacc"]) * 1e3),
        "ratio": ratio,
        "its quartiles": f"{low:.3f} .. {high:.3f}",
        "XLA": artifact.manifest.report["xla"][f"batch_{batch}"],
        "largest difference": float(gap),
    }


def _caller(function: Any, x: Any) -> Callable[[], np.ndarray]:
    (name,) = function.structured_input_signature[1]

    def call() -> np.ndarray:
        (value,) = function(**{name: x}).values()
        return value.numpy()

    return call


if __name__ == "__main__":
    sys.exit(main())
