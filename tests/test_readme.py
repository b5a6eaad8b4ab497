import re
from pathlib import Path

import keras
import numpy as np
import pytest

import kacc

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def _classifier():
    layers = [
        keras.Input((6, 6, 1)),
        keras.layers.Conv2D(4, 3, use_bias=False),
        keras.layers.BatchNormalization(),
        keras.layers.ReLU(),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(3, activation="softmax"),
    ]
    model = keras.Sequential(layers)
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def test_example_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    random = np.random.default_rng(0)
    x, y = random.random((64, 6, 6, 1), np.float32), random.integers(0, 3, 64)
    names = {"x_train": x, "y_train": y, "x_val": x[:16], "y_val": y[:16]}
    names |= {"model": _classifier(), "plain_model": _classifier()}
    monkeypatch.chdir(tmp_path)
    exec(example, names)
    assert {"model.tflite", "ptq.tflite"} <= {p.name for p in tmp_path.iterdir()}
    assert "1 LSB" in capsys.readouterr().out


@pytest.mark.parametrize("path", re.findall(r"\]\(([^)#:]+)\)", README))
def test_files_that_are_linked_are_there(path):
    assert (ROOT / path).is_file()


def test_names_of_the_interface_exist():
    names = set(re.findall(r"\bkacc\.([a-z_]+)", README)) - {"callbacks"}
    assert names
    assert all(hasattr(kacc, name) for name in names)
