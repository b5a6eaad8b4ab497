"""Every model of keras.applications to `xla-cpu`, `stablehlo` and `onnx`.

Random weights and the smallest sensible input. Each has a process of its own, with a
limit of time and memory; its row is kept as soon as it is there, so that a run can be
stopped and goes on later. The limit is on memory in use (resident), conversion and
comparison included; the table of memory says how much each takes.
"""

from __future__ import annotations

import sys
from typing import Any

from application_export import TARGETS
from applications import every_model, share, well
from common import Check, Report


def main() -> int:
    name, script = "applications_export", "application_export.py"
    options, found = every_model(__doc__, name, script)
    settings = {"minutes": options.minutes, "GiB": options.memory}
    report = Report("applications_export", options.quick, settings)
    report.table("keras.applications", [_shown(row) for row in found])
    report.table(
        "Memory: of all in GiB, and what each step adds, in sizes of the weights",
        [_memory(row) for row in found],
    )
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


def _memory(row: dict[str, Any]) -> dict[str, Any]:
    weights = row.get("weights")
    shown = {"model": row["model"], "weights MB": weights and round(weights / 1e6)}
    shown["peak GiB"] = row.get("peak GiB")
    columns = [
        f"{target}: {what} / weights"
        for target in TARGETS
        for what in ("peak", "parity")
    ]
    return shown | {column: row.get(column) for column in columns}


def _largest(rows: list[dict[str, Any]], target: str) -> float:
    return max(row.get(f"{target}: max rel", 0.0) for row in rows)


if __name__ == "__main__":
    sys.exit(main())
