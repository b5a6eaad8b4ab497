import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def _text(cell):
    """What a cell printed, its last value included."""
    streams = [out.get("text", "") for out in cell.outputs]
    values = [out.get("data", {}).get("text/plain", "") for out in cell.outputs]
    return "".join(streams + values)


@pytest.fixture
def small_settings(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("KACC_QUICKSTART_EPOCHS", "4")
    # The home directory may be read-only, or another run's kernels be at work in it.
    for name in ("JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path_factory.mktemp("jupyter")))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)


def test_quickstart_runs_from_end_to_end(tmp_path, small_settings):
    notebook = nbformat.read(ROOT / "notebooks/quickstart.ipynb", as_version=4)
    client = NotebookClient(
        notebook,
        timeout=600,
        startup_timeout=300,
        iopub_timeout=300,  # of 4 seconds, after which outputs are left behind
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert _text(cells[0]) == "kacc is here already\n"
    assert "QAT int8" in _text(cells[-3])
    assert "1 LSB" in _text(cells[-2])
    assert _text(cells[-1]) == "True"
    files = {path.suffix for path in tmp_path.iterdir()}
    assert files == {".tflite", ".keras"}


@pytest.mark.slow
def test_first_cell_installs_kacc_and_keeps_tensorflow(tmp_path):
    """A runtime that has TensorFlow and no kacc gets kacc and keeps its TensorFlow."""
    runtime = tmp_path / "runtime"
    subprocess.run([sys.executable, "-m", "venv", str(runtime)], check=True)
    python = runtime / "bin/python"
    own = Path(
        _output(python, "import sysconfig; print(sysconfig.get_path('purelib'))")
    )
    # A folder that a .pth file names is searched for packages, but its own .pth files,
    # kacc's editable installation among them, are not read.
    (own / "runtime.pth").write_text(sysconfig.get_path("purelib"))
    notebook = nbformat.read(ROOT / "notebooks/quickstart.ipynb", as_version=4)
    cell = next(c.source for c in notebook.cells if c.cell_type == "code")
    find = "import importlib.util as u; print(u.find_spec({!r}).origin)"
    tensorflow = _output(python, find.format("tensorflow"))
    environment = os.environ | {"KACC_SOURCE": str(_copy_of_source(tmp_path))}
    subprocess.run(
        [python, "-c", cell], env=environment, cwd=tmp_path, check=True, timeout=500
    )
    assert Path(_output(python, find.format("kacc"))).is_relative_to(own)
    assert _output(python, find.format("tensorflow")) == tensorflow
    assert not (own / "tensorflow").exists()


def _copy_of_source(folder):
    # pip leaves its build folder where the source is.
    source = folder / "source"
    shutil.copytree(ROOT / "kacc", source / "kacc")
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    return source


def _output(python, code):
    process = subprocess.run(
        # Isolated: no folder but the runtime's own is searched.
        [python, "-I", "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    return process.stdout.strip()
