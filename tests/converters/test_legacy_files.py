"""Files of Keras 2, and `kacc convert` on them."""

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from kacc.cli.main import main
from kacc.converters.artifact import open_artifact
from kacc.converters.legacy_files import is_legacy_file, load_legacy_model
from kacc.core.errors import KaccError
from tests.converters import tfmot_models as models
from tests.core.processes import run_python

L = tf_keras.layers


@pytest.fixture(scope="module")
def images():
    return models.images()


def convert(capfd, *arguments):
    capfd.readouterr()
    code = main(["convert", *map(str, arguments)])
    return code, capfd.readouterr()


@pytest.mark.parametrize("name", ["old.h5", "old.keras", "old"])
def test_every_format_of_keras_2(name, images, tmp_path, capfd):
    model = models.functional()
    model.save(tmp_path / name)
    assert is_legacy_file(tmp_path / name)
    out = tmp_path / "m.tflite"
    code, output = convert(capfd, tmp_path / name, out, "--target", "tflite-float32")
    assert code == 0, output.err
    assert output.err == ""
    want = model.predict(images, verbose=0)
    np.testing.assert_allclose(open_artifact(out).predict(images), want, atol=1e-6)


@pytest.mark.parametrize("make", [models.quantized, models.pruned, models.clustered])
def test_wrapped_models(make, images, tmp_path, capfd):
    model = make()
    model.save(tmp_path / "old.h5")
    np.save(tmp_path / "x.npy", images)
    out = tmp_path / "m.tflite"
    code, output = convert(
        capfd, tmp_path / "old.h5", out, "--calibration", tmp_path / "x.npy"
    )
    assert code == 0, output.err
    want = model.predict(images, verbose=0)
    np.testing.assert_allclose(open_artifact(out).predict(images), want, atol=0.05)


def test_the_old_hard_sigmoid_is_meant(tmp_path, capfd):
    """Keras 3 would read this file, and compute another function."""
    model = tf_keras.Sequential([L.Dense(4, "hard_sigmoid", input_shape=(6,))])
    model.save(tmp_path / "old.h5")
    assert isinstance(keras.models.load_model(tmp_path / "old.h5"), keras.Model)
    out = tmp_path / "m.tflite"
    code, output = convert(
        capfd, tmp_path / "old.h5", out, "--target", "tflite-float32"
    )
    assert code == 0, output.err
    x = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
    np.testing.assert_allclose(open_artifact(out).predict(x), model(x), atol=1e-6)


def test_subclassed_saved_models(images, tmp_path, capfd):
    class Net(tf_keras.Model):
        def __init__(self):
            super().__init__()
            self.conv, self.flat = L.Conv2D(4, 3), L.Flatten()

        def call(self, x):
            return self.flat(self.conv(x))

    model = Net()
    model(images)
    model.save(tmp_path / "old")
    out = tmp_path / "m.tflite"
    code, output = convert(capfd, tmp_path / "old", out, "--target", "tflite-float32")
    assert code == 0, output.err
    np.testing.assert_allclose(
        open_artifact(out).predict(images), model(images), atol=1e-5
    )


@pytest.mark.parametrize("name", ["new.h5", "new.keras"])
def test_files_of_keras_3_are_not_legacy(name, tmp_path):
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(tmp_path / name)
    assert not is_legacy_file(tmp_path / name)


def test_things_that_are_no_models(tmp_path):
    (tmp_path / "a.h5").write_text("words")
    h5py.File(tmp_path / "b.h5", "w").close()
    (tmp_path / "folder").mkdir()
    for name in ("a.h5", "b.h5", "folder", "none"):
        assert not is_legacy_file(tmp_path / name)


def test_saved_models_that_keras_did_not_write(tmp_path, capfd):
    module = tf.Module()
    module.f = tf.function(lambda x: x, input_signature=[tf.TensorSpec((None, 2))])
    other = module.f.get_concrete_function()
    tf.saved_model.save(module, tmp_path / "old", {"other": other})
    path = tmp_path / "m.tflite"
    code, output = convert(capfd, tmp_path / "old", path)
    assert code == 1
    assert "must have the signature 'serving_default'" in output.err
    assert len(output.err.splitlines()) == 1
    scalars = tf.function(lambda x: x, input_signature=[tf.TensorSpec(())])
    tf.saved_model.save(module, tmp_path / "no", {"serving_default": scalars})
    code, output = convert(capfd, tmp_path / "no", path)
    assert code == 1
    assert "tensors with a batch axis" in output.err


def test_saved_models_that_keras_3_exported(tmp_path, capfd):
    image, sound = keras.Input((6, 6, 1), name="image"), keras.Input((4,), name="sound")
    x = keras.layers.Flatten()(keras.layers.Conv2D(2, 3)(image))
    x = keras.layers.Concatenate()([x, sound])
    model = keras.Model([image, sound], keras.layers.Dense(3)(x))
    model.export(tmp_path / "exported", verbose=False)
    path = tmp_path / "m.tflite"
    code, output = convert(
        capfd, tmp_path / "exported", path, "--target", "tflite-float32"
    )
    assert code == 0, output.err
    random = np.random.default_rng(0)
    feeds = {
        "image": random.normal(size=(2, 6, 6, 1)).astype("float32"),
        "sound": random.normal(size=(2, 4)).astype("float32"),
    }
    artifact = open_artifact(path)
    names = {info.name: info.name.rsplit("/")[-1] for info in artifact.manifest.inputs}
    found = artifact.predict({name: feeds[key] for name, key in names.items()})
    np.testing.assert_allclose(found, model(list(feeds.values())), atol=1e-5)


def test_classes_of_the_users(tmp_path):
    class Own(L.Layer):
        def call(self, x):
            return x

    tf_keras.Sequential([L.Input((3,)), Own()]).save(tmp_path / "old.h5")
    with pytest.raises(KaccError, match=r"Own.*`kacc\.convert` in a program") as caught:
        load_legacy_model(tmp_path / "old.h5")
    assert "\n" not in str(caught.value)


def test_processes_started_later_keep_keras_3(tmp_path):
    """tfmot sets an environment variable that would give them Keras 2."""
    models.functional().save(tmp_path / "old.h5")
    run_python(
        f"""
        import os
        from pathlib import Path
        from kacc.converters.legacy_files import load_legacy_model
        load_legacy_model(Path(r"{tmp_path / "old.h5"}"))
        assert "TF_USE_LEGACY_KERAS" not in os.environ
        """
    )
