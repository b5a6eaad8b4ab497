"""Trained models of every kind, made once: a fit takes a second."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import pytest

import kacc
from tests.core import models


@dataclass(frozen=True)
class Trained:
    """A model that was quantized and trained, its file, and what it computes.

    Tests share it and leave it as it is.
    """

    model: Any
    plain_json: str  # of the same model before anything was attached
    path: Path
    x: Any

    @cached_property
    def outputs(self) -> list[Any]:
        return models.outputs(self.model, self.x)

    @cached_property
    def variables(self) -> dict[str, Any]:
        return models.variables(self.model)


_TRAINED: dict[str, Trained] = {}


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """kind -> `Trained`."""

    def get(build) -> Trained:
        if build.__name__ not in _TRAINED:
            folder = tmp_path_factory.mktemp("trained")
            _TRAINED[build.__name__] = _train(build, folder)
        return _TRAINED[build.__name__]

    return get


def _train(build, folder: Path) -> Trained:
    keras.utils.set_random_seed(1)
    model = build()
    plain_json = model.to_json()
    x, y = models.inputs_for(model), models.targets_for(model)
    model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=False)
    kacc.quantize(model)
    model.fit(x, y, batch_size=8, epochs=2, verbose=0)
    path = folder / f"{build.__name__}.keras"
    model.save(path)
    return Trained(model, plain_json, path, x)
