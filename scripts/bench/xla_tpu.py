"""`xla-tpu` given to Google's own TPU compiler: the compiler's figures for v5e.

ResNet8, MobileNet 0.75, a text Transformer and five models of keras.applications at a
batch of 8, in float32 and bfloat16. Nothing runs on a TPU: libtpu compiles for one that
is described, and estimates.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import export_models
from common import Check, Report, arguments, say, versions

APPLICATIONS = ("MobileNetV2", "EfficientNetB0", "ResNet50", "DenseNet121", "Xception")
SIZE = 96


def main() -> int:
    options = arguments(__doc__)
    report = Report("xla_tpu", options.quick, {"tpu": "v5e", "batch": 8})
    report.notes["versions"] = str(versions("jax", "libtpu", "tensorflow", "keras"))
    makers = dict(export_models.models())
    makers |= {name: lambda n=name: application(n) for name in APPLICATIONS}
    if options.quick:
        makers = {"ResNet8": makers["ResNet8"]}
    rows = []
    for name, make in makers.items():
        model = make()
        rows += [compiled(name, model, compute) for compute in ("float32", "bfloat16")]
    report.table("Compiled for TPU v5e", rows)
    share = sum(row["compiles"] for row in rows) / len(rows)
    report.checks.append(Check("share that compiles", share, ">=", 1.0, True))
    return report.finish(options.out)


def application(name: str) -> Any:
    import keras

    keras.utils.set_random_seed(0)
    make = getattr(keras.applications, name)
    return make(weights=None, input_shape=(SIZE, SIZE, 3))


def compiled(name: str, model: Any, compute: str) -> dict[str, Any]:
    import kacc
    from kacc.converters.formats.stablehlo import tpu_module
    from kacc.converters.tpu import compile_for_tpu

    row = {"model": name, "compute": compute, "compiles": False}
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = Path(folder, "model")
            artifact = kacc.convert(model, path, "xla-tpu", compute=compute)
            module = tpu_module(artifact.path)
            infos = artifact.manifest.inputs, artifact.manifest.outputs
            found = compile_for_tpu(module, *infos, "v5e")
        except kacc.KaccError as error:
            say(f"{name}, {compute}: {error}")
            return row
    say(f"{name}, {compute}: compiled")
    return row | {
        "compiles": True,
        "microseconds": found.optimal_seconds and found.optimal_seconds * 1e6,
        "GFLOP": found.flops / 1e9,
        "MB accessed": found.bytes_accessed / 1e6,
        "MB code and weights": found.code_bytes / 1e6,
        "MB temporary": found.temporary_bytes / 1e6,
        "layers that waste lanes": len(artifact.manifest.report["lanes"]),
    }


if __name__ == "__main__":
    sys.exit(main())
