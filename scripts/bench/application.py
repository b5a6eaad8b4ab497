"""One model of keras.applications: attached, trained for a step, converted, compared.

Run by `applications.py` in a process of its own; prints its row as a line of JSON.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from common import say

CLASSES = 10
SIZE = 64
# What the models themselves take at least, where that is more.
LEAST = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}
SAMPLES = 4


def main() -> int:
    return print_row(run)


def print_row(run: Callable[[dict[str, Any]], None]) -> int:
    """Runs one model, whose name is on the command line, and prints its row.

    Args:
        run: fills in the row as far as the model gets.

    Returns:
        The exit status, which is 0: what went wrong is in the row.
    """
    row: dict[str, Any] = {"model": sys.argv[1], "status": "failed"}
    try:
        run(row)
        row["status"] = "success"
    except MemoryError:
        row["status"] = "out of memory"
    except Exception as error:
        failed(row, error)
    print(json.dumps(row))
    return 0


def failed(row: dict[str, Any], error: Exception) -> None:
    """Notes what was raised: kacc's own errors say what to do, others are bugs."""
    import tensorflow as tf

    import kacc

    if isinstance(error, kacc.KaccError):
        row["status"] = "kacc error"
    elif isinstance(error, tf.errors.ResourceExhaustedError):
        row["status"] = "out of memory"
    else:
        traceback.print_exc()
    row["error"] = f"{type(error).__name__}: {error}"[:2000]


def run(row: dict[str, Any]) -> None:
    """Fills in the row as far as the model gets."""
    with phase(row, "import"):
        import keras

        import kacc
    name = row["model"]
    row["input"] = LEAST.get(name, SIZE)
    keras.utils.set_random_seed(0)
    with phase(row, "build"):
        model = build(name, row["input"])
    row["layers"] = len(model.layers)
    with phase(row, "attach"):
        row["in float"] = attach(model)
    random = np.random.default_rng(0)
    shape = (SAMPLES, row["input"], row["input"], 3)
    x = random.uniform(0, 255, shape).astype("float32")
    with phase(row, "step"):
        model.train_on_batch(x, random.integers(0, CLASSES, SAMPLES))
    model.train_function = None  # its graph is as large as the model, and done with
    gc.collect()
    with tempfile.TemporaryDirectory() as folder:
        with phase(row, "convert"):
            path = Path(folder, "model.tflite")
            artifact = kacc.convert(model, path, "tflite-int8")
        row["bytes"] = artifact.size_bytes
        with phase(row, "parity"):
            compare(row, model, artifact, x)


def build(name: str, size: int) -> Any:
    """The model with random weights, compiled.

    Batch normalization takes the statistics of a single step in full: with those of
    the start, which fit no random weights, values would vanish or explode.
    """
    import keras

    model = getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=CLASSES
    )
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model.compile(
        keras.optimizers.SGD(0.0),
        "sparse_categorical_crossentropy",
        run_eagerly="--graph" not in sys.argv,  # to trace a step takes a minute
    )
    return model


def attach(model: Any) -> str:
    """Quantizes the model; what stays in float."""
    import kacc

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kacc.quantize(model)
    said = [str(w.message) for w in caught if "kacc leaves in float" in str(w.message)]
    return said[0] if said else ""


def compare(row: dict[str, Any], model: Any, artifact: Any, x: Any) -> None:
    """The outputs of file and model, and where they first differ."""
    import kacc

    parity = kacc.parity(model, artifact, x)
    row |= {
        "equal": parity.equal,
        "within 1 LSB": parity.within_one,
        "largest LSB": parity.largest_lsb,
        "distinct": len(np.unique(artifact.predict(x))),
    }
    if parity.equal < 1:
        row["first difference"] = [
            f"{layer.layer} ({layer.operator}): {layer.equal:.6f} equal, "
            f"up to {layer.largest_lsb} LSB"
            for layer in parity.layers
            if layer.differs
        ][:3]


@contextmanager
def phase(row: dict[str, Any], name: str) -> Iterator[None]:
    """Times a part of the work; kept also where it fails."""
    start, busy = time.perf_counter(), time.process_time()
    try:
        yield
    finally:
        seconds = time.perf_counter() - start
        row[f"{name} s"] = round(seconds, 2)
        row[f"{name} CPU s"] = round(time.process_time() - busy, 2)
        say(f"  {row['model']}: {name} {seconds:.1f} s")


if __name__ == "__main__":
    sys.exit(main())
