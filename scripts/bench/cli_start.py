"""How long `kacc --help` and `import kacc` take."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
from common import ROOT, Check, Report, arguments
from timing import interleave


def main() -> int:
    options = arguments(__doc__)
    rounds = 3 if options.quick else 20
    report = Report("cli_start", options.quick, {"rounds": rounds})
    commands = {
        "python -c pass": ["-c", "pass"],
        "import kacc": ["-c", "import kacc"],
        "kacc --help": ["-m", "kacc", "--help"],
    }
    times = interleave(
        {name: lambda c=command: _run(c) for name, command in commands.items()},
        rounds,
        warmup=1,
    )
    report.table(
        "Seconds",
        [
            {
                "command": name,
                "median": float(np.median(values)),
                "slowest": float(values.max()),
                "rounds": rounds,
            }
            for name, values in times.wall.items()
        ],
    )
    report.checks.append(
        Check(
            "seconds of `kacc --help`, median",
            float(np.median(times.wall["kacc --help"])),
            "<",
            1.0,
            of_quick=True,
        )
    )
    return report.finish(options.out)


def _run(command: list[str]) -> None:
    subprocess.run(
        [sys.executable, *command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
    )


if __name__ == "__main__":
    sys.exit(main())
