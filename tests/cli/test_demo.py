import json
import os
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

FILES = {
    "float.keras",
    "float32.tflite",
    "ptq-int8.tflite",
    "qat.keras",
    "qat-int8.tflite",
    "report.json",
    "report.png",
}


def _classifier(shape, classes, **compile_options):
    model = keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Conv2D(4, 3, strides=2, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(classes),
        ]
    )
    if compile_options:
        model.compile(**compile_options)
    return model


def _check_outputs(folder, process):
    assert process.returncode == 0, process.stderr
    assert {path.name for path in folder.iterdir()} == FILES
    report = json.loads((folder / "report.json").read_text())
    rows = report["variants"]
    assert [row["name"] for row in rows] == [
        "float Keras",
        "float32 TFLite",
        "PTQ int8",
        "QAT int8",
    ]
    for row in rows:
        assert row["name"] in process.stdout
        assert 0 <= row["accuracy"] <= 1
        assert row["latency_ms"] > 0
    for row in rows[1:]:
        assert row["size_bytes"] == (folder / row["file"]).stat().st_size
    with Image.open(folder / "report.png") as plot:
        plot.load()
    return report


def _input_type(path):
    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    return interpreter.get_input_details()[0]["dtype"]


def test_demo_learns_the_digits_and_says_no_word_too_many(kacc, tmp_path):
    process = kacc("demo", "--epochs", "6", "--out", "here")
    report = _check_outputs(tmp_path / "here", process)
    assert process.stderr.splitlines() == [
        "training in float",
        "training for int8",
        "comparing: float Keras",
        "comparing: float32 TFLite",
        "comparing: PTQ int8",
        "comparing: QAT int8",
    ]
    accuracies = [row["accuracy"] for row in report["variants"]]
    assert min(accuracies) > 0.9
    assert report["variants"][2]["within_one"] is not None
    assert _input_type(tmp_path / "here/qat-int8.tflite") == np.int8
    assert report["data"]["validation_images"] == 450


@pytest.mark.slow
def test_demo_on_class_folders(kacc_inside, tmp_path, class_folders):
    process = kacc_inside(
        "demo", "--data", class_folders, "--epochs", 2, "--out", "a/b"
    )
    report = _check_outputs(tmp_path / "a/b", process)
    assert report["data"]["classes"] == ["blue sky", "lawn"]
    assert report["data"]["image_shape"] == [64, 64, 3]
    assert report["data"]["training_images"] == 36


def test_demo_on_a_model_of_ones_own(kacc_inside, tmp_path, class_folders):
    _classifier((12, 12, 1), 2).save(tmp_path / "mine.keras")
    process = kacc_inside(
        *("demo", "--model", "mine.keras", "--data", class_folders),
        *("--epochs", 1, "--pixels", "0..1", "--out", "out"),
    )
    report = _check_outputs(tmp_path / "out", process)
    assert report["model"] == "mine.keras"
    assert report["data"]["image_shape"] == [12, 12, 1]


def test_model_with_another_number_of_classes(kacc_inside, tmp_path, assert_fails):
    _classifier((8, 8, 1), 7).save(tmp_path / "mine.keras")
    process = kacc_inside("demo", "--model", "mine.keras")
    assert_fails(process, 2, "10", "7 values")


@pytest.mark.parametrize("shape", [(8,), (8, 8, 4)])
def test_model_of_something_else_than_images(
    kacc_inside, tmp_path, assert_fails, shape
):
    layers = [keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(10)]
    keras.Sequential(layers).save(tmp_path / "mine.keras")
    process = kacc_inside("demo", "--model", "mine.keras")
    assert_fails(process, 2, "must take images", str(shape[-1]))


def test_file_that_is_no_model(kacc_inside, tmp_path, assert_fails):
    (tmp_path / "mine.keras").write_text("words")
    process = kacc_inside("demo", "--model", "mine.keras")
    assert_fails(process, 1, "cannot be loaded", "mine.keras")


@pytest.mark.parametrize("option", ["--data", "--model"])
def test_missing_input_is_refused_at_once(tmp_path, assert_fails, option):
    """Before TensorFlow, which takes seconds, is imported."""
    code = (
        "import sys; from kacc.cli.main import main; "
        f"code = main(['demo', {option!r}, 'none']); "
        "sys.exit(100 if 'tensorflow' in sys.modules else code)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert_fails(process, 2, option, "'none'")


def test_pixels_without_a_model(kacc_inside, assert_fails):
    assert_fails(kacc_inside("demo", "--pixels", "0..1"), 2, "--model")


def test_out_that_is_a_file(kacc_inside, tmp_path, assert_fails):
    (tmp_path / "out").write_text("")
    assert_fails(kacc_inside("demo", "--out", "out"), 1, "--out")


def test_interrupted_demo_ends_with_a_line_and_no_half_file(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "kacc", "demo", "--epochs", "1000", "--out", "out"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A process started in the background inherits that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for line in process.stderr:  # up to the first training
        if "training" in line:
            break
    time.sleep(1)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "kacc: interrupted"
    assert "Traceback" not in errors
    assert list((tmp_path / "out").iterdir()) == []
