"""Conversions killed at random moments: the old artefact is left, or the new one.

For a TFLite file, an ONNX file, a SavedModel and a folder of StableHLO. A process
converts one of two models over the artefact of the other, again and again, and is
killed (SIGKILL) at a random moment; then the artefact has to open and to run, and has
to be one of the two.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import Check, Report, arguments, say

TARGETS = {
    "tflite-float32": "model.tflite",
    "onnx": "model.onnx",
    "xla-gpu": "served",
    "stablehlo": "module",
}
# Writes the artefact again and again; the line says that the loop has begun.
_WRITER = """
import sys
import keras, kacc
path, target, models = sys.argv[1], sys.argv[2], sys.argv[3:]
models = [keras.models.load_model(m) for m in models]
for model in models:  # the first conversions of a process take longer
    kacc.convert(model, path, target)
print("ready", flush=True)
while True:
    for model in models:
        kacc.convert(model, path, target)
"""


def main() -> int:
    options = arguments(__doc__, ("--kills", {"type": int, "default": 13}))
    kills = 2 if options.quick else options.kills  # of each target
    report = Report("killed", options.quick, {"kills": kills})
    rows = [_row(target, kills) for target in TARGETS]
    report.table("Killed conversions", rows)
    for row in rows:
        whole = row["old"] + row["new"]
        report.checks += [
            Check(f"{row['target']}: whole", whole, ">=", kills, True),
            # Else the kills came before anything was written.
            Check(f"{row['target']}: both seen", min(row["old"], row["new"]), ">=", 1),
        ]
    return report.finish(options.out)


def _row(target: str, kills: int) -> dict[str, Any]:
    import keras
    import numpy as np

    import kacc
    from kacc.converters.artifact import open_artifact

    random.seed(0)
    row = {"target": target, "old": 0, "new": 0, "broken": 0, "left behind": 0}
    with tempfile.TemporaryDirectory() as folder:
        path, known, files = Path(folder, TARGETS[target]), {}, []
        for index, name in enumerate(("old", "new")):
            keras.utils.set_random_seed(index)
            units = keras.layers.Dense(300 + index)
            model = keras.Sequential([keras.Input((500,)), units])
            files.append(str(Path(folder, f"{name}.keras")))
            model.save(files[-1])
            started = time.monotonic()
            made = kacc.convert(model, path, target)
            seconds = time.monotonic() - started
            known[made.manifest.outputs[0].shape[-1]] = name
        for number in range(kills):
            _kill_one(path, target, files, 5 * seconds)
            try:
                artifact = open_artifact(path)
                size = artifact.predict(np.zeros((1, 500), "float32")).shape[-1]
                row[known[size]] += 1
            except Exception as error:
                say(f"  {target}, kill {number}: {type(error).__name__}: {error}")
                row["broken"] += 1
            row["left behind"] += _cleared(Path(folder))
        say(f"{target}: {row}")
    return row


def _kill_one(path: Path, target: str, files: list[str], span: float) -> None:
    """Kills a process that converts at a moment of its first seconds."""
    command = [sys.executable, "-c", _WRITER, str(path), target, *files]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "ready"
    time.sleep(random.uniform(0.0, span))
    process.send_signal(signal.SIGKILL)
    process.wait()


def _cleared(folder: Path) -> int:
    """Takes away the temporary names that a killed process leaves; how many."""
    found = [*folder.rglob(".*.tmp"), *folder.rglob(".*.old")]
    for leftover in found:
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)
    return len(found)


if __name__ == "__main__":
    sys.exit(main())
