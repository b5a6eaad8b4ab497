#!/usr/bin/env python3
"""Runs StableHLO that kacc wrote on a GPU, through JAX, and compares it with Keras.

    python scripts/stablehlo_on_gpu.py prepare FOLDER  # where kacc is
    python scripts/stablehlo_on_gpu.py run FOLDER      # where the GPU is, with JAX

The first step writes modules, inputs and Keras's outputs. The second prints a table,
writes FOLDER/result.json, and fails if outputs differ by more than the type that the
module computes in explains, or if there is no GPU (--cpu: on the CPU, to try it out).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

BATCHES = (1, 32)
# Largest difference as a share of the largest output. GPUs multiply float32 in TF32,
# which has the precision of float16, unless they are told not to.
BOUNDS = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
ROUNDS, CALLS = 30, 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=("prepare", "run"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cpu", action="store_true", help="run: on the CPU")
    parser.add_argument("--tf32", action="store_true", help="run: let float32 be TF32")
    options = parser.parse_args()
    if options.tf32:
        BOUNDS["float32"] = BOUNDS["float16"]
    else:
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
        os.environ["XLA_FLAGS"] = "--xla_gpu_enable_triton_gemm=false"
    if options.step == "prepare":
        return prepare(options.folder)
    return run(options.folder, "cpu" if options.cpu else "cuda")


def prepare(folder: Path) -> int:
    sys.path.insert(0, str(Path(__file__).parent / "bench"))
    import export_models

    import kacc

    folder.mkdir(parents=True, exist_ok=True)
    for name, make in export_models.models().items():
        model = make()
        for batch in BATCHES:
            x = export_models.samples(name, batch)
            y = np.asarray(model(x, training=False))
            for compute in BOUNDS:
                path = folder / f"{name.replace(' ', '_')}-{batch}-{compute}"
                kacc.convert(model, path, "stablehlo", batch=batch, compute=compute)
                np.savez_compressed(path / "data.npz", x=x, y=y)
                print(path.name)
    return 0


def run(folder: Path, platform: str) -> int:
    import jax

    device = jax.devices(platform)[0]
    rows = [
        _row(path, platform, device)
        for path in sorted(folder.iterdir())
        if (path / "signature.json").is_file()
    ]
    (folder / "result.json").write_text(
        json.dumps({"device": device.device_kind, "jax": jax.__version__, "rows": rows})
    )
    print(f"{device.device_kind}, JAX {jax.__version__}")
    for row in rows:
        verdict = "holds" if row["max rel"] <= row["bound"] else "BROKEN"
        distance = f"max rel {row['max rel']:.2e} (<= {row['bound']:.0e}, {verdict})"
        times = f"{row['microseconds']:8.1f} us, compiled in {row['compile s']} s"
        print(f"{row['module']:36} {distance}, {times}")
    return int(any(row["max rel"] > row["bound"] for row in rows))


def _row(path: Path, platform: str, device: Any) -> dict[str, Any]:
    import jax

    signature = json.loads((path / "signature.json").read_text())
    module = (path / signature["modules"][platform]).read_bytes()
    data = np.load(path / "data.npz")
    x = jax.device_put(data["x"], device)
    started = time.perf_counter()
    function = jax.jit(_exported(module, signature, platform).call)
    found = np.asarray(function(x)[0])
    compiled = time.perf_counter() - started
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(CALLS):
            result = function(x)
        jax.block_until_ready(result)
        times.append((time.perf_counter() - started) / CALLS)
    gap = np.abs(found.astype("float64") - data["y"]).max() / np.abs(data["y"]).max()
    return {
        "module": path.name,
        "max rel": float(gap),
        "bound": BOUNDS[path.name.rsplit("-", 1)[1]],
        "microseconds": statistics.median(times) * 1e6,
        "compile s": round(compiled, 2),
    }


def _exported(module: bytes, signature: dict[str, Any], platform: str) -> Any:
    """The module as JAX's own `jax.export.Exported`; see kacc/converters/tpu.py."""
    import jax
    from jax import export

    (into,), outputs = signature["inputs"], signature["outputs"]

    def like(x: Any) -> tuple[Any, ...]:
        return tuple(jax.numpy.zeros(()) for _ in outputs)

    struct = jax.ShapeDtypeStruct(tuple(into["shape"]), into["dtype"])
    made = export.export(jax.jit(like, keep_unused=True), platforms=[platform])(struct)
    shapes = [jax.core.ShapedArray(tuple(o["shape"]), o["dtype"]) for o in outputs]
    return dataclasses.replace(
        made, mlir_module_serialized=module, out_avals=tuple(shapes)
    )


if __name__ == "__main__":
    sys.exit(main())
