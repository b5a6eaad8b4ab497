"""`kacc.convert` on models of tf_keras, plain and wrapped by tfmot."""

import os

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras

import kacc
from kacc.converters import flatbuffer
from kacc.converters.artifact import open_artifact
from kacc.converters.trace import freeze
from kacc.core.errors import ConversionError, UsageError
from tests.converters import tfmot_models as models

L = tf_keras.layers
TARGETS = {"tflite-float32": 1e-6, "tflite-float16": 2e-3, "tflite-dynamic": 2e-2}
KINDS = (models.functional, models.sequential, models.nested)


@pytest.fixture(scope="module")
def images():
    return models.images()


@pytest.fixture(scope="module")
def quantized():
    return models.quantized()


@pytest.fixture(scope="module")
def pruned():
    return models.pruned()


@pytest.fixture(scope="module")
def clustered():
    return models.clustered()


def values(model):
    return [variable.numpy() for variable in model.variables]


def predict(model, images):
    return model.predict(images, verbose=0)


def by_tfmot(model, path):
    """The file as tfmot's documentation says to make it."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    path.write_bytes(converter.convert())
    return open_artifact(path)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("make", "target"),
    [
        *((models.functional, target) for target in TARGETS),
        (models.sequential, "tflite-float32"),
        (models.nested, "tflite-float16"),
    ],
)
def test_float_targets(make, target, images, tmp_path):
    model = models.trained(make())
    artifact = kacc.convert(model, tmp_path / "m.tflite", target)
    want = predict(model, images)
    np.testing.assert_allclose(artifact.predict(images), want, atol=TARGETS[target])
    assert artifact.target == target
    assert artifact.manifest.inputs[0].name == model.input_names[0]
    assert artifact.manifest.outputs[0].name == "out"
    assert kacc.parity(model, artifact, images).first_difference is None


@pytest.mark.parametrize("make", KINDS)
def test_int8_by_calibration(make, images, tmp_path):
    model = models.trained(make())
    artifact = kacc.convert(model, tmp_path / "m.tflite", "tflite-int8", images)
    assert not list(flatbuffer.float_operators(artifact.read(), float_io=False))
    parity = kacc.parity(model, artifact, images)
    assert parity.within_one > 0.9
    assert {row.layer for row in parity.layers} >= {"out"}
    measured = kacc.measure(artifact, images, models.LABELS)
    want = kacc.measure(model, images, models.LABELS)
    assert measured.accuracy == pytest.approx(want.accuracy, abs=0.1)
    assert want.size_bytes == 4 * sum(w.size for w in model.get_weights())


def test_layers_are_known_by_their_paths():
    graph = freeze(models.nested())
    assert graph.layer_of("outer/block/conv/Conv2D") == "block/conv"
    assert graph.layer_of("outer/out/MatMul") == "out"
    assert graph.layer_of("outer/Sum") is None


def test_a_layer_called_like_an_operation(images):
    """tf.add opens a scope "add" of its own inside the layer add."""
    image = tf_keras.Input((8, 8, 3))
    model = tf_keras.Model(image, L.Add(name="add")([image, image]), name="net")
    assert set(freeze(model).layers.values()) == {"", "add"}


def test_operators_that_stay_float_are_listed_with_their_layers(images, tmp_path):
    layers = [L.Conv2D(2, 3, name="conv"), L.ELU(name="first"), L.ELU(name="second")]
    model = tf_keras.Sequential([L.Input((8, 8, 3)), *layers])
    with pytest.raises(ConversionError, match="ELU from first, ELU from second"):
        kacc.convert(model, tmp_path / "m.tflite", "tflite-int8", images)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("make", [models.functional, models.sequential])
def test_trained_ranges_are_those_of_the_file(make, images, tmp_path):
    """Without calibration, and as tfmot's own way makes it: to the bit."""
    model = models.quantized(make)
    before = values(model)
    artifact = kacc.convert(model, tmp_path / "m.tflite", "tflite-int8")
    reference = by_tfmot(model, tmp_path / "reference.tflite")
    assert artifact.manifest.scheme == "int8"
    assert artifact.manifest.inputs == reference.manifest.inputs
    assert artifact.manifest.outputs == reference.manifest.outputs
    raw = artifact.feeds([images])
    np.testing.assert_array_equal(
        artifact.predict(raw[0], raw=True), reference.predict(raw[0], raw=True)
    )
    (entry,) = (x for x in model.layers if type(x).__name__ == "QuantizeLayer")
    low, high = (float(variable) for variable in entry.weights[:2])
    scale = artifact.manifest.inputs[0].scale
    assert scale == pytest.approx((high - low) / 255, rel=1e-4)
    parity = kacc.parity(model, artifact, images)
    assert parity.within_one > 0.95  # tfmot's graph is not the file's arithmetic
    assert parity.argmax_agreement > 0.95
    for a, b in zip(before, values(model), strict=True):
        np.testing.assert_array_equal(a, b)


