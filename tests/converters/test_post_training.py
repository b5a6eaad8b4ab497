"""Plain models that kacc quantizes itself: ranges, rules, what the manifest says."""

import keras
import numpy as np
import pytest

import kacc
from kacc.converters.convert import convert
from kacc.converters.post_training import PostTraining
from kacc.core.errors import ConversionError, UsageError
from kacc.quantization import Ranges, calibrate, simulate
from kacc.quantization.copies import quantized_copy

layers = keras.layers


@pytest.fixture(scope="module")
def outlier(images):
    """Images of which one has a pixel far beyond the others."""
    x = images.copy()
    x[3, 2, 1, 0] = 300
    return x


def backend_of(artifact):
    return artifact.manifest.backend


@pytest.mark.parametrize(
    ("ranges", "noted"),
    [
        ("minmax", None),
        ("mse", "mse"),
        ("percentile", {"method": "percentile", "percentile": 99.99}),
        (Ranges("percentile", 99.0), {"method": "percentile", "percentile": 99.0}),
    ],
)
def test_the_file_is_that_of_the_copy(model, outlier, tmp_path, ranges, noted):
    artifact = convert(
        model,
        tmp_path / "m.tflite",
        "tflite-int8",
        outlier,
        ranges=ranges,
        backend="kacc",
    )
    copy = quantized_copy(model)
    calibrate(copy, [outlier], ranges)
    want = simulate(copy).predict(outlier, verbose=0)
    np.testing.assert_array_equal(artifact.predict(outlier), want)
    assert backend_of(artifact) == "kacc"
    assert artifact.manifest.scheme is None
    assert artifact.manifest.options.get("ranges") == noted
    assert artifact.manifest.options["calibration_samples"] == len(outlier)
    assert kacc.quantization.scheme_of(model) is None


def test_other_ranges_than_extremes_are_kaccs(model, outlier, images, tmp_path):
    files = {
        ranges: convert(
            model, tmp_path / "m.tflite", "tflite-int8", outlier, ranges=ranges
        ).predict(images)
        for ranges in ("minmax", "mse", Ranges("percentile", 99.9))
    }
    want = np.asarray(model(images))
    errors = [np.square(got - want).mean() for got in files.values()]
    assert min(errors[1:]) < errors[0] / 4


def test_ranges_of_a_quantized_model_that_was_not_trained(images, outlier, tmp_path):
    def quantized():
        keras.utils.set_random_seed(8)
        return kacc.quantize(
            keras.Sequential(
                [keras.Input((8, 8, 3)), layers.Flatten(), layers.Dense(3, name="head")]
            )
        )

    model, ranges = quantized(), Ranges("percentile", 99.9)
    artifact = convert(
        model, tmp_path / "m.tflite", "tflite-int8", outlier, ranges=ranges
    )
    assert artifact.manifest.options["ranges"]["percentile"] == 99.9
    assert artifact.manifest.scheme == "int8"
    (image,) = artifact.manifest.inputs
    (by_extremes,) = convert(
        quantized(), tmp_path / "n.tflite", "tflite-int8", outlier
    ).manifest.inputs
    assert image.scale < by_extremes.scale / 2
    with pytest.raises(UsageError, match="this model has learned its ranges"):
        convert(model, tmp_path / "m.tflite", "tflite-int8", outlier, ranges="mse")


def test_a_model_that_kacc_cannot_quantize_has_other_backends(tmp_path):
    """Raw TensorFlow functions in a `call` are no layers to kacc."""
    import tensorflow as tf

    class Raw(keras.Model):
        def __init__(self):
            super().__init__()
            self.head = layers.Dense(2, name="head")

        def call(self, x):
            return tf.nn.relu(self.head(x)) + 1.0

    model, x = Raw(), np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    model(x)
    path = tmp_path / "m.tflite"
    assert backend_of(convert(model, path, "tflite-int8", x)) in ("tflite", "ai-edge")
    with pytest.raises(UsageError, match="must run on symbolic tensors"):
        convert(model, path, "tflite-int8", x, backend="kacc")


def test_layers_that_only_other_backends_quantize(images, tmp_path):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(2, 3, name="conv"),
            layers.GroupNormalization(1, name="norm"),
        ]
    )
    path = tmp_path / "m.tflite"
    with pytest.raises(ConversionError, match=r"in float: .* from norm"):
        convert(model, path, "tflite-int8", images, backend="kacc")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ranges": "max"}, "`ranges` must be one of minmax, percentile, mse"),
        ({"ranges": None}, "`ranges` must be one of"),
        ({"rules": ["conv"]}, r"`rules` must be kacc\.Rule objects"),
        ({"rules": [kacc.Rule("conf", skip=True)]}, "A rule must match a layer"),
        ({"ranges": "mse", "backend": "tflite"}, "Only the backend 'kacc' takes `ran"),
        ({"ranges": "mse", "target": "tflite-float16"}, "Only targets of integers"),
        ({"target": "tflite-dynamic", "rules": [kacc.Rule("conv")]}, "take `rules`"),
    ],
)
def test_wrong_calls(model, images, tmp_path, options, message):
    call = {"target": "tflite-int8", "calibration": images, **options}
    with pytest.raises(UsageError, match=message) as caught:
        convert(model, tmp_path / "m.tflite", **call)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_rules_are_for_plain_models(images, tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(2, 3, name="conv")])
    kacc.quantize(model)
    with pytest.raises(UsageError, match=r"Only a plain model.*`rules`.*kacc\.quan"):
        convert(
            model,
            tmp_path / "m.tflite",
            "tflite-int8",
            images,
            rules=[kacc.Rule("conv", skip=True)],
        )


def test_options_as_the_manifest_has_them():
    rule = kacc.Rule("head", skip=True)
    given = PostTraining("mse", [rule]).given
    assert set(given) == {"ranges", "rules"}
    assert given["ranges"] == "mse"
    assert given["rules"][0] == {"pattern": "head", "skip": True}
    assert PostTraining().given == {}


@pytest.mark.parametrize("bits", [None, 4])
def test_weights_of_four_bits(model, images, tmp_path, bits):
    """Only kacc quantizes plain models so; rules say what the first layers get."""
    rules = [kacc.Rule(".*", bits=bits)] if bits else []
    path = tmp_path / "m.tflite"
    artifact = convert(model, path, "tflite-w4a8", images, rules=rules)
    copy = quantized_copy(model, "w4a8", rules)
    calibrate(copy, [images])
    want = simulate(copy).predict(images, verbose=0)
    np.testing.assert_array_equal(artifact.predict(images), want)
    assert backend_of(artifact) == "kacc"
    assert artifact.manifest.scheme is None


@pytest.mark.parametrize(
    "options", [{"rounding": "floor"}, {"rounding": None}, {"rounding": True}]
)
def test_wrong_roundings(model, images, tmp_path, options):
    with pytest.raises(UsageError, match="`rounding` must be 'nearest', 'adaround'"):
        convert(model, tmp_path / "m.tflite", "tflite-int8", images, **options)
