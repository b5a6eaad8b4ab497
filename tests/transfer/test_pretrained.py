import hashlib

import keras
import numpy as np
import pytest
from keras import layers

import kacc
from kacc.core.errors import UsageError

IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
SMALL = {"input_shape": (32, 32, 3), "alpha": 0.25}


def small_one(name):
    """Stands in for a function of keras.applications, in its module."""

    def function(
        weights=None, include_top=True, input_shape=(224, 224, 3), pooling=None
    ):
        inputs = keras.Input(input_shape)
        x = layers.Conv2D(4, 3, activation="relu", name="first")(inputs)
        x = layers.GlobalAveragePooling2D()(x)
        return keras.Model(inputs, layers.Dense(9)(x) if include_top else x)

    function.__module__ = getattr(keras.applications, name).__module__
    return function


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """MobileNet's weights with a head and without one, and the model as a whole."""
    folder = tmp_path_factory.mktemp("weights")
    keras.utils.set_random_seed(0)
    whole = keras.applications.MobileNet(alpha=0.25, weights=None, classes=1000)
    whole.save_weights(folder / "whole.weights.h5")
    whole.save(folder / "whole.keras")
    body = keras.applications.MobileNet(
        alpha=0.25, weights=None, include_top=False, input_shape=(32, 32, 3)
    )
    body.set_weights(whole.get_weights()[: len(body.weights)])
    body.save_weights(folder / "body.weights.h5")
    return folder, body


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("name", ["whole.weights.h5", "body.weights.h5", "whole.keras"])
def test_files_with_and_without_a_head(files, name):
    folder, body = files
    model = kacc.pretrained("MobileNet", 5, folder / name, **SMALL)
    features = body.predict(IMAGES / 127.5 - 1, verbose=0).mean((1, 2))
    inner = keras.Model(model.inputs, model.get_layer("dropout").input)
    np.testing.assert_allclose(
        inner.predict(IMAGES, verbose=0), features, rtol=1e-4, atol=1e-5
    )
    assert model.output_shape == (None, 5)
    assert len(model.trainable_variables) == 2


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        pytest.param("ResNet50", 32, {}, marks=pytest.mark.slow),
        pytest.param("DenseNet121", 32, {}, marks=pytest.mark.slow),
        pytest.param("MobileNetV2", 32, {"alpha": 0.35}, marks=pytest.mark.slow),
        ("MobileNet", 32, {"alpha": 0.25}),
        pytest.param("EfficientNetB0", 32, {}, marks=pytest.mark.slow),
    ],
)
def test_images_are_what_preprocess_input_makes_of_them(name, size, options, tmp_path):
    compare_with_preprocess_input(name, size, options, tmp_path)


@pytest.mark.parametrize("name", ["ResNet50", "DenseNet121", "EfficientNetB0"])
def test_so_they_are_before_a_small_backbone(name, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.applications, name, small_one(name))
    compare_with_preprocess_input(name, 32, {}, tmp_path)


def compare_with_preprocess_input(name, size, options, tmp_path):
    keras.utils.set_random_seed(0)
    function = getattr(keras.applications, name)
    body = function(
        weights=None,
        include_top=False,
        input_shape=(size, size, 3),
        pooling="avg",
        **options,
    )
    path = tmp_path / "body.weights.h5"
    body.save_weights(path)
    model = kacc.pretrained(name, 3, path, input_shape=(size, size, 3), **options)
    module = getattr(keras.applications, function.__module__.rpartition(".")[2])
    expected = body.predict(module.preprocess_input(IMAGES.copy()), verbose=0)
    inner = keras.Model(model.inputs, model.get_layer("dropout").input)
    found = inner.predict(IMAGES, verbose=0)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, atol=2e-4 * scale)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
@pytest.mark.parametrize("name", ["MobileNet", "VGG16"])
def test_files_of_its_own_results(files, name, suffix, tmp_path, monkeypatch):
    """VGG16 was trained on blue first, which the result no more reads."""
    folder, _ = files
    options, weights = SMALL, folder / "whole.weights.h5"
    if name == "VGG16":  # a small one stands in for it
        function = small_one(name)
        monkeypatch.setattr(keras.applications, name, function)
        options, weights = {"input_shape": (32, 32, 3)}, tmp_path / "vgg.weights.h5"
        function(include_top=False, input_shape=(32, 32, 3)).save_weights(weights)
    made = kacc.pretrained(name, 7, weights, **options)
    path = tmp_path / f"own{suffix}"
    made.save(path) if suffix == ".keras" else made.save_weights(path)
    for head in (5, 7):
        again = kacc.pretrained(name, head, path, dropout=0.0, **options)
        assert len(again.trainable_variables) == 2
        found, expected = (
            keras.Model(m.inputs, m.layers[-1].input).predict(IMAGES, verbose=0)
            for m in (again, made)
        )
        assert np.ptp(expected) > 0
        np.testing.assert_array_equal(found, expected)


