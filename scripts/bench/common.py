"""What the benchmarks share: arguments, data, cached fixtures, report and verdict."""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.util
import io
import json
import operator
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

# Before the first import of TensorFlow: its greeting would come between the figures.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("KACC_DATA", ROOT.parent / "shared"))
CACHE = Path(os.environ.get("KACC_CACHE", ROOT / ".kacc_cache"))

PACKAGES = ("tensorflow", "keras", "tensorflow-model-optimization", "ai-edge-litert")


def arguments(description: str, *extra: tuple[str, dict[str, Any]]) -> Any:
    """The command line of a benchmark: `--quick`, `--out` and its own options."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="tiny settings: does it run at all?"
    )
    parser.add_argument("--out", type=Path, help="folder for the JSON and the table")
    for name, options in extra:
        parser.add_argument(name, **options)
    return parser.parse_args()


def say(text: str) -> None:
    """Progress, on stderr: stdout has the result."""
    print(text, file=sys.stderr, flush=True)


# Data and models


def loaders() -> ModuleType:
    """The loaders of the real data, as a module."""
    path = DATA / "data" / "load.py"
    if not path.is_file():
        sys.exit(f"The real data is not in {DATA}: name its folder with KACC_DATA.")
    spec = importlib.util.spec_from_file_location("kacc_data", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def resnet8() -> Any:
    """MLPerf Tiny's ResNet8 for CIFAR-10, trained, not compiled."""
    import keras

    path = DATA / "models" / "mlperf_tiny_resnet8.keras"
    return keras.models.load_model(path, compile=False)


# Fixtures: what takes long is done once for the same data, settings and code


def fixture(name: str, make: Callable[[Path], None], **depends: Any) -> Path:
    """A folder that `make` filled, now or in an earlier run.

    Args:
        name: starts the folder's name.
        make: fills an empty folder; killed in the middle, it leaves no fixture.
        **depends: what the content depends on: settings, digests of data and code.

    Returns:
        The folder, under KACC_CACHE.
    """
    text = json.dumps(depends, sort_keys=True, default=_plain)
    folder = (
        CACHE / "bench" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    )
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
        try:
            make(work)
            (work / "depends.json").write_text(text)
            work.rename(folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    else:
        say(f"{name}: from the cache, {folder.name}")
    return folder


def digest(*parts: Any) -> str:
    """The hash of arrays or files."""
    result = hashlib.sha256()
    for part in parts:
        result.update(part.read_bytes() if isinstance(part, Path) else part.tobytes())
    return result.hexdigest()


def code_digest(*paths: str) -> str:
    """The hash of Python code without its comments, docstrings and layout.

    Args:
        *paths: files and folders, from the root of the project.
    """
    result = hashlib.sha256()
    for path in sorted(_sources(paths)):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            _drop_docstring(node)
        result.update(f"{path.relative_to(ROOT)}\n{ast.dump(tree)}\n".encode())
    return result.hexdigest()


def versions(*packages: str) -> dict[str, str]:
    """Installed versions."""
    return {name: metadata.version(name) for name in packages or PACKAGES}


def _sources(paths: Iterable[str]) -> Iterable[Path]:
    for path in paths:
        full = ROOT / path
        yield from full.rglob("*.py") if full.is_dir() else [full]


def _drop_docstring(node: ast.AST) -> None:
    body = getattr(node, "body", None)
    if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
        value = body[0].value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            del body[0]


# Report and verdict


@dataclass(frozen=True)
class Check:
    """A bound that must hold, e.g. Check("QAT step / plain step", 1.1, "<=", 1.15).

    Args:
        of_quick: whether the figure means anything with `--quick`.
    """

    name: str
    value: float
    relation: str
    bound: float
    of_quick: bool = False

    @property
    def holds(self) -> bool:
        """Whether the value keeps the bound; NaN does not."""
        relations = {
            "<=": operator.le,
            ">=": operator.ge,
            "<": operator.lt,
            ">": operator.gt,
        }
        return bool(relations[self.relation](self.value, self.bound))


@dataclass
class Report:
    """What a benchmark found: figures, tables of them, and bounds.

    Args:
        name: of the script; names the files.
        quick: whether it ran with tiny settings, by which most bounds are not judged.
        settings: what was run.
    """

    name: str
    quick: bool
    settings: dict[str, Any]
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)  # too long for a table

    def table(self, title: str, rows: Sequence[dict[str, Any]]) -> None:
        """Adds a table; the keys of the first row are the columns."""
        self.tables[title] = list(rows)

    def finish(self, out: Path | None) -> int:
        """Prints JSON and tables, writes them to a folder.

        Returns:
            The exit status: 1 if a bound is broken, else 0.
        """
        judged = [c for c in self.checks if c.of_quick or not self.quick]
        text = json.dumps(self._content(judged), indent=2, default=_plain)
        print(text)
        shown = self._shown(judged)
        print(shown)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            (out / f"{self.name}.json").write_text(text + "\n")
            (out / f"{self.name}.txt").write_text(shown + "\n")
        return int(not all(check.holds for check in judged))

    def _content(self, judged: list[Check]) -> dict[str, Any]:
        return {
            "benchmark": self.name,
            "quick": self.quick,
            "settings": self.settings,
            "machine": machine(),
            "versions": versions(),
            "tables": self.tables,
            "notes": self.notes,
            "checks": [
                {**asdict(c), "holds": c.holds if c in judged else None}
                for c in self.checks
            ],
        }

    def _shown(self, judged: list[Check]) -> str:
        from rich.console import Console

        console = Console(width=120, file=io.StringIO())
        for title, rows in self.tables.items():
            console.print(_rich_table(title, rows))
        verdicts = [
            {
                "must show": check.name,
                "value": check.value,
                "bound": f"{check.relation} {check.bound:.4g}",
                "": _verdict(check, judged),
            }
            for check in self.checks
        ]
        if verdicts:
            console.print(_rich_table("Bounds", verdicts))
        return console.file.getvalue().rstrip()


def machine() -> dict[str, Any]:
    """The machine, as far as it matters to figures."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if _is_linux() else []
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
    }


def _is_linux() -> bool:
    return platform.system() == "Linux"


def _verdict(check: Check, judged: list[Check]) -> str:
    if check not in judged:
        return "not judged"
    return "holds" if check.holds else "BROKEN"


def _rich_table(title: str, rows: Sequence[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column, value in rows[0].items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        table.add_column(column, justify="right" if is_number else "left")
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in rows[0]))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"
    return f"{value:,}" if type(value) is int else str(value)


def _plain(value: Any) -> Any:
    """What JSON has no form for: dataclasses, paths, numbers of numpy."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return value.item() if hasattr(value, "item") else str(value)
