"""Every model of keras.applications without half of its MACs.

Random weights and the smallest sensible input. Each model has a process of its own,
with a limit of time and memory; its row is kept as soon as it is there, so that a run
can be stopped and goes on later.
"""

from __future__ import annotations

import sys
from typing import Any

from applications import every_model, share
from common import Check, Report

SHARE, TOLERANCE = 0.5, 0.03


def main() -> int:
    name, script = "applications_channels", "application_channels.py"
    return report(*every_model(__doc__, name, script))


def report(options: Any, rows: list[dict[str, Any]]) -> int:
    """Prints the table; the exit status says whether all models end as they should."""
    settings = {"minutes": options.minutes, "GiB": options.memory, "macs": SHARE}
    result = Report("applications_channels", options.quick, settings)
    result.table("keras.applications, macs=0.5", [shown(row) for row in rows])
    for row in rows:
        for key in ("error", "report"):
            if row.get(key):
                result.notes[f"{row['model']}: {key}"] = str(row[key])
    meets = [near(row) or bool(row.get("missed")) for row in rows]
    equal = [row.get("difference at 1.0", 1.0) <= 1e-5 for row in rows]
    result.checks += [
        Check("share that runs, with the right shape", share(rows, "success"), ">=", 1),
        Check("share within 3% of the target, or reported", mean(meets), ">=", 1.0),
        Check("share that is equal at macs=1.0", mean(equal), ">=", 1.0),
    ]
    return result.finish(options.out)


def near(row: dict[str, Any]) -> bool:
    """Whether the MACs are within 3% of the target."""
    return abs(row.get("share", 0.0) / SHARE - 1) <= TOLERANCE


def mean(found: list[bool]) -> float:
    return sum(found) / len(found)


def shown(row: dict[str, Any]) -> dict[str, Any]:
    columns = ("model", "status", "input", "groups", "MACs", "share", "params left")
    columns += ("difference at 1.0", "prune s", "total s", "peak GiB")
    return {column: row.get(column) for column in columns}


if __name__ == "__main__":
    sys.exit(main())
