"""One model of keras.applications to `xla-cpu`, `stablehlo` and `onnx`, and compared.

Run by `applications_export.py` in a process of its own; prints its row as JSON.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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
    row["weights"] = weights = sum(4 * int(np.prod(w.shape)) for w in model.weights)
    random = np.random.default_rng(0)
    x = random.uniform(0, 255, (SAMPLES, size, size, 3)).astype("float32")
    for target, path in TARGETS.items():
        options: dict[str, Any] = {"batch": 1} if target == "stablehlo" else {}
        if target == "xla-cpu":
            options = {"batch_sizes": (1,), "xla": "never"}
        with tempfile.TemporaryDirectory() as folder:
            with phase(row, target), peak(row, f"{target}: peak / weights", weights):
                artifact = kacc.convert(model, Path(folder, path), target, **options)
            row[f"{target}: bytes"] = artifact.size_bytes
            with peak(row, f"{target}: parity / weights", weights):
                row[f"{target}: max rel"] = kacc.parity(model, artifact, x).max_rel
            say(f"  {name}, {target}: {row[f'{target}: max rel']:.1e}")
        # What runs it goes too: each target has the memory of the limit to itself.
        del artifact
        release()


@contextmanager
def peak(row: dict[str, Any], name: str, unit: int) -> Iterator[None]:
    """Notes the largest memory in use during a part of the work, on Linux.

    Args:
        row: is filled in with what is added to the memory in use before.
        name: the key.
        unit: bytes that are counted as one.
    """
    clear = Path("/proc/self/clear_refs")
    if not clear.is_file():
        yield
        return
    clear.write_text("5")  # sets the mark of the largest back (proc(5))
    before = in_use("VmRSS")
    yield
    row[name] = round((in_use("VmHWM") - before) / unit, 1)


def in_use(field: str) -> int:
    """Bytes of memory by a field of the process's status."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(found[1]) if found else 0


if __name__ == "__main__":
    sys.exit(print_row(run))
