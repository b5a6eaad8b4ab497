"""Every model of keras.applications: attach, train a step, convert to int8, compare.

Random weights and the smallest sensible input: what is tried is whether kacc takes the
models as they are. Each has a process of its own, with a limit of time and memory; its
row is kept as soon as it is there, so that a run can be stopped and goes on later.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common import CACHE, ROOT, Check, Report, arguments, say

QUICK = ("MobileNet", "NASNetMobile")
PHASES = ("build", "attach", "step", "convert", "parity")


def main() -> int:
    options, rows = every_model(__doc__, "applications", "application.py")
    return report(options, rows)


def every_model(
    description: str, name: str, script: str
) -> tuple[Any, list[dict[str, Any]]]:
    """The rows of all models, or of those on the command line, new or kept.

    Args:
        description: of the benchmark, for its help.
        name: of the file of rows.
        script: makes a row in a process of its own.

    Returns:
        The command line's options, and the rows.
    """
    # Ended from outside, it ends the model's process too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    options = arguments(
        description,
        ("--only", {"nargs": "+", "metavar": "MODEL", "help": "these models only"}),
        ("--again", {"action": "store_true", "help": "run what has a row already too"}),
        (
            "--failed",
            {"action": "store_true", "help": "run again what did not succeed"},
        ),
        ("--minutes", {"type": float, "default": 20, "help": "for each model (20)"}),
        ("--memory", {"type": float, "default": 12, "help": "GiB for each model (12)"}),
        ("--rows", {"type": Path, "help": "the file of finished rows"}),
    )
    models = chosen(options)
    rows = Rows(options.rows or CACHE / "bench" / f"{name}.jsonl")
    for number, model in enumerate(models, 1):
        if rows.has(model, options.failed) and not options.again:
            continue
        say(f"{number}/{len(models)} {model}")
        row = run(model, options.minutes * 60, options.memory * 2**30, script)
        rows.add(row)
        say(
            f"  {model}: {row['status']}, {row['total s']:.0f} s, {row['peak GiB']} GiB"
        )
    return options, [rows.table[model] for model in models]


def chosen(options: Any) -> list[str]:
    import keras

    all_of_them = [n for n in sorted(vars(keras.applications)) if n[0].isupper()]
    names = options.only or (QUICK if options.quick else all_of_them)
    unknown = set(names) - set(all_of_them)
    if unknown:
        sys.exit(f"Not in keras.applications: {', '.join(sorted(unknown))}")
    return list(names)


class Rows:
    """The finished rows, one line of JSON for each model, newest last.

    Args:
        path: their file; written whole or not at all.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.is_file() else []
        self.table = {row["model"]: row for row in map(json.loads, lines)}

    def has(self, name: str, succeeded: bool) -> bool:
        """Whether there is a row for a model, of success where that is asked for."""
        row = self.table.get(name)
        return row is not None and not (succeeded and row["status"] != "success")

    def add(self, row: dict[str, Any]) -> None:
        """Keeps a row, in the file too, whole or not at all."""
        self.table[row["model"]] = row
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(entry) + "\n" for entry in self.table.values())
        with tempfile.NamedTemporaryFile(
            "w", dir=self.path.parent, delete=False
        ) as file:
            file.write(text)
        os.replace(file.name, self.path)


def run(name: str, seconds: float, memory: float, script: str) -> dict[str, Any]:
    """The row of a model, from a process of its own."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths.strip(os.pathsep)}
    start, peak, status = time.monotonic(), 0, "failed"
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name(script)), name],
            stdout=output,
            env=environment,
        )
        try:
            while process.poll() is None:
                peak = max(peak, resident(process.pid))
                if peak > memory:
                    status = "out of memory"
                elif time.monotonic() - start > seconds:
                    status = "out of time"
                if status != "failed":
                    break
                time.sleep(0.2)
        finally:
            process.kill()
            process.wait()
        output.seek(0)
        lines = [line for line in output if line.startswith('{"model"')]
    row = json.loads(lines[-1]) if lines else {"model": name, "status": status}
    if not lines and status == "failed":
        row["error"] = f"the process ended with status {process.returncode}"
        if process.returncode == -9:  # by the system, as nobody else does
            row["status"] = "out of memory"
    row["total s"] = round(time.monotonic() - start, 1)
    row["peak GiB"] = round(peak / 2**30, 2)
    return row


def resident(pid: int) -> int:
    """Bytes of memory that a process holds; 0 once it has ended."""
    try:
        text = Path(f"/proc/{pid}/statm").read_text()
    except OSError:
        return 0
    return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")


def report(options: Any, rows: list[dict[str, Any]]) -> int:
    """Prints the table; the exit status says whether enough models succeeded."""
    settings = {"minutes": options.minutes, "GiB": options.memory}
    result = Report("applications", options.quick, settings)
    result.table("keras.applications, int8", [shown(row) for row in rows])
    result.table("Seconds", [times(row) for row in rows])
    for row in rows:
        for key in ("error", "in float", "first difference"):
            if row.get(key):
                result.notes[f"{row['model']}: {key}"] = str(row[key])
    result.checks += [
        Check("share that succeeds", share(rows, "success"), ">=", 0.95, True),
        Check("share that ends as it should", well(rows), ">=", 1.0, True),
    ]
    return result.finish(options.out)


def share(rows: Iterable[dict[str, Any]], *statuses: str) -> float:
    found = [row["status"] in statuses for row in rows]
    return sum(found) / len(found)


def well(rows: Iterable[dict[str, Any]]) -> float:
    return share(rows, "success", "kacc error", "out of memory", "out of time")


def shown(row: dict[str, Any]) -> dict[str, Any]:
    columns = ("model", "status", "input", "layers", "bytes")
    columns += ("equal", "within 1 LSB", "largest LSB", "distinct", "peak GiB")
    return {column: row.get(column) for column in columns}


def times(row: dict[str, Any]) -> dict[str, Any]:
    columns = [f"{name} s" for name in PHASES]
    return {"model": row["model"]} | {c: row.get(c) for c in (*columns, "total s")}


if __name__ == "__main__":
    sys.exit(main())
