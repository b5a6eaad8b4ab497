"""Time of a training step of ResNet8, batch 64: plain, quantized, pruned, fused.

All candidates are timed in one process, a step of each in turn.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import legacy
import legacy_pruning
import numpy as np
from common import Check, Report, arguments, loaders, resnet8
from timing import Times, interleave

BATCH = 64
FREQUENCY = 100  # steps from one choice of masks to the next, as by default
WARMUP = 25  # until learned steps stop following the extremes


def main() -> int:
    options = arguments(
        __doc__,
        ("--rounds", {"type": int, "default": 100, "help": "steps of each (100)"}),
    )
    rounds = 3 if options.quick else options.rounds
    candidates = _candidates()
    times = interleave(candidates, rounds, WARMUP)
    report = Report("step_time", options.quick, {"batch": BATCH, "rounds": rounds})
    legacy_names = ("tf_keras, tfmot QAT", "tf_keras, tfmot pruning")
    bases = dict.fromkeys(legacy_names, "tf_keras")
    report.table(
        "Training step", [times.row(n, bases.get(n, "Keras 3")) for n in candidates]
    )
    report.checks += [
        Check(
            "QAT step / plain step, stock BatchNormalization",
            times.ratio("Keras 3, kacc QAT", "Keras 3")[1],
            "<=",
            1.15,
        ),
        Check(
            "QAT step with learned steps / plain step, stock BatchNormalization",
            times.ratio("Keras 3, kacc QAT, learned steps", "Keras 3")[1],
            "<=",
            1.25,
        ),
        Check(
            f"pruning step, and a {FREQUENCY}th of a choice of masks / plain step",
            _pruning_ratio(times, rounds),
            "<=",
            1.03,
        ),
        Check(
            "step with fused BatchNormalization / plain step",
            times.ratio("Keras 3, fused", "Keras 3")[1],
            "<=",
            0.75,
        ),
    ]
    return report.finish(options.out)


def _pruning_ratio(times: Times, rounds: int) -> float:
    """The ratio of the steps, with their share of the choices of masks.

    A choice is made between steps, once in so many, so a median would hide it.
    """
    model = _pruned(_keras_model())
    choices = []
    for index in range(-2, max(3, rounds // 10)):
        start = time.perf_counter()
        _choose_masks(model, index % 2)
        choices.append(time.perf_counter() - start)
    share = float(np.median(choices[2:])) / FREQUENCY
    plain = float(np.median(times.wall["Keras 3"]))
    return times.ratio("Keras 3, kacc pruning", "Keras 3")[1] + share / plain


def _choose_masks(model: Any, turn: int) -> None:
    """Takes off all zeros and prunes anew, so that each choice has all the work."""
    from kacc.pruning import update_masks
    from kacc.pruning.masks import pruned_layers

    for _, transform in pruned_layers(model):
        for one in transform.pruned.values():
            one.mask.assign(np.ones(one.mask.shape, "float32"))
    update_masks(model, 0.5 + 0.5 * turn)


def _keras_model() -> Any:
    import keras

    return _compiled(keras, resnet8())


def _pruned(model: Any) -> Any:
    import kacc

    return kacc.prune(model, 0.75)


def _candidates() -> dict[str, Callable[[], Any]]:
    import keras
    import tf_keras

    import kacc

    def keras3(*treatments: Callable[[Any], Any]) -> Callable[[], Any]:
        model = _compiled(keras, resnet8())
        for treatment in treatments:
            treatment(model)
        return _step(model)

    def learned(model: Any) -> Any:
        return kacc.quantize(model, learned_steps=True)

    def tf2(*treatments: Callable[[Any], Any]) -> Callable[[], Any]:
        model = legacy.twin(resnet8())
        for treatment in treatments:
            model = treatment(model)
        return _step(_compiled(tf_keras, model))

    return {
        "Keras 3": keras3(),
        "Keras 3, kacc QAT": keras3(kacc.quantize),
        "Keras 3, kacc QAT, learned steps": keras3(learned),
        "Keras 3, kacc pruning": keras3(_pruned),
        "Keras 3, fused": keras3(kacc.accelerate),
        "Keras 3, fused, kacc QAT": keras3(kacc.accelerate, kacc.quantize),
        "Keras 3, fused, kacc pruning": keras3(kacc.accelerate, _pruned),
        "tf_keras": tf2(),
        "tf_keras, tfmot QAT": tf2(legacy.quantize),
        "tf_keras, tfmot pruning": tf2(legacy_pruning.prune),
    }


def _compiled(keras: Any, model: Any) -> Any:
    model.compile(
        keras.optimizers.Adam(1e-4),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def _step(model: Any) -> Callable[[], Any]:
    """The step that `fit` runs, on real images that are in memory."""
    import tensorflow as tf

    x, y = loaders().cifar10("train", shards=1)
    x, y = x[: 20 * BATCH].astype("float32"), y[: 20 * BATCH]
    data = tf.data.Dataset.from_tensor_slices((x, y)).repeat().batch(BATCH).prefetch(1)
    iterator = iter(data)
    model.make_train_function()
    # Reading the loss waits for the step to end.
    return lambda: float(model.train_function(iterator)["loss"])


if __name__ == "__main__":
    sys.exit(main())
