"""`onnx` against Keras's own `model.export(format="onnx")`, both run by onnxruntime.

ResNet8, MobileNet 0.75 and a text Transformer: distance from Keras, and latency of one
sample on one thread in one run. The int8 files are compared with the quantized model.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import export_models
import numpy as np
from common import Check, Report, arguments, say, versions
from timing import interleave


def main() -> int:
    options = arguments(__doc__, ("--rounds", {"type": int, "default": 300}))
    rounds = 10 if options.quick else options.rounds
    report = Report("onnx_export", options.quick, {"rounds": rounds, "threads": 1})
    report.notes["versions"] = str(versions("onnxruntime", "tf2onnx", "onnx"))
    rows = [
        _float(name, make(), rounds, report)
        for name, make in export_models.models().items()
    ]
    report.table("Float, keras: model.export", rows)
    rows = [
        _int8(name, make(), 32 if options.quick else 200, report)
        for name, make in export_models.models().items()
        if name != export_models.TEXT
    ]
    report.table("Int8, against the quantized model in Keras", rows)
    return report.finish(options.out)


def _float(name: str, model: Any, rounds: int, report: Report) -> dict[str, Any]:
    import kacc

    x = export_models.samples(name, 32)
    with tempfile.TemporaryDirectory() as folder:
        artifact = kacc.convert(model, Path(folder, "kacc.onnx"), "onnx")
        model.export(f"{folder}/keras.onnx", format="onnx", verbose=False)
        parity = kacc.parity(model, artifact, x)
        row = {"model": name, "largest difference": f"{parity.max_abs:.2e}"}
        gap = Check(f"{name}: largest difference", parity.max_abs, "<=", 1e-4, True)
        report.checks.append(gap)
        try:
            theirs = _caller(f"{folder}/keras.onnx", x)
        except Exception as error:  # onnxruntime's errors have no common class
            say(f"{name}: onnxruntime refuses Keras's file: {error}")
            return row | {"keras ms": "refused by onnxruntime"}
        calls = {"keras": theirs, "kacc": _caller(str(artifact.path), x)}
        times = interleave(calls, rounds)
    low, ratio, high = times.ratio("kacc", "keras")
    say(f"{name}: {parity.max_abs:.2e}, {ratio:.3f}")
    report.checks.append(Check(f"{name}: latency, kacc / keras", ratio, "<=", 1.0))
    return row | {
        "keras ms": float(np.median(times.wall["keras"]) * 1e3),
        "kacc ms": float(np.median(times.wall["kacc"]) * 1e3),
        "ratio": ratio,
        "its quartiles": f"{low:.3f} .. {high:.3f}",
    }


def _caller(path: str, x: np.ndarray) -> Callable[[], object]:
    """A call of a file on one sample, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options)
    feed = {session.get_inputs()[0].name: x[:1]}
    return lambda: session.run(None, feed)


def _int8(name: str, model: Any, count: int, report: Report) -> dict[str, Any]:
    import kacc

    x = export_models.samples(name, count)
    kacc.quantize(model, "int8")
    with tempfile.TemporaryDirectory() as folder:
        artifact = kacc.convert(model, Path(folder, "m.onnx"), "onnx-int8", x)
        parity = kacc.parity(model, artifact, x)
    share = parity.within_one
    report.checks.append(Check(f"{name}, int8: within 1 LSB", share, ">=", 0.995, True))
    return {
        "model": name,
        "samples": count,
        "equal": parity.equal,
        "within 1 LSB": share,
        "largest LSB": parity.largest_lsb,
        "same class": parity.argmax_agreement,
    }


if __name__ == "__main__":
    sys.exit(main())
