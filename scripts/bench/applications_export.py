"""Every model of keras.applications to `xla-cpu`, `stablehlo` and `onnx`.

Random weights and the smallest sensible input. Each has a process of its own, with a
limit of time and memory; its row is kept as soon as it is there, so that a run can be
stopped and goes on later.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

from application_export import TARGETS
from applications import Rows, chosen, run, share, well
from common import CACHE, Check, Report, arguments, say


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    options = arguments(
        __doc__,
        ("--only", {"nargs": "+", "metavar": "MODEL", "help": "these models only"}),
        ("--again", {"action": "store_true", "help": "run what has a row already too"}),
        ("--minutes", {"type": float, "default": 20, "help": "for each model (20)"}),
        ("--memory", {"type": float, "default": 12, "help": "GiB for each model (12)"}),
    )
    names = chosen(options)
    rows = Rows(CACHE / "bench" / "applications_export.jsonl")
    for number, name in enumerate(names, 1):
        if rows.has(name, False) and not options.again:
            continue
        say(f"{number}/{len(names)} {name}")
        row = run(
            name, options.minutes * 60, options.memory * 2**30, "application_export.py"
        )
        rows.add(row)
        say(f"  {name}: {row['status']}, {row['total s']:.0f} s, {row['peak GiB']} GiB")
    found = [rows.table[name] for name in names]
    settings = {"minutes": options.minutes, "GiB": options.memory}
    report = Report("applications_export", options.quick, settings)
    report.table("keras.applications", [_shown(row) for row in found])
    for row in found:
        if row.get("error"):
            report.notes[row["model"]] = str(row["error"])
    report.checks += [
        Check("share that ends as it should", well(found), ">=", 1.0, True),
        Check("share that succeeds", share(found, "success"), ">=", 0.95, True),
        *(
            Check(f"largest difference, {target}", _largest(found, target), "<=", 1e-4)
            for target in TARGETS
        ),
    ]
    return report.finish(options.out)


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    columns = [
        f"{target}: {what}" for target in TARGETS for what in ("max rel", "bytes")
    ]
    shown = {column: row.get(column) for column in columns}
    return {"model": row["model"], "status": row["status"], **shown}


def _largest(rows: list[dict[str, Any]], target: str) -> float:
    return max(row.get(f"{target}: max rel", 0.0) for row in rows)


if __name__ == "__main__":
    sys.exit(main())
