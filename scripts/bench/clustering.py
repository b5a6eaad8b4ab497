"""ResNet8 with 16 values for the weights of each layer, by kacc and by tfmot.

Both begin with the published model and train the same steps on the same images. Then
50% zeros, 16 clusters and int8 at once, in one fit of kacc: its zeros, clusters and
size after gzip are counted from the bytes of the file.
"""

from __future__ import annotations

import gzip
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import legacy
import legacy_clustering
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
from resnet8_rows import Images, floats, means_of

CLUSTERS = 16
SPARSITY = 0.5
CODE = (
    "kacc/clustering",
    "kacc/core/attach.py",
    "kacc/core/transform.py",
    "kacc/core/optimizers.py",
)
MORE_CODE = ("kacc/pruning", "kacc/quantization/transform.py")


def main() -> int:
    options = arguments(
        __doc__,
        ("--seeds", {"type": int, "default": 3, "help": "how many (default 3)"}),
    )
    recipe = QUICK if options.quick else Recipe()
    pcqat = replace(recipe, epochs=3 if options.quick else 4, learning_rate=5e-4)
    seeds = range(1 if options.quick else options.seeds)
    settings = {"recipe": recipe, "of all three": pcqat, "clusters": CLUSTERS}
    report = Report("clustering", options.quick, {**settings, "seeds": [*seeds]})
    images = Images(recipe)
    rows = [_published(images)]
    for seed in seeds:
        rows.append(_kacc_row(recipe, images, seed))
        rows.append(_tfmot_row(recipe, images, seed))
        rows.append(_pcqat_row(pcqat, images, seed))
    report.table("Each seed", rows)
    means = means_of(rows)
    report.table("Mean of the seeds", list(means.values()))
    report.checks += _checks(means)
    return report.finish(options.out)


def _checks(means: dict[str, dict[str, Any]]) -> list[Check]:
    float32, kacc_ = means["float32, as published"], means["kacc, 16 clusters"]
    tfmot, all_three = means["tfmot, 16 clusters"], means["kacc, all three, int8"]
    return [
        Check(
            "accuracy, 16 clusters; bound: float - 0.01",
            kacc_["accuracy"],
            ">=",
            float32["accuracy"] - 0.01,
        ),
        Check(
            "gzip of the clustered weights / bytes of the float32 ones",
            kacc_["gzip"] / float32["bytes"],
            "<=",
            0.25,
            True,
        ),
        Check("accuracy, tfmot", tfmot["accuracy"], "<=", kacc_["accuracy"]),
        Check("clusters of a layer", kacc_["clusters"], "<=", CLUSTERS, True),
        Check("all three: clusters", all_three["clusters"], "<=", CLUSTERS, True),
        Check("all three: sparsity", all_three["sparsity"], ">=", SPARSITY, True),
        Check(
            "all three: gzip of the int8 file / bytes of the float32 weights",
            all_three["gzip"] / float32["bytes"],
            "<=",
            0.25,
            True,
        ),
    ]


def _published(images: Images) -> dict[str, Any]:
    model = resnet8()
    weights = [w.numpy() for w in model.weights]
    accuracy = _accuracy(model, images)
    return {
        "model": "float32, as published",
        "seed": None,
        "accuracy": accuracy,
        **_sizes(weights),
        "tflite gzip": _float_file(model),
    }


def _kacc_row(recipe: Recipe, images: Images, seed: int) -> dict[str, Any]:
    import keras

    import kacc

    def make(folder: Path) -> None:
        say(f"seed {seed}, kacc: {recipe.epochs} x {recipe.images:,} images")
        keras.utils.set_random_seed(seed)
        model = kacc.accelerate(resnet8())
        clustering = kacc.callbacks.WeightClustering(CLUSTERS)
        data = batches(recipe, images.x, images.y, seed)
        train(keras, model, recipe, data, [clustering])
        kacc.strip(model).save(folder / "model.keras")

    folder = _fixture("kacc", make, CODE, recipe, images, seed)
    model = keras.models.load_model(folder / "model.keras")
    weights = [w.numpy() for w in model.weights]
    return {
        "model": f"kacc, {CLUSTERS} clusters",
        "seed": seed,
        "accuracy": _accuracy(model, images),
        **_sizes(weights),
        "tflite gzip": _float_file(model),
    }


def _float_file(model: Any) -> int:
    """Bytes after gzip of the float file, whose kernels have the normalizations."""
    import kacc

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        return int(kacc.convert(model, path, "tflite-float32").gzip_bytes)


