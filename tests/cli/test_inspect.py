import json

import keras
import numpy as np
import pytest
from PIL import Image

import kacc as package


@pytest.fixture
def artifact(tmp_path):
    model = keras.Sequential(
        [keras.Input((6,), name="sound"), keras.layers.Dense(2, name="scores")]
    )
    x = np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32)
    return package.convert(model, tmp_path / "a.tflite", "tflite-int8", x)


def test_shows_what_the_file_takes_and_gives(kacc, artifact):
    process = kacc("inspect", artifact.path)
    assert process.returncode == 0, process.stderr
    text = " ".join(process.stdout.split())
    assert f"tflite-int8, {artifact.size_bytes:,} bytes" in text
    (sound,), (scores,) = artifact.manifest.inputs, artifact.manifest.outputs
    assert f"input sound any x 6 int8 {sound.scale} {sound.zero_point}" in text
    assert f"output scores any x 2 int8 {scores.scale} {scores.zero_point}" in text
    assert f"sha256: {artifact.manifest.sha256}" in text


def test_needs_no_tensorflow(kacc, artifact, tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('imported')")
    process = kacc("inspect", artifact.path)
    assert process.returncode == 0, process.stderr


def test_file_that_is_no_tflite(kacc, tmp_path, assert_fails):
    (tmp_path / "a.tflite").write_text("words")
    assert_fails(kacc("inspect", "a.tflite"), 1, "a.tflite", "TFLite file")


def test_lists_the_operators(kacc, artifact):
    process = kacc("inspect", artifact.path)
    assert process.returncode == 0, process.stderr
    text = " ".join(process.stdout.split())
    (row,) = artifact.operations()
    assert f"{row.layer} FULLY_CONNECTED any x 2 int8" in text
    assert f"1 operators {row.bytes} 12" in text


def test_everything_as_json(kacc, artifact):
    process = kacc("inspect", artifact.path, "--json")
    record = json.loads(process.stdout)
    assert record["manifest"]["sha256"] == artifact.manifest.sha256
    (operator,) = record["operators"]
    assert (operator["kind"], operator["macs"]) == ("FULLY_CONNECTED", 12)
    (layer,) = record["layers"]
    assert layer["layer"].startswith("scores")
    assert layer["bytes"] >= 12
    assert layer["macs"] == 12


def test_draws_bytes_and_macs_of_each_layer(kacc, artifact, tmp_path, assert_fails):
    process = kacc("inspect", artifact.path, "--plot", "layers.png")
    assert process.returncode == 0, process.stderr
    assert Image.open(tmp_path / "layers.png").size[0] > 1000
    process = kacc("inspect", artifact.path, "--plot", "no/such/layers.png")
    assert_fails(process, 1, "no/such/layers.png", "must exist")


def test_what_the_tpu_compiler_says(kacc, artifact, tmp_path, assert_fails):
    model = keras.Sequential([keras.Input((256,)), keras.layers.Dense(128)])
    package.convert(model, tmp_path / "served", "xla-tpu")
    process = kacc("inspect", "served", "--tpu", "v5e", "--json")
    assert process.returncode == 0, process.stderr
    tpu = json.loads(process.stdout)["tpu"]
    assert tpu["tpu"] == "v5e"
    assert tpu["flops"] == pytest.approx(2 * 8 * 256 * 128, rel=0.1)
    assert tpu["argument_bytes"] == 8 * 256 * 4
    process = kacc("inspect", artifact.path, "--tpu", "v5e")
    assert_fails(process, 2, "'stablehlo' and 'xla-tpu'", "tflite-int8")


def test_modules_that_the_tpu_compiler_refuses():
    from kacc.converters.tpu import compile_for_tpu
    from kacc.core.manifest import TensorInfo

    one = [TensorInfo("x", (8, 4), "float32")]
    with pytest.raises(package.ConversionError, match="The TPU compiler must be able"):
        compile_for_tpu(b"no module", one, one)
