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
        rows = [
            _row(name, size, Path(folder), report.notes)
            for name in ("MobileNetV2", "NASNetMobile")
        ]
    report.table(f"keras.applications at {size} x {size}", rows)
    report.checks += [
        Check(
            f"{row['model']}: attached, trained, converted",
            row["passed"],
            ">=",
            1,
            of_quick=True,
        )
        for row in rows
    ]
    return report.finish(options.out)


def _row(name: str, size: int, folder: Path, notes: dict[str, str]) -> dict[str, Any]:
    """A line; what fails is noted, and the other model is still tried."""
    import kacc

    row: dict[str, Any] = {"model": name, "passed": 0}
    columns = ("layers", "attached", "in float", "attach s", "loss", "step s")
    row |= dict.fromkeys((*columns, "bytes", "convert s", "within 1 LSB"))
    try:
        model = _model(name, size)
        row["layers"] = len(model.layers)
        row |= _attach(model, name, notes)
        row |= _train(model, size)
        row |= _convert(model, size, folder / f"{name}.tflite")
        row["passed"] = 1
    except (kacc.KaccError, ValueError, RuntimeError) as error:
        notes[f"{name}: error"] = f"{type(error).__name__}: {error}"
        say(f"{name}: {error}")
    return row


def _model(name: str, size: int) -> Any:
    import keras

    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=CLASSES
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def _attach(model: Any, name: str, notes: dict[str, str]) -> dict[str, Any]:
    import kacc
    from kacc.core.attach import attached

    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kacc.quantize(model)
    seconds = time.perf_counter() - start
    said = [str(w.message) for w in caught if "kacc leaves in float" in str(w.message)]
    if said:
        notes[f"{name}: quantize"] = said[0]
    say(f"{name}: attached in {seconds:.0f} s")
    return {
        "attached": sum(1 for _ in attached(model)),
        "in float": said[0].count("; ") + 1 if said else 0,
        "attach s": seconds,
    }


def _train(model: Any, size: int) -> dict[str, Any]:
    x, y = _samples(size)
    start = time.perf_counter()
    loss = float(model.train_on_batch(x, y))
    if not np.isfinite(loss):
        raise ValueError(f"the loss of the step is {loss}")
    seconds = time.perf_counter() - start
    say(f"{model.name}: first step in {seconds:.0f} s")
    return {"loss": loss, "step s": seconds}


def _convert(model: Any, size: int, path: Path) -> dict[str, Any]:
    import kacc

    start = time.perf_counter()
    artifact = kacc.convert(model, path, "tflite-int8")
    seconds = time.perf_counter() - start
    say(f"{model.name}: converted in {seconds:.0f} s")
    return {
        "bytes": artifact.size_bytes,
        "convert s": seconds,
        "within 1 LSB": kacc.parity(model, artifact, _samples(size)[0]).within_one,
    }


def _samples(size: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.uniform(-1, 1, (8, size, size, 3)).astype("float32")
    return x, random.integers(0, CLASSES, 8)


if __name__ == "__main__":
    sys.exit(main())
