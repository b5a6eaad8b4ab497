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
        keras.layers.Conv2D(8, 3, activation="relu"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(3, activation="softmax"),
    ]
    model = keras.Sequential(layers)
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def _example(word):
    """The one example with a word in it."""
    (found,) = [example for example in EXAMPLES if word in example]
    return found


TRAINING, PRUNING = _example("ptq.tflite"), _example("sparse.tflite")
SPLIT, SERVERS = _example("kacc.split"), _example("xla-cpu")
TEACHERS, FASTER = _example("Distillation"), _example("measurement.profile")
STRUCTURE = _example("kacc.restructure")
DATA = _example("flow_from_directory")
AUGMENTATION = _example("DataAugmentation(policy)")


def _run(example, folder, monkeypatch):
    """The names that it has afterwards; it writes into the folder."""
    random = np.random.default_rng(0)
    x, y = random.random((64, 6, 6, 1), np.float32), random.integers(0, 3, 64)
    names = {"x_train": x, "y_train": y, "x_val": x[:16], "y_val": y[:16]}
    names |= {"model": _classifier(), "plain_model": _classifier()}
    monkeypatch.chdir(folder)
    exec(example, names)
    return names


def test_training_example_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    _run(TRAINING, tmp_path, monkeypatch)
    assert {"model.tflite", "ptq.tflite"} <= {p.name for p in tmp_path.iterdir()}
    assert "1 LSB" in capsys.readouterr().out


def test_faster_example_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    names = _run(FASTER, tmp_path, monkeypatch)
    shown = capsys.readouterr().out
    assert "The bottleneck is" in shown
    assert "Keeps" in shown
    classes = {type(layer) for layer in names["model"].layers}
    assert keras.layers.BatchNormalization in classes  # not the fused one


def test_data_example_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    random = np.random.default_rng(1)
    for index in range(30):
        part = "val" if index % 5 == 0 else "train"
        folder = tmp_path / "photos" / part / ("cats" if index % 2 else "dogs")
        folder.mkdir(parents=True, exist_ok=True)
        image = random.integers(0, 256, (140, 130, 3))
        keras.utils.save_img(folder / f"{index}.png", image, scale=False)
    layers = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((128, 128, 3)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    monkeypatch.chdir(tmp_path)
    names = {"model": model}
    exec(DATA, names)
    assert names["train"].class_names == ["cats", "dogs"]
    assert len(model.history.history["val_loss"]) == 5
    assert "nothing wrong" in capsys.readouterr().out


def test_pruning_example_runs_as_it_stands(tmp_path, monkeypatch):
    names = _run(PRUNING, tmp_path, monkeypatch)
    artifact, model = names["artifact"], kacc.strip(names["model"])
    kernels = [x.kernel.numpy() for x in model.layers if hasattr(x, "kernel")]
    _, middle, _ = kernels
    zeros = np.sum(middle == 0)
    assert zeros == 0.75 * middle.size
    assert artifact.sparsity >= zeros / sum(kernel.size for kernel in kernels)


def test_example_of_teachers_runs_as_it_stands(tmp_path, monkeypatch):
    names = _run(TEACHERS, tmp_path, monkeypatch)
    found = kacc.clustering.clusters(names["model"])
    assert found
    assert max(found.values()) <= 16
    assert names["both"].output_shape == (None, 3)


@pytest.mark.parametrize("path", re.findall(r"\]\(([^)#:]+)\)", README))
def test_files_that_are_linked_are_there(path):
    assert (ROOT / path).is_file()


def test_names_of_the_interface_exist():
    names = set(re.findall(r"\bkacc\.([a-z_]+)", README)) - {"callbacks"}
    assert names
    # Not what some other import has left on the package.
    assert names <= set(kacc.__all__)
    assert all(hasattr(kacc, name) for name in names)


def test_structure_example_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    names = _run(STRUCTURE, tmp_path, monkeypatch)
    kinds = [type(layer).__name__ for layer in names["smaller"].layers]
    assert kinds.count("DepthwiseConv2D") == 2
    assert "BatchNormalization" not in kinds
    assert "SeparableConvolutions" in capsys.readouterr().out


def test_split_example_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    names = _run(SPLIT, tmp_path, monkeypatch)
    assert len(list((tmp_path / "parts").iterdir())) == 2
    assert names["outputs"].shape == (16, 3)
    assert "crossing the cut" in capsys.readouterr().out


def test_server_example_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    names = _run(SERVERS, tmp_path, monkeypatch)
    made = {"served", "model.onnx", "model_int8.onnx", "module"}
    assert made <= {p.name for p in tmp_path.iterdir()}
    assert names["served"].path.name == "1"
    assert "onnxruntime kernels" in capsys.readouterr().out


def test_augmentation_example_runs_as_it_stands(tmp_path, monkeypatch):
    names = _run(AUGMENTATION, tmp_path, monkeypatch)
    assert (tmp_path / "policy.png").is_file()
    assert "train_step" not in vars(names["model"])
