"""Size and latency of a sparse float file: kernels stored whole, and without zeros.

The network is of the kind that XNNPACK's sparse kernels are for: a 3x3 convolution with
stride 2 and a border of 1, then 1x1 and depthwise convolutions up to a mean. Whether
these kernels are used depends on the processor (see the option `sparse` of
`kacc.convert`): where they are not, the sparse file is smaller and as fast.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import Check, Report, arguments
from timing import interleave

SIZE = 129  # odd: a border of 1 on each side makes "same" of stride 2
SPARSITIES = (0.0, 0.7, 0.8, 0.9)


def main() -> int:
    options = arguments(
        __doc__,
        ("--rounds", {"type": int, "default": 200, "help": "runs of each file (200)"}),
    )
    rounds = 5 if options.quick else options.rounds
    settings = {"size": SIZE, "rounds": rounds, "avx": _has_avx()}
    report = Report("sparse_latency", options.quick, settings)
    with tempfile.TemporaryDirectory() as folder:
        files = {
            (sparsity, sparse): _file(Path(folder), sparsity, sparse)
            for sparsity in SPARSITIES
            for sparse in (False, True)
        }
        rows = _rows(files, rounds)
    report.table("One image, LiteRT with XNNPACK, one thread", rows)
    for row in rows:
        if row["stored"] == "without zeros" and row["sparsity"] >= 0.8:
            name = f"bytes, without / with zeros, {row['sparsity']:.0%}"
            report.checks.append(Check(name, row["size ratio"], "<=", 0.5, True))
    return report.finish(options.out)


def _rows(files: dict[Any, Any], rounds: int) -> list[dict[str, Any]]:
    image = np.random.default_rng(0).normal(size=(1, SIZE, SIZE, 3)).astype("float32")
    times = interleave(
        {
            str(key): lambda file=file: file.runtime().run([image])
            for key, file in files.items()
        },
        rounds,
    )
    rows = []
    for (sparsity, sparse), file in files.items():
        base = str((sparsity, False))
        row = times.row(str((sparsity, sparse)), base)
        rows.append(
            {
                "sparsity": sparsity,
                "stored": "without zeros" if sparse else "whole",
                "bytes": file.size_bytes,
                "size ratio": file.size_bytes / files[sparsity, False].size_bytes,
                "gzip": file.gzip_bytes,
                "median ms": row["median ms"],
                "time ratio": row["ratio"],
                "its quartiles": row["its quartiles"],
                "CPU ratio": row["CPU ratio"],
            }
        )
    return rows


def _file(folder: Path, sparsity: float, sparse: bool) -> Any:
    import kacc

    model = _network()
    if sparsity:
        kacc.strip(kacc.prune(model, sparsity, scope="layer"))
    path = folder / f"{sparsity}-{sparse}.tflite"
    return kacc.convert(model, path, "tflite-float32", batch=1, sparse=sparse)


def _network() -> Any:
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    image = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(32, 3, strides=2, padding="same", activation="relu")(image)
    for filters in (64, 128, 128, 256, 256):
        x = layers.DepthwiseConv2D(3, padding="same", activation="relu")(x)
        x = layers.Conv2D(filters, 1, activation="relu")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(10)(x))


def _has_avx() -> bool:
    path = Path("/proc/cpuinfo")
    return path.is_file() and " avx " in path.read_text()


if __name__ == "__main__":
    sys.exit(main())
