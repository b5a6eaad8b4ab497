"""What tests and the examples in docstrings share: environment and seeds."""

import collections
import gc
import os
import random
import sys
import tempfile

import hypothesis
import numpy as np
import pytest

# The first example traces a graph, and machines stall: time says nothing of the code.
hypothesis.settings.register_profile("kacc", deadline=None)
# A change lands or not by what it changes, not by what is drawn; other examples are
# drawn wherever people run the tests.
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "kacc")

# Read by TensorFlow and Keras when they are imported.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # results do not depend on a GPU
os.environ.setdefault("KACC_CACHE", tempfile.mkdtemp(prefix="kacc-cache-"))


@pytest.hookimpl(tryfirst=True)  # before those that are not slow are chosen
def pytest_collection_modifyitems(items):
    """Of the combinations of a test marked `sampled(n)`, all but each nth are slow."""
    seen = collections.Counter()
    for item in items:
        if sampled := item.get_closest_marker("sampled"):
            name = item.nodeid.partition("[")[0]
            if seen[name] % sampled.args[0]:
                item.add_marker(pytest.mark.slow)
            seen[name] += 1


def pytest_collection_finish():
    """Spares the collector what TensorFlow's import made."""
    _freeze()


@pytest.fixture(autouse=True, scope="module")
def _spared():
    """Spares it what remains of a module: fixtures of the session, traces in caches."""
    yield
    _freeze()


def _freeze():
    """What there is now is not looked at again: half a second of each conversion.

    TensorFlow collects at every one.
    """
    gc.collect()
    gc.freeze()


def pytest_make_parametrize_id(val):
    """Names without addresses, which would differ between processes."""
    if getattr(val, "__name__", None):
        return val.__name__
    if isinstance(val, tuple) and any(map(callable, val)):
        return "-".join(getattr(x, "__name__", str(x)) for x in val)
    if isinstance(val, dict):
        return "-".join(val) or "plain"
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef):
    """What several tests share is the same whichever of them comes first."""
    if fixturedef.scope != "function":
        _seed()


@pytest.fixture(autouse=True)
def _seeds(request):
    _seed()
    # A module's generators begin each test as its import has left them.
    module = getattr(request.node, "module", None)
    for value in vars(module).values() if module else ():
        if isinstance(value, np.random.Generator):
            bits = value.bit_generator
            bits.state = _AT_IMPORT.setdefault(value, bits.state)


_AT_IMPORT: dict[np.random.Generator, dict] = {}


def _seed():
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - for libraries that use the global generator
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(0)
