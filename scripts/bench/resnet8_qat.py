"""ResNet8 on CIFAR-10: kacc's quantization-aware training beside tfmot's.

Each seed fine-tunes the same float model three ways with the same images in the same
order: by kacc's callback, by tfmot on tf_keras, and in float. What counts is the
accuracy of the int8 TFLite file, and how far the file is from the graph that was
trained.
"""

from __future__ import annotations

import sys
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
    resnet8,
    say,
    versions,
)
from recipe import QUICK, Recipe, batches, train
from resnet8_rows import Images, floats, means_of, model_row, ptq_row

TRAINING_CODE = ("kacc/core", "kacc/support", "kacc/quantization", "kacc/acceleration")


def main() -> int:
    options = arguments(
        __doc__,
        ("--seeds", {"type": int, "default": 3, "help": "how many (default 3)"}),
    )
    recipe = QUICK if options.quick else Recipe()
    seeds = range(1 if options.quick else options.seeds)
    images = Images(recipe)
    report = Report("resnet8_qat", options.quick, {"recipe": recipe, "seeds": [*seeds]})
    rows = [row for seed in seeds for row in _seed(recipe, images, seed)]
    report.table("Each seed", [*_untrained(images), *rows])
    means = means_of(rows)
    report.table("Mean of the seeds", list(means.values()))
    kacc, tfmot = means["kacc QAT"], means["tfmot QAT"]
    report.checks += [
        Check(
            "int8 accuracy, kacc QAT; bound: tfmot's - 0.002",
            kacc["int8 accuracy"],
            ">=",
            tfmot["int8 accuracy"] - 0.002,
        ),
        *(
            Check(f"parity, {figure}, kacc QAT; bound: tfmot's", kacc[figure], ">=", to)
            for figure in ("argmax agreement", "within 1 LSB")
            for to in [tfmot[figure]]
        ),
    ]
    return report.finish(options.out)


def _seed(recipe: Recipe, images: Images, seed: int) -> list[dict[str, Any]]:
    """The lines of one seed: what is in the cache is not trained again."""
    depends = {
        "recipe": recipe,
        "seed": seed,
        "images": images.digest,
        "script": code_digest("scripts/bench/recipe.py"),
    }
    rows = [
        _kacc_row(recipe, images, seed, depends),
        _tfmot_row(recipe, images, seed, depends),
        _float_row(recipe, images, seed, depends),
    ]
    for row in rows:
        say(f"seed {seed}, {row['model']}: int8 accuracy {row['int8 accuracy']:.4f}")
    return [{**row, "seed": seed} for row in rows]


def _untrained(images: Images) -> list[dict[str, Any]]:
    model = resnet8()
    return [{**ptq_row("as published, PTQ", model, images), "seed": None}]


def _kacc_row(
    recipe: Recipe, images: Images, seed: int, depends: dict[str, Any]
) -> dict[str, Any]:
    import keras

    import kacc

    def make(folder: Path) -> None:
        say(f"seed {seed}: training with kacc's callback")
        keras.utils.set_random_seed(seed)
        model = kacc.accelerate(resnet8())
        data = batches(recipe, images.x, images.y, seed)
        callback = kacc.callbacks.QuantizationAwareTraining("int8")
        train(keras, model, recipe, data, [callback])
        model.save(folder / "model.keras")

    folder = fixture(
        f"resnet8-kacc-qat-{seed}",
        make,
        code=code_digest(*TRAINING_CODE),
        versions=versions("tensorflow", "keras"),
        **depends,
    )
    model = keras.models.load_model(folder / "model.keras")
    artifact = kacc.convert(model, folder / "model.tflite", "tflite-int8")
    outputs = model.predict(floats(images.x_val), batch_size=100, verbose=0)
    return model_row("kacc QAT", outputs, artifact, images)


def _tfmot_row(
    recipe: Recipe, images: Images, seed: int, depends: dict[str, Any]
) -> dict[str, Any]:
    from kacc.converters.artifact import open_artifact

    def make(folder: Path) -> None:
        import tf_keras

        say(f"seed {seed}: training with tfmot on tf_keras")
        tf_keras.utils.set_random_seed(seed)
        model = legacy.quantize(legacy.twin(resnet8()))
        train(tf_keras, model, recipe, batches(recipe, images.x, images.y, seed))
        np.save(folder / "outputs.npy", legacy.predict(model, images.x_val))
        legacy.convert(model, folder / "model.tflite")

    packages = ("tensorflow", "tf-keras", "tensorflow-model-optimization")
    folder = fixture(
        f"resnet8-tfmot-qat-{seed}",
        make,
        code=code_digest("scripts/bench/legacy.py"),
        versions=versions(*packages),
        **depends,
    )
    artifact = open_artifact(folder / "model.tflite")
    return model_row("tfmot QAT", np.load(folder / "outputs.npy"), artifact, images)


def _float_row(
    recipe: Recipe, images: Images, seed: int, depends: dict[str, Any]
) -> dict[str, Any]:
    import keras

    import kacc

    def make(folder: Path) -> None:
        say(f"seed {seed}: training in float")
        keras.utils.set_random_seed(seed)
        model = kacc.accelerate(resnet8())
        train(keras, model, recipe, batches(recipe, images.x, images.y, seed))
        model.save(folder / "model.keras")

    folder = fixture(
        f"resnet8-float-{seed}",
        make,
        code=code_digest("kacc/acceleration"),
        versions=versions("tensorflow", "keras"),
        **depends,
    )
    model = keras.models.load_model(folder / "model.keras")
    return ptq_row("float, PTQ", model, images)


if __name__ == "__main__":
    sys.exit(main())