def test_calibration_leaves_trained_ranges_alone(quantized, images, tmp_path):
    files = [
        kacc.convert(quantized, tmp_path / "m.tflite", "tflite-int8", data).predict(
            images
        )
        for data in (None, 9 * images)
    ]
    np.testing.assert_array_equal(*files)


def test_calibration_fills_in_for_layers_that_were_not_annotated(images, tmp_path):
    model = models.annotated("conv_1", "out")
    path = tmp_path / "m.tflite"
    with pytest.raises(ConversionError, match=r"CONV_2D from relu.*calibration"):
        kacc.convert(model, path, "tflite-int8")
    artifact = kacc.convert(model, path, "tflite-int8", images)
    assert not list(flatbuffer.float_operators(artifact.read(), float_io=False))
    np.testing.assert_allclose(
        artifact.predict(images), predict(model, images), atol=0.05
    )
    ranges = {
        v.name.split("/")[1]: float(v)
        for v in model.get_layer("quant_conv_1").weights
        if "activation" in v.name
    }
    trained = (ranges["post_activation_max:0"] - ranges["post_activation_min:0"]) / 255
    scales = [t.scale for t in flatbuffer.subgraphs(artifact.read())[0].tensors]
    assert any(s is not None and abs(s - trained) < 1e-6 * trained for s in scales)


def test_ranges_that_no_training_has_seen(tmp_path, images):
    model = models.quantization.quantize_model(models.functional())
    with pytest.raises(UsageError, match=r"seen in train.*quant_conv.*from_tf_keras"):
        kacc.convert(model, tmp_path / "m.tflite", "tflite-int8", images)


@pytest.mark.parametrize("target", TARGETS)
def test_float_targets_of_a_quantized_model_are_refused(quantized, target, tmp_path):
    with pytest.raises(UsageError, match=r"kacc\.from_tf_keras\(model\) first"):
        kacc.convert(quantized, tmp_path / "m.tflite", target)


def test_other_bits_are_refused(tmp_path):
    scheme = tfmot.quantization.keras.experimental.default_n_bit
    chosen = scheme.DefaultNBitQuantizeScheme(num_bits_weight=4)
    with models.quantization.quantize_scope(
        {"DefaultNBitQuantizeScheme": scheme.DefaultNBitQuantizeScheme}
    ):
        annotated = models.quantization.quantize_annotate_model(models.functional())
        model = models.quantization.quantize_apply(annotated, chosen)
    with pytest.raises(ConversionError, match=r"of 8 bits.*quant_conv \(4 bits\)"):
        kacc.convert(model, tmp_path / "m.tflite", "tflite-int8")


@pytest.mark.sampled(3)
@pytest.mark.parametrize("target", [*TARGETS, "tflite-int8"])
def test_pruned_before_and_after_stripping(pruned, target, images, tmp_path):
    before = values(pruned)
    wrapped = kacc.convert(pruned, tmp_path / "a.tflite", target, images)
    for a, b in zip(before, values(pruned), strict=True):
        np.testing.assert_array_equal(a, b)
    stripped = models.sparsity.strip_pruning(pruned)
    plain = kacc.convert(stripped, tmp_path / "b.tflite", target, images)
    np.testing.assert_array_equal(wrapped.predict(images), plain.predict(images))
    atol = TARGETS.get(target, 0.05)
    np.testing.assert_allclose(
        wrapped.predict(images), predict(pruned, images), atol=atol
    )


def test_the_mask_counts_where_the_weights_have_moved_on(images, tmp_path):
    """The last step of training changes weights after the mask was applied."""
    model = models.pruned()
    layer = model.get_layer("prune_low_magnitude_out")
    ((kernel, mask, _),) = layer.pruning_vars
    kernel.assign_add(np.ones(kernel.shape))
    moved = kernel.numpy()
    artifact = kacc.convert(model, tmp_path / "m.tflite", "tflite-float32")
    np.testing.assert_array_equal(kernel, moved)
    assert (np.asarray(mask) == 0).any()
    got = artifact.predict(images)
    np.testing.assert_allclose(got, predict(model, images), atol=1e-6)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("target", [*TARGETS, "tflite-int8"])
def test_clustered_before_and_after_stripping(clustered, target, images, tmp_path):
    wrapped = kacc.convert(clustered, tmp_path / "a.tflite", target, images)
    np.testing.assert_allclose(
        wrapped.predict(images),
        predict(clustered, images),
        atol=TARGETS.get(target, 0.05),
    )
    stripped = models.clustering.strip_clustering(clustered)
    plain = kacc.convert(stripped, tmp_path / "b.tflite", target, images)
    np.testing.assert_array_equal(wrapped.predict(images), plain.predict(images))


def test_nested_pruned_and_clustered(images, tmp_path):
    for model in (models.pruned(models.nested), models.clustered(models.nested)):
        artifact = kacc.convert(model, tmp_path / "m.tflite", "tflite-float32")
        want = predict(model, images)
        np.testing.assert_allclose(artifact.predict(images), want, atol=1e-5)
        new = kacc.from_tf_keras(model)
        np.testing.assert_allclose(new(images), want, atol=1e-5)