def test_digests(files):
    folder, _ = files
    path = folder / "whole.weights.h5"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    kacc.pretrained("MobileNet", 5, path, sha256=digest.upper(), **SMALL)
    with pytest.raises(UsageError, match="must have the SHA-256"):
        kacc.pretrained("MobileNet", 5, path, sha256="0" * 64, **SMALL)


def test_a_digest_beside_the_file(files, tmp_path):
    folder, _ = files
    path = tmp_path / "copy.weights.h5"
    path.write_bytes((folder / "whole.weights.h5").read_bytes())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    listed = tmp_path / "copy.weights.h5.sha256"
    listed.write_text(f"{digest}  copy.weights.h5\n")
    kacc.pretrained("MobileNet", 5, path, **SMALL)
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(UsageError, match="must have the SHA-256"):
        kacc.pretrained("MobileNet", 5, path, **SMALL)


def test_without_weights_nothing_is_frozen():
    model = kacc.pretrained("MobileNet", 5, **SMALL)
    assert len(model.trainable_variables) > 2


def test_the_result_is_plain_and_converts_to_int8(files, tmp_path):
    folder, _ = files
    model = kacc.pretrained("MobileNet", 3, folder / "whole.weights.h5", **SMALL)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(IMAGES, np.array([0, 1]), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.predict(IMAGES, verbose=0), model.predict(IMAGES, verbose=0), atol=1e-6
    )
    kacc.quantize(model)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(IMAGES, np.array([0, 1]), verbose=0)
    artifact = kacc.convert(model, tmp_path / "model.tflite", "tflite-int8")
    assert kacc.parity(model, artifact, IMAGES).equal == 1.0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("Nothing", 5), "must be a model of keras.applications"),
        ((None, 5), "must be a model of keras.applications"),
        (("MobileNet", 0), "`classes`"),
        (("MobileNet", 5, "no.weights.h5"), "must exist"),
        (("MobileNet", 5, 5), "path of a file"),
    ],
)
def test_wrong_arguments(arguments, said):
    with pytest.raises(UsageError, match=said):
        kacc.pretrained(*arguments)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"beta": 1}, "Received: 'beta'"),
        ({"classes_": 1}, "must take the options"),
        ({"input_shape": (32, 32)}, "`input_shape`"),
        ({"input_shape": (32, 32, 1)}, "`input_shape`"),
        ({"dropout": 1.0}, "`dropout`"),
        ({"activation": "softmix"}, "`activation`"),
        ({"input_tensor": keras.Input((32, 32, 3))}, "must take the options"),
        ({"sha256": "ab"}, "`sha256` is of a file"),  # nothing that it would check
        ({"weights": "imagenet", "sha256": "ab"}, "`sha256` is of a file"),
        ({"weights": __file__, "sha256": 5}, "hexadecimal"),
        ({"input_shape": (8, 8, 3)}, "must be able to make the model"),
    ],
)
def test_wrong_options(options, said):
    with pytest.raises(UsageError, match=said):
        kacc.pretrained("MobileNet", 5, **options)


def test_in_mixed_precision_the_answers_are_of_32_bits():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = kacc.pretrained("MobileNet", 5, **SMALL)
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.output.dtype == "float32"
    assert model.layers[1].compute_dtype == "bfloat16"


def test_files_of_another_architecture(files, tmp_path):
    folder, _ = files
    with pytest.raises(UsageError, match="must have the weights of"):
        kacc.pretrained("MobileNet", 5, folder / "whole.weights.h5", alpha=0.5)
    with pytest.raises(UsageError, match="must have the weights of"):
        kacc.pretrained("MobileNet", 5, folder / "whole.keras", alpha=0.5)
    broken = tmp_path / "broken.keras"
    broken.write_bytes(b"nothing")
    with pytest.raises(UsageError, match="a model that Keras can load"):
        kacc.pretrained("MobileNet", 5, broken, **SMALL)
    dense = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    dense.save(tmp_path / "dense.keras")
    with pytest.raises(UsageError, match="other shapes"):
        kacc.pretrained("MobileNet", 5, tmp_path / "dense.keras", **SMALL)
