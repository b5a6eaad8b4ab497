"""Fixtures that many tests need."""

import importlib.util
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def pytest_collection_finish():
    """Takes back what importing tfmot does to the processes that tests start."""
    os.environ.pop("TF_USE_LEGACY_KERAS", None)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder with real data and models; its README.md says what there is."""
    folder = Path(os.environ.get("KACC_DATA", ROOT.parent / "shared"))
    if not (folder / "data" / "load.py").is_file():
        pytest.skip(f"no real data in {folder}: name their folder with KACC_DATA")
    return folder


@pytest.fixture(scope="session")
def load(data):
    """The loaders of the real data, as a module: `load.cifar10("val")`."""
    spec = importlib.util.spec_from_file_location("kacc_data", data / "data/load.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