def _tfmot_row(recipe: Recipe, images: Images, seed: int) -> dict[str, Any]:
    import tf_keras

    def make(folder: Path) -> None:
        say(f"seed {seed}, tfmot: {recipe.epochs} x {recipe.images:,} images")
        tf_keras.utils.set_random_seed(seed)
        model = legacy_clustering.clustered(resnet8(), CLUSTERS)
        train(tf_keras, model, recipe, batches(recipe, images.x, images.y, seed))
        stripped = legacy_clustering.strip(model)
        np.savez(folder / "weights.npz", *[w.numpy() for w in stripped.weights])
        outputs = legacy.predict(stripped, images.x_val)
        np.save(folder / "outputs.npy", outputs)

    code = ("scripts/bench/legacy_clustering.py", "scripts/bench/legacy.py")
    folder = _fixture("tfmot", make, code, recipe, images, seed)
    weights = list(np.load(folder / "weights.npz").values())
    best = np.load(folder / "outputs.npy").argmax(-1)
    return {
        "model": f"tfmot, {CLUSTERS} clusters",
        "seed": seed,
        "accuracy": float((best == images.y_val).mean()),
        **_sizes(weights),
    }


def _pcqat_row(recipe: Recipe, images: Images, seed: int) -> dict[str, Any]:
    import keras

    import kacc

    def make(folder: Path) -> None:
        say(f"seed {seed}, all three: {recipe.epochs} x {recipe.images:,} images")
        keras.utils.set_random_seed(seed)
        model = kacc.accelerate(resnet8())
        callbacks = [
            kacc.callbacks.Pruning(
                SPARSITY, keep_ends=False, end_step=recipe.steps, frequency=50
            ),
            kacc.callbacks.WeightClustering(CLUSTERS, start_epoch=1),
            kacc.callbacks.QuantizationAwareTraining("int8", start_epoch=2),
        ]
        data = batches(recipe, images.x, images.y, seed)
        train(keras, model, recipe, data, callbacks)
        kacc.convert(model, folder / "model.tflite", "tflite-int8")

    code = (*CODE, *MORE_CODE, "kacc/converters/explicit.py")
    folder = _fixture("all-three", make, code, recipe, images, seed)
    return {
        "model": "kacc, all three, int8",
        "seed": seed,
        **_counted(folder / "model.tflite", images),
    }


def _accuracy_of_file(path: Path, images: Images) -> float:
    """The accuracy of an int8 TFLite file, by its runtime alone."""
    from ai_edge_litert.interpreter import Interpreter

    batch = 100
    interpreter = Interpreter(str(path))
    (into,), (out,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(into["index"], (batch, *into["shape"][1:]))
    interpreter.allocate_tensors()
    scale, zero = into["quantization"]
    right = 0
    for start in range(0, len(images.x_val), batch):
        x = floats(images.x_val[start : start + batch])
        whole = np.clip(np.rint(x / scale) + zero, -128, 127).astype("int8")
        interpreter.set_tensor(into["index"], whole)
        interpreter.invoke()
        best = interpreter.get_tensor(out["index"]).argmax(-1)
        right += int((best == images.y_val[start : start + batch]).sum())
    return right / len(images.x_val)


def _counted(path: Path, images: Images) -> dict[str, Any]:
    """What is counted from the bytes of an int8 file."""
    from kacc.converters.stored import stored_weights

    data = path.read_bytes()
    kernels = [weight for weight in stored_weights(data) if weight.values is not None]
    return {
        "accuracy": _accuracy_of_file(path, images),
        "bytes": len(data),
        "gzip": len(gzip.compress(data, 9)),
        "clusters": max(len(np.unique(weight.values)) for weight in kernels),
        "sparsity": sum(w.zeros for w in kernels) / sum(w.size for w in kernels),
    }


def _fixture(
    name: str, make: Any, code: Any, recipe: Recipe, images: Images, seed: int
) -> Path:
    return fixture(
        f"resnet8-clustered-{name}-{seed}",
        make,
        code=code_digest(*code),
        script=code_digest("scripts/bench/recipe.py"),
        versions=versions("tensorflow", "keras"),
        clusters=CLUSTERS,
        recipe=recipe,
        seed=seed,
        images=images.digest,
    )


def _accuracy(model: Any, images: Images) -> float:
    outputs = model.predict(floats(images.x_val), batch_size=100, verbose=0)
    return float((outputs.argmax(-1) == images.y_val).mean())


def _sizes(weights: list[np.ndarray]) -> dict[str, Any]:
    """Bytes of all weights one after another, before and after gzip, and clusters."""
    data = b"".join(np.ascontiguousarray(w, "float32").tobytes() for w in weights)
    kernels = [w for w in weights if w.ndim > 1]
    return {
        "bytes": len(data),
        "gzip": len(gzip.compress(data, 9)),
        "clusters": max(len(np.unique(kernel)) for kernel in kernels),
        "sparsity": sum((k == 0).sum() for k in kernels) / sum(k.size for k in kernels),
    }


if __name__ == "__main__":
    sys.exit(main())
