"""One model of keras.applications to `xla-cpu`, `stablehlo` and `onnx`, and compared.

Run by `applications_export.py` in a process of its own; prints its row as JSON.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from application import LEAST, SIZE, build, phase, print_row
from common import say

TARGETS = {"xla-cpu": "served", "stablehlo": "module", "onnx": "model.onnx"}
SAMPLES = 2


def run(row: dict[str, Any]) -> None:
    """Fills in the row as far as the model gets."""
    with phase(row, "import"):
        import keras

        import kacc
        from kacc.core.memory import release
    name = row["model"]
    row["input"] = size = LEAST.get(name, SIZE)
    keras.utils.set_random_seed(0)
    with phase(row, "build"):
        model = build(name, size)
    random = np.random.default_rng(0)
    x = random.uniform(0, 255, (SAMPLES, size, size, 3)).astype("float32")
    for target, path in TARGETS.items():
        options: dict[str, Any] = {"batch": 1} if target == "stablehlo" else {}
        if target == "xla-cpu":
            options = {"batch_sizes": (1,), "xla": "never"}
        with tempfile.TemporaryDirectory() as folder:
            with phase(row, target):
                artifact = kacc.convert(model, Path(folder, path), target, **options)
            row[f"{target}: bytes"] = artifact.size_bytes
            row[f"{target}: max rel"] = kacc.parity(model, artifact, x).max_rel
            say(f"  {name}, {target}: {row[f'{target}: max rel']:.1e}")
        # What runs it goes too: each target has the memory of the limit to itself.
        del artifact
        release()


if __name__ == "__main__":
    sys.exit(print_row(run))
