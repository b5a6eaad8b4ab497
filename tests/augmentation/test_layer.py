"""The layer: changes in training alone, and no part of any file."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import kacc
from kacc import augmentation as aug

IMAGES = np.random.default_rng(0).uniform(0, 1, (6, 16, 16, 3)).astype("float32")
POLICY = [aug.Flip(), aug.Rotation(20)]


def model_of(*front):
    layers = [keras.Input((16, 16, 3)), *front, keras.layers.Conv2D(4, 3, name="conv")]
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3, name="top")]
    return keras.Sequential(layers)


@pytest.fixture
def pair():
    """A model with the layer, and the same without."""
    model, plain = model_of(kacc.layers.Augmentation(POLICY)), model_of()
    for name in ("conv", "top"):
        plain.get_layer(name).set_weights(model.get_layer(name).get_weights())
    return model, plain


def test_only_training_changes_images():
    layer = kacc.layers.Augmentation(POLICY)
    np.testing.assert_array_equal(layer(IMAGES), IMAGES)
    np.testing.assert_array_equal(layer(IMAGES, training=False), IMAGES)
    first, second = layer(IMAGES, training=True), layer(IMAGES, training=True)
    assert not np.array_equal(first, IMAGES)
    assert not np.array_equal(first, second)
    again = kacc.layers.Augmentation(POLICY)
    np.testing.assert_array_equal(again(IMAGES, training=True), first)


def test_keras_dictionaries_move_and_mix():
    layer = kacc.layers.Augmentation(
        [aug.Flip(probability=1)], bounding_box_format="xyxy"
    )
    boxes = {"boxes": np.array([[[0, 0, 4, 4]]] * 6, "float32"), "labels": [[1]] * 6}
    boxes["labels"] = np.array(boxes["labels"])
    data = {"images": IMAGES, "bounding_boxes": boxes}
    result = layer(data, training=True)
    np.testing.assert_array_equal(result["images"], IMAGES[:, :, ::-1])
    np.testing.assert_allclose(result["bounding_boxes"]["boxes"][0, 0], [12, 0, 16, 4])
    mixing = kacc.layers.Augmentation([aug.MixUp(1.0)])
    labels = np.eye(6, dtype="float32")
    mixed = mixing({"images": IMAGES, "labels": labels}, training=True)
    assert not np.array_equal(mixed["labels"], labels)
    with pytest.raises(kacc.UsageError, match="need labels"):
        mixing(IMAGES, training=True)


def test_wrong_policies_are_refused():
    for policy, text in (([aug.Rescale(2)], "Rescaling"), ("no", "must be one of")):
        with pytest.raises(kacc.UsageError, match=text):
            kacc.layers.Augmentation(policy)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("imports", ["import keras, kacc", "import kacc, keras"])
def test_saved_models_load_in_a_fresh_process(tmp_path, pair, imports):
    model, _ = pair
    path = tmp_path / "model.keras"
    model.save(path)
    code = (
        f"{imports}; model = keras.models.load_model({str(path)!r}); "
        "print(model.layers[0].policy.transforms[0])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-1000:]
    assert "Flip(mode='horizontal'" in run.stdout


def test_files_hold_nothing_of_it(tmp_path, pair):
    files = [
        kacc.convert(one, tmp_path / f"{i}.tflite", target="tflite-float32")
        for i, one in enumerate(pair)
    ]
    assert files[0].size_bytes == pytest.approx(files[1].size_bytes, abs=200)
    np.testing.assert_array_equal(*(f.predict(IMAGES) for f in files))
    pair[0].export(tmp_path / "saved", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "saved"))
    np.testing.assert_allclose(
        served.serve(IMAGES), pair[1].predict(IMAGES, verbose=0), atol=1e-5
    )


def test_quantization_and_pruning_pass_it_by(tmp_path, pair):
    model, _ = pair
    model.compile("sgd", "mse")
    kacc.prune(model, 0.5, keep_ends=False)
    kacc.quantize(model)
    model.fit(IMAGES, np.zeros((6, 3)), verbose=0)
    file = kacc.convert(model, tmp_path / "model.tflite", target="tflite-int8")
    assert kacc.parity(model, file, IMAGES).equal == 1.0
    assert type(kacc.strip(model).layers[0]) is kacc.layers.Augmentation


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_it_trains_in_a_model(precision):
    keras.config.set_dtype_policy(precision)
    try:
        model = model_of(kacc.layers.Augmentation("light"))
    finally:
        keras.config.set_dtype_policy("float32")
    model.compile("sgd", "mse", jit_compile=precision == "float32")
    history = model.fit(IMAGES, np.zeros((6, 3)), verbose=0)
    assert np.isfinite(history.history["loss"][0])
