import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from kacc.converters.artifact import open_artifact


@pytest.fixture
def model(tmp_path):
    layers = [
        keras.Input((12, 12, 3), name="image"),
        keras.layers.Conv2D(4, 3, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(2, name="scores"),
    ]
    path = tmp_path / "model.keras"
    keras.Sequential(layers).save(path)
    return path


@pytest.fixture
def samples(tmp_path):
    path = tmp_path / "x.npy"
    rng = np.random.default_rng(0)
    np.save(path, rng.uniform(0, 255, (20, 12, 12, 3)).astype(np.float32))
    return path


def _types(path):
    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    details = interpreter.get_input_details() + interpreter.get_output_details()
    return [detail["dtype"] for detail in details]


def test_folder_of_images_as_calibration(kacc, tmp_path, model, class_folders):
    process = kacc("convert", model, "a.tflite", "--calibration", class_folders)
    assert process.returncode == 0, process.stderr
    assert process.stderr.strip() == ""
    size = (tmp_path / "a.tflite").stat().st_size
    assert process.stdout.startswith(f"a.tflite: tflite-int8, {size:,} bytes")
    assert _types(tmp_path / "a.tflite") == [np.int8, np.int8]


@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_numpy_file_as_calibration(kacc_inside, tmp_path, model, suffix):
    x = np.random.default_rng(0).uniform(0, 255, (20, 12, 12, 3)).astype(np.float32)
    path = tmp_path / f"x.{suffix}"
    np.savez(path, image=x) if suffix == "npz" else np.save(path, x)
    process = kacc_inside(
        *("convert", model, "a.tflite", "--calibration", path),
        *("--io", "float32", "--batch", 2),
    )
    assert process.returncode == 0, process.stderr
    assert _types(tmp_path / "a.tflite") == [np.float32, np.float32]
    interpreter = Interpreter(model_path=str(tmp_path / "a.tflite"))
    assert interpreter.get_input_details()[0]["shape"].tolist() == [2, 12, 12, 3]


def test_float_target_needs_no_calibration(kacc_inside, tmp_path, model):
    process = kacc_inside("convert", model, "a.tflite", "--target", "tflite-float16")
    assert process.returncode == 0, process.stderr
    assert _types(tmp_path / "a.tflite") == [np.float32, np.float32]


def test_integer_target_of_a_plain_model_needs_calibration(
    kacc_inside, tmp_path, model, assert_fails
):
    assert_fails(kacc_inside("convert", model, "a.tflite"), 2, "calibration")
    assert not (tmp_path / "a.tflite").exists()


def test_misspelt_target(kacc_inside, model, assert_fails):
    process = kacc_inside("convert", model, "a.tflite", "--target", "tflite-in8")
    assert_fails(process, 2, "'tflite-in8'", "'tflite-int8'")


def test_missing_model(kacc_inside, assert_fails):
    assert_fails(kacc_inside("convert", "none.keras", "a.tflite"), 2, "'none.keras'")


def test_folder_of_the_output_is_missing(kacc_inside, model, assert_fails):
    assert_fails(kacc_inside("convert", model, "no/a.tflite"), 1, "no/a.tflite")


def test_calibration_that_is_no_data(kacc_inside, tmp_path, model, assert_fails):
    (tmp_path / "x.npz").write_text("words")
    process = kacc_inside("convert", model, "a.tflite", "--calibration", "x.npz")
    assert_fails(process, 2, "--calibration", "x.npz")


def test_calibration_of_another_shape(kacc_inside, tmp_path, model, assert_fails):
    np.save(tmp_path / "x.npy", np.zeros((4, 5), np.float32))
    process = kacc_inside("convert", model, "a.tflite", "--calibration", "x.npy")
    assert_fails(process, 2, "(4, 5)", "12")


@pytest.mark.parametrize("ranges", ["mse", "percentile", "percentile:99.5"])
def test_ranges(kacc_inside, tmp_path, model, samples, ranges):
    process = kacc_inside(
        *("convert", model, "a.tflite", "--calibration", samples),
        *("--ranges", ranges, "--backend", "kacc"),
    )
    assert process.returncode == 0, process.stderr
    manifest = open_artifact(tmp_path / "a.tflite").manifest
    assert manifest.backend == "kacc"
    wanted = {
        "mse": "mse",
        "percentile": {"method": "percentile", "percentile": 99.99},
        "percentile:99.5": {"method": "percentile", "percentile": 99.5},
    }
    assert manifest.options["ranges"] == wanted[ranges]


@pytest.mark.parametrize(
    ("option", "word", "parts"),
    [
        ("--ranges", "max", ["'max'", "mse"]),
        ("--ranges", "mse:9", ["'mse:9'", "percentile:99.9"]),
        ("--ranges", "percentile:x", ["'percentile:x'", "percentile:99.9"]),
        ("--ranges", "percentile:12", ["12.0", "above 50"]),
        ("--backend", "onnx", ["'onnx'", "kacc"]),
    ],
)
def test_wrong_ranges_and_backends(
    kacc_inside, model, samples, assert_fails, option, word, parts
):
    process = kacc_inside(
        "convert", model, "a.tflite", "--calibration", samples, option, word
    )
    assert_fails(process, 2, *parts)


def test_rounding(kacc_inside, tmp_path, model, samples, monkeypatch):
    from kacc.quantization import AdaRound

    monkeypatch.setattr(AdaRound, "__post_init__", _briefly)
    process = kacc_inside(
        *("convert", model, "a.tflite", "--calibration", samples),
        *("--rounding", "adaround", "--target", "tflite-w4a8"),
    )
    assert process.returncode == 0, process.stderr
    manifest = open_artifact(tmp_path / "a.tflite").manifest
    assert manifest.backend == "kacc"
    assert manifest.options["rounding"]["method"] == "adaround"


def _briefly(settings):
    object.__setattr__(settings, "steps", 5)


def test_options_of_the_targets(kacc, tmp_path, assert_fails):
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(
        tmp_path / "m.keras"
    )
    process = kacc(
        *("convert", "m.keras", "served", "--target", "xla-cpu"),
        *("--batch-sizes", "1,4", "--model-version", "3", "--xla", "never"),
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("served/3: xla-cpu, ")
    manifest = open_artifact(tmp_path / "served").manifest
    assert set(manifest.report["xla"]) == {"batch_1", "batch_4", "serving_default"}
    process = kacc("convert", "m.keras", "a.onnx", "--target", "onnx", "--opset", "3")
    assert_fails(process, 2, "`opset` must be one of")
    process = kacc("convert", "m.keras", "a.tflite", "--target", "onnx")
    assert_fails(process, 2, "must end with '.onnx'")