def test_quantized_after_pruning(pruned, images, tmp_path):
    scheme = tfmot.experimental.combine.Default8BitPrunePreserveQuantizeScheme()
    plain = models.sparsity.strip_pruning(pruned)
    annotated = models.quantization.quantize_annotate_model(plain)
    model = models.trained(models.quantization.quantize_apply(annotated, scheme))
    artifact = kacc.convert(model, tmp_path / "m.tflite", "tflite-int8")
    reference = by_tfmot(model, tmp_path / "reference.tflite")
    np.testing.assert_array_equal(artifact.predict(images), reference.predict(images))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("sparse", [True, False])
def test_quantized_after_clustering(sparse, clustered, images, tmp_path):
    scheme = tfmot.experimental.combine.Default8BitClusterPreserveQuantizeScheme(sparse)
    plain = models.clustering.strip_clustering(clustered)
    annotated = models.quantization.quantize_annotate_model(plain)
    model = models.trained(models.quantization.quantize_apply(annotated, scheme))
    artifact = kacc.convert(model, tmp_path / "m.tflite", "tflite-int8")
    reference = by_tfmot(model, tmp_path / "reference.tflite")
    np.testing.assert_array_equal(artifact.predict(images), reference.predict(images))


def test_subclassed_models(images, tmp_path):
    model = models.Subclassed()
    path = tmp_path / "m.tflite"
    with pytest.raises(UsageError, match=r"must be built.*Subclassed 'sub'"):
        kacc.convert(model, path, "tflite-float32")
    want = model(images)
    for target, atol in (("tflite-float32", 1e-5), ("tflite-int8", 0.1)):
        artifact = kacc.convert(model, path, target, images)
        assert [x.name for x in artifact.manifest.outputs] == ["mean", "scores"]
        got = artifact.predict(images)
        for name in want:
            np.testing.assert_allclose(got[name], want[name], atol=atol)
    assert kacc.parity(model, artifact, images).within_one > 0.9


def test_several_inputs_and_outputs(images, tmp_path):
    image, extra = (
        tf_keras.Input((8, 8, 3), name="image"),
        tf_keras.Input((4,), name="extra"),
    )
    x = L.GlobalAveragePooling2D()(image)
    outputs = [L.Dense(2, name="b")(x), L.Dense(3, name="a")(extra)]
    model = tf_keras.Model({"image": image, "extra": extra}, outputs)
    data = {"image": images, "extra": images[:, 0, :4, 0]}
    artifact = kacc.convert(model, tmp_path / "m.tflite", "tflite-float32")
    assert [x.name for x in artifact.manifest.outputs] == ["b", "a"]
    for a, b in zip(artifact.predict(data), predict(model, data), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_models_become_float32_files(policy, images, tmp_path):
    tf_keras.mixed_precision.set_global_policy(policy)
    try:
        model = models.functional()
    finally:
        tf_keras.mixed_precision.set_global_policy("float32")
    artifact = kacc.convert(model, tmp_path / "m.tflite", "tflite-float32")
    assert model.layers[1].dtype_policy.name == policy
    want = np.asarray(predict(model, images)).astype("float32")
    np.testing.assert_allclose(artifact.predict(images), want, atol=0.02)
    plain = models.functional()
    np.testing.assert_allclose(
        artifact.predict(images), predict(plain, images), atol=1e-6
    )


def test_recurrent_layers_want_a_fixed_batch_size(tmp_path):
    model = tf_keras.Sequential([L.Input((7, 5)), L.LSTM(4), L.Dense(2)])
    path = tmp_path / "m.tflite"
    with pytest.raises(ConversionError, match="batch=1"):
        kacc.convert(model, path, "tflite-float32")
    x = np.random.default_rng(0).normal(size=(9, 7, 5)).astype("float32")
    artifact = kacc.convert(model, path, "tflite-float32", batch=1)
    np.testing.assert_allclose(artifact.predict(x), predict(model, x), atol=1e-6)


@pytest.mark.parametrize("make", [models.functional, models.sequential])
def test_wrappers_come_off_in_keras_3(make, images):
    for wrapped in (models.pruned(make), models.clustered(make)):
        new = kacc.from_tf_keras(wrapped)
        np.testing.assert_allclose(new(images), predict(wrapped, images), atol=1e-5)
        assert [layer.name for layer in new.layers if layer.weights] == [
            layer.name for layer in make().layers if layer.weights
        ]


@pytest.mark.parametrize("make", [models.functional, models.sequential])
def test_the_float_model_inside_a_quantized_one(make, images):
    plain = models.trained(make())
    wrapped = models.quantization.quantize_model(plain)
    new = kacc.from_tf_keras(wrapped)
    np.testing.assert_allclose(new(images), predict(plain, images), atol=1e-5)
    kacc.quantize(new)
