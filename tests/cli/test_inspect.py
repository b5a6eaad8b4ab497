import keras
import numpy as np
import pytest

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
