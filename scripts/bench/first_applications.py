"""MobileNetV2 and NASNetMobile: attach, one training step, convert to int8.

Random weights and a small input: what is tried is whether kacc takes the models of
keras.applications as they are.
"""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from common import Check, Report, arguments, say

CLASSES = 10


def main() -> int:
    options = arguments(__doc__)
    size = 32 if options.quick else 64
    report = Report("first_applications", options.quick, {"input": size})
    with tempfile.TemporaryDirectory() as folder:
        rows = [_row(name, size, Path(folder)) for name in _models()]
    report.table(f"keras.applications at {size} x {size}", rows)
    report.checks += [
        Check(
            f"{row['model']}: attached, trained, converted",
            row["passed"],
            ">=",
            1,
            True,
        )
        for row in rows
    ]
    return report.finish(options.out)


def _models() -> list[str]:
    return ["MobileNetV2", "NASNetMobile"]


def _row(name: str, size: int, folder: Path) -> dict[str, Any]:
    """A line; of what fails it has the error, and the other model is still tried."""
    import keras

    import kacc

    row: dict[str, Any] = {
        "model": name,
        "passed": 0,
        "layers": None,
        "attached": None,
        "loss": None,
        "bytes": None,
        "within 1 LSB": None,
        "seconds": None,
        "left in float": None,
        "error": None,
    }
    start = time.perf_counter()
    keras.utils.set_random_seed(0)
    try:
        model = getattr(keras.applications, name)(
            weights=None, input_shape=(size, size, 3), classes=CLASSES
        )
        row["layers"] = len(model.layers)
        row |= _attach(model)
        row |= _train_and_convert(model, size, folder / f"{name}.tflite")
        row["passed"] = 1
    except (kacc.KaccError, ValueError, RuntimeError) as error:
        row["error"] = f"{type(error).__name__}: {error}"
    row["seconds"] = time.perf_counter() - start
    say(f"{name}: {row}")
    return row


def _attach(model: Any) -> dict[str, Any]:
    import kacc
    from kacc.core.attach import attached

    model.compile("adam", "sparse_categorical_crossentropy")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kacc.quantize(model)
    reported = [str(w.message) for w in caught if "kacc leaves" in str(w.message)]
    return {
        "attached": sum(1 for _ in attached(model)),
        "left in float": "; ".join(reported) or "nothing",
    }


def _train_and_convert(model: Any, size: int, path: Path) -> dict[str, Any]:
    import kacc

    random = np.random.default_rng(0)
    x = random.uniform(-1, 1, (8, size, size, 3)).astype("float32")
    loss = model.train_on_batch(x, random.integers(0, CLASSES, 8))
    if not np.isfinite(loss):
        raise ValueError(f"the loss of the step is {loss}")
    artifact = kacc.convert(model, path, "tflite-int8")
    return {
        "loss": float(loss),
        "bytes": artifact.size_bytes,
        "within 1 LSB": kacc.parity(model, artifact, x).within_one,
    }


if __name__ == "__main__":
    sys.exit(main())
