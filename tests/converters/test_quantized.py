"""Models with attached quantization: from `fit` to a file that does the same."""

import os

import keras
import numpy as np
import pytest

import kacc
from kacc.converters import flatbuffer
from kacc.converters.convert import convert
from kacc.converters.parity import parity
from kacc.converters.runtime import host
from kacc.core.errors import KaccError, UsageError
from kacc.quantization import calibrate

layers = keras.layers


def untrained():
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(6, 3, padding="same", use_bias=False, name="stem")(image)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU(name="relu")(x)
    shared = layers.Conv2D(6, 3, padding="same", activation="relu", name="shared")
    y = shared(shared(x))
    x = layers.Add(name="sum")([x, y])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(4, activation="softmax", name="classes")(x)
    return keras.Model(image, x, name="net")


@pytest.fixture(scope="module")
def trained(images):
    keras.utils.set_random_seed(2)
    model = untrained()
    model.compile("adam", "sparse_categorical_crossentropy")
    labels = np.random.default_rng(0).integers(0, 4, len(images))
    model.fit(images, labels, epochs=2, verbose=0)
    kacc.quantize(model)
    model.fit(images, labels, epochs=2, verbose=0)
    return model


@pytest.mark.parametrize(
    ("io", "batch"), [("int8", None), ("float32", None), ("int8", 1), ("int8", 7)]
)
def test_the_file_does_what_the_model_does(trained, images, tmp_path, io, batch):
    artifact = convert(
        trained, tmp_path / "m.tflite", "tflite-int8", io=io, batch=batch
    )
    assert artifact.manifest.scheme == "int8"
    assert artifact.manifest.backend == "tflite"
    assert "calibration_samples" not in artifact.manifest.options
    data = artifact.path.read_bytes()
    assert not list(flatbuffer.float_operators(data, io == "float32"))
    found = parity(trained, artifact, images)
    assert found.largest_lsb == 0
    assert found.equal == 1
    assert found.first_difference is None
    assert {x.layer for x in found.layers} >= {"shared", "sum", "classes"}


@pytest.mark.parametrize("kernels", ["builtin", "reference"])
def test_parity_is_with_the_simulation_by_the_kernels_of_the_file(
    trained, images, tmp_path, kernels
):
    artifact = convert(trained, tmp_path / "m.tflite", "tflite-int8")
    found = parity(trained, artifact, images, kernels)
    assert found.equal == 1
    assert found.first_difference is None
    assert f"{kernels} kernels, {host()}" in str(found)
    # The model itself rounds as XNNPACK does.
    others = artifact.predict(images, kernels=kernels)
    assert not np.array_equal(trained.predict(images, verbose=0), others)


@pytest.mark.parametrize("kernels", ["xnnpack", "reference"])
def test_the_layer_whose_weights_changed_is_named(trained, images, tmp_path, kernels):
    artifact = convert(trained, tmp_path / "m.tflite", "tflite-int8")
    kernel = trained.get_layer("shared").kernel
    before = kernel.numpy()
    kernel.assign(before * 0.5)
    try:
        found = parity(trained, artifact, images, kernels)
        assert found.first_difference.layer == "shared"
        assert found.first_difference.operator == "CONV_2D"
        assert "First layer that differs: shared (CONV_2D, " in str(found)
    finally:
        kernel.assign(before)


def test_the_layer_whose_range_changed_is_named(trained, images, tmp_path):
    artifact = convert(trained, tmp_path / "m.tflite", "tflite-int8")
    pool = trained.get_layer("pool")
    (ends,) = (v for v in pool.variables if v.shape == (2,))
    before = ends.numpy()
    ends.assign(before * 2)
    try:
        assert parity(trained, artifact, images).first_difference.layer == "pool"
    finally:
        ends.assign(before)


def test_converting_changes_nothing_in_the_model(trained, images, tmp_path):
    before = trained.predict(images, verbose=0), trained.get_weights()
    convert(trained, tmp_path / "m.tflite", "tflite-int8", images)
    np.testing.assert_array_equal(trained.predict(images, verbose=0), before[0])
    for got, want in zip(trained.get_weights(), before[1], strict=True):
        np.testing.assert_array_equal(got, want)


