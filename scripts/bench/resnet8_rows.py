"""Accuracy of ResNet8 on CIFAR-10: the images, and a line of a table for each model."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import digest, loaders
from recipe import Recipe


class Images:
    """CIFAR-10 as the recipe takes it, uint8."""

    def __init__(self, recipe: Recipe) -> None:
        x, y = loaders().cifar10("train", shards=-(-recipe.images // 10_000))
        self.x, self.y = x[: recipe.images], y[: recipe.images]
        x, y = loaders().cifar10("val")
        self.x_val, self.y_val = x[: recipe.validation], y[: recipe.validation]
        self.digest = digest(self.x, self.y, self.x_val, self.y_val)


def ptqrow(name: str, model: Any, images: Images) -> dict[str, Any]:
    import kacc

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        artifact = kacc.convert(model, path, "tflite-int8", floats(images.x[:500]))
        outputs = model.predict(floats(images.x_val), batch_size=100, verbose=0)
        return model_row(name, outputs, artifact, images)


def model_row(
    name: str, outputs: np.ndarray, artifact: Any, images: Images
) -> dict[str, Any]:
    """Accuracy of model and file, and how far the file is from the model."""
    from kacc.converters.runtime import to_grid

    info = artifact.manifest.outputs[0]
    feeds = artifact.feeds([floats(images.x_val)])
    integers = artifact.runtime().run(feeds)[0].astype(int)
    distance = np.abs(to_grid(outputs, info).astype(int) - integers)
    best, best_of_file = outputs.argmax(-1), integers.argmax(-1)
    return {
        "model": name,
        "seed": None,
        "graph accuracy": float((best == images.y_val).mean()),
        "int8 accuracy": float((best_of_file == images.y_val).mean()),
        "argmax agreement": float((best == best_of_file).mean()),
        "equal": float((distance == 0).mean()),
        "within 1 LSB": float((distance <= 1).mean()),
        "largest LSB": int(distance.max()),
        "bytes": artifact.size_bytes,
    }


def means_of(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    means: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(row["model"] for row in rows):
        group = [row for row in rows if row["model"] == name]
        means[name] = {
            key: float(np.mean([row[key] for row in group]))
            if isinstance(value, int | float)
            else value
            for key, value in group[0].items()
            if key != "seed"
        }
    return means


def floats(images: np.ndarray) -> np.ndarray:
    return images.astype("float32")