def test_ranges_that_no_step_has_seen_need_calibration(images, tmp_path):
    model = kacc.quantize(untrained())
    path = tmp_path / "m.tflite"
    with pytest.raises(UsageError, match=r"must have been seen.*classes") as caught:
        convert(model, path, "tflite-int8")
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []
    artifact = convert(model, path, "tflite-int8", images)
    assert artifact.manifest.options["calibration_samples"] == len(images)
    assert parity(model, artifact, images).equal == 1


@pytest.mark.filterwarnings("ignore:A monitor should compare epochs of one kind")
def test_weights_from_before_the_start_are_named_as_a_reason(images, tmp_path):
    model = untrained()
    model.compile("sgd", "sparse_categorical_crossentropy")
    qat = kacc.callbacks.QuantizationAwareTraining(start_epoch=1)
    best = keras.callbacks.EarlyStopping(
        "epoch", mode="min", restore_best_weights=True, patience=9
    )
    number = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: logs.update(epoch=epoch)
    )
    labels = np.arange(len(images)) % 4
    model.fit(images, labels, epochs=2, verbose=0, callbacks=[qat, number, best])
    with pytest.raises(UsageError, match=r"before quantization began") as caught:
        convert(model, tmp_path / "m.tflite", "tflite-int8")
    for way in ("start_epoch=0", "start_from_epoch", "calibration="):
        assert way in str(caught.value)
    assert "\n" not in str(caught.value)
    convert(model, tmp_path / "m.tflite", "tflite-int8", images)


def test_bad_calibration_of_a_quantized_model(images, tmp_path):
    model = kacc.quantize(untrained())
    with pytest.raises(UsageError, match="must be finite"):
        convert(model, tmp_path / "m.tflite", "tflite-int8", images * np.nan)


@pytest.mark.parametrize(
    "target", ["tflite-float32", "tflite-float16", "tflite-dynamic"]
)
def test_a_scheme_that_does_not_fit_the_target(trained, tmp_path, target):
    with pytest.raises(UsageError, match=r"scheme 'int8'.*kacc\.strip"):
        convert(trained, tmp_path / "m.tflite", target)


def test_a_backend_is_for_plain_models(trained, tmp_path):
    with pytest.raises(UsageError, match="brings its own ranges"):
        convert(trained, tmp_path / "m.tflite", "tflite-int8", backend="ai-edge")


def test_a_stripped_model_is_plain_again(trained, images, tmp_path):
    copy = untrained()
    copy.compile("adam", "sparse_categorical_crossentropy")
    kacc.quantize(copy)
    kacc.strip(copy)
    artifact = convert(copy, tmp_path / "m.tflite", "tflite-float32")
    np.testing.assert_allclose(artifact.predict(images), copy(images), atol=1e-5)


def test_tensors_inside_a_layer_are_not_its_output(images, tmp_path):
    """A depthwise result, or what a swish gates, has the shape of the layer's end."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.SeparableConv2D(3, 3, padding="same", name="separable"),
            layers.Conv2D(3, 1, activation="swish", name="gated"),
        ]
    )
    kacc.quantize(model)
    artifact = convert(model, tmp_path / "m.tflite", "tflite-int8", calibration=images)
    table = {row.layer: row for row in parity(model, artifact, images).layers}
    assert {"separable", "gated"} <= set(table)
    assert not [row for row in table.values() if row.differs]


def test_products_that_xnnpack_does_not_scale(tmp_path):
    """It refuses a file where a sum of products is multiplied by 256 and more."""
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1, use_bias=False)])
    model.layers[0].kernel.assign([[1000.0], [-1000.001]])
    x = np.repeat(np.linspace(-1, 1, 64, dtype="float32")[:, None], 2, axis=1)
    kacc.quantize(model)
    calibrate(model, [x])
    artifact = kacc.convert(model, tmp_path / "model.tflite", "tflite-int8")
    assert artifact.predict(x, kernels="builtin").shape == (64, 1)
    with pytest.raises(KaccError, match=r"LiteRT can run.*builtin"):
        artifact.predict(x)
