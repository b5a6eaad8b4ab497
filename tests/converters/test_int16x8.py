"""The target tflite-int16x8: types, biases, constants, plain models, parity."""

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

import kacc
from kacc.converters import flatbuffer, widen
from kacc.converters.artifact import open_artifact
from kacc.converters.convert import convert
from kacc.core.errors import ConversionError, UsageError
from kacc.quantization import calibrate

layers = keras.layers


def quantized(model, x):
    kacc.quantize(model, "int16x8")
    calibrate(model, [x])
    return model


def dense(**options):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((7,), name="x")
    return keras.Sequential([inputs, layers.Dense(4, name="out", **options)])


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(64, 7)).astype("float32")


@pytest.fixture(scope="module")
def model(x):
    return quantized(dense(activation="relu"), x)


@pytest.fixture(scope="module")
def artifact(model, tmp_path_factory):
    return convert(model, tmp_path_factory.mktemp("f") / "m.tflite", "tflite-int16x8")


def constants(artifact):
    """Tensors of a file that hold numbers: type -> arrays."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(artifact.read(), 0))
    dtypes = {7: np.int16, 9: np.int8, 4: np.int64}
    found = {}
    for tensor in model.subgraphs[0].tensors:
        content = model.buffers[tensor.buffer].data
        if content is not None and tensor.type in dtypes:
            numbers = np.frombuffer(bytes(content), dtypes[tensor.type])
            scale = tensor.quantization and tensor.quantization.scale
            found.setdefault(tensor.type, []).append((numbers, scale))
    return found


def test_integers_go_in_and_out_by_default(artifact, model, x):
    info = artifact.manifest.outputs[0]
    assert (info.dtype, info.zero_point) == ("int16", 0)
    assert artifact.manifest.options["io"] == "int16"
    raw = artifact.predict(artifact.feeds([x])[0], raw=True)
    assert raw.dtype == np.int16
    np.testing.assert_array_equal(
        raw * np.float32(info.scale), model.predict(x, verbose=0)
    )


def test_floats_go_in_and_out_if_asked(artifact, model, x, tmp_path):
    floats = convert(model, tmp_path / "m.tflite", "tflite-int16x8", io="float32")
    assert floats.manifest.inputs[0].dtype == "float32"
    assert floats.manifest.outputs[0].integers == "int16"
    np.testing.assert_array_equal(floats.predict(x), artifact.predict(x))
    parity = kacc.parity(model, floats, x)
    assert (parity.equal, parity.largest_lsb) == (1.0, 0)
    other = quantized(dense(activation="relu", kernel_initializer="ones"), x)
    assert kacc.parity(other, floats, x).largest_lsb > 127


def test_other_types_are_refused(model, tmp_path):
    path = tmp_path / "m.tflite"
    with pytest.raises(UsageError, match=r"`io` must be one of .*int16.*'int8'"):
        convert(model, path, "tflite-int16x8", io="int8")
    with pytest.raises(UsageError, match="'int16x8'"):
        convert(model, path, "tflite-int8")


def test_a_plain_model_is_calibrated(model, artifact, x, tmp_path):
    plain = dense(activation="relu")
    made = convert(plain, tmp_path / "m.tflite", "tflite-int16x8", x)
    assert made.manifest.backend == "kacc"
    assert kacc.quantization.scheme_of(plain) is None
    np.testing.assert_array_equal(made.predict(x), artifact.predict(x))
    np.testing.assert_allclose(made.predict(x), plain.predict(x, verbose=0), atol=0.02)


def test_a_dense_without_bias_gets_one(x, tmp_path):
    """Without it LiteRT sums in 32 bits, which 600 products of 16 bits overflow."""
    wide = keras.Sequential(
        [
            keras.Input((600,)),
            layers.Dense(3, use_bias=False, kernel_initializer="ones"),
        ]
    )
    ones = np.ones((4, 600), "float32")
    made = convert(quantized(wide, ones), tmp_path / "m.tflite", "tflite-int16x8")
    for kernels in ("xnnpack", "builtin", "reference"):
        np.testing.assert_allclose(made.predict(ones, kernels=kernels), 600, rtol=1e-4)
    ((bias, _),) = constants(made)[schema.TensorType.INT64]
    assert bias.tolist() == [0, 0, 0]


def test_a_bias_may_need_more_than_32_bits(x, tmp_path):
    """The converter widens the scale of such weights, and so loses them."""
    model = dense()
    kernel, bias = model.get_weights()
    kernel[:, 1] *= 1e-6
    bias[:] = [0.1, 3.0, -2.0, 5.0]
    model.set_weights([kernel, bias])
    made = convert(quantized(model, x), tmp_path / "m.tflite", "tflite-int16x8")
    np.testing.assert_array_equal(made.predict(x), model.predict(x, verbose=0))
    ((bias, _),) = constants(made)[schema.TensorType.INT64]
    assert np.abs(bias).max() > 2**31
    ((weights, _),) = constants(made)[schema.TensorType.INT8]
    assert np.abs(weights.reshape(4, 7)).max(1).tolist() == [127] * 4


@pytest.mark.parametrize("scheme", ["int8", "int16x8"])
def test_a_normalization_may_have_a_large_offset(scheme, x, tmp_path):
    """The converter widens the scale of its weights until the bias fits."""
    model = keras.Sequential(
        [
            keras.Input((7,)),
            layers.Dense(8, activation="relu"),
            layers.BatchNormalization(),
        ]
    )
    gamma = np.float32(10) ** np.linspace(-1, -11, 8)
    beta = np.float32([1, 2.01, -3, 0.1, 5, -0.71, 0.21, 9])
    model.layers[1].set_weights([gamma, beta, np.zeros(8), np.ones(8)])
    kacc.quantize(model, scheme)
    calibrate(model, [x])
    made = convert(model, tmp_path / "m.tflite", f"tflite-{scheme}")
    for kernels in ("xnnpack", "builtin"):
        want = kacc.simulate(model, kernels)(x)
        np.testing.assert_array_equal(made.predict(x, kernels=kernels), want)


def test_add_equals_its_file_on_a_million_sums(tmp_path):
    """LiteRT's own kernel rounds terms once, the reference twice: 9 in a million."""
    rng = np.random.default_rng(0)
    one, two = keras.Input((1000,)), keras.Input((1000,))
    model = keras.Model([one, two], [layers.Add()([one, two]), layers.Dense(2)(one)])
    x = [(s * rng.normal(size=(64, 1000))).astype("float32") for s in (1, 2.7)]
    made = convert(quantized(model, x), tmp_path / "m.tflite", "tflite-int16x8")
    raw = [rng.integers(-32768, 32768, (1000, 1000)).astype(np.int16) for _ in x]
    infos = made.manifest.inputs
    real = [r * np.float32(i.scale) for r, i in zip(raw, infos, strict=True)]
    files = {}
    for kernels in ("xnnpack", "builtin", "reference"):
        files[kernels] = made.predict(real, kernels=kernels)[0]
        want = kacc.simulate(model, kernels)(real)[0]
        np.testing.assert_array_equal(files[kernels], want, err_msg=kernels)
    assert (files["builtin"] != files["reference"]).any()


def test_constant_operands_keep_16_bits(x, tmp_path):
    offsets = np.float32([100.0, 0.013, -3.7, 55.5, 1e-3, 0.2, -99.0])
    inputs = keras.Input((7,))
    model = keras.Model(inputs, layers.Dense(2)(inputs + offsets))
    made = convert(quantized(model, x), tmp_path / "m.tflite", "tflite-int16x8")
    ((numbers, scale),) = constants(made)[schema.TensorType.INT16]
    np.testing.assert_allclose(numbers * scale[0], offsets, atol=100 / 65534 * 1.01)
    np.testing.assert_array_equal(made.predict(x), model.predict(x, verbose=0))


def test_constants_with_the_same_8_bits_are_told_apart(x, tmp_path):
    """By the layer, or else by how near they are."""
    inputs = keras.Input((7,))
    first = np.float32([1.0, 0.5, 0.3, 0.1, -0.2, 0.7, 0.9])
    second = first + np.float32([0, 1e-3, 0, -1e-3, 0, 1e-3, 0])
    model = keras.Model(inputs, layers.Dense(2)((inputs + first) * 0.5 + second))
    made = convert(quantized(model, x), tmp_path / "m.tflite", "tflite-int16x8")
    np.testing.assert_array_equal(made.predict(x), model.predict(x, verbose=0))


def test_an_unknown_constant_is_an_error(x, tmp_path, monkeypatch):
    inputs = keras.Input((7,))
    model = quantized(keras.Model(inputs, layers.Dense(2)(inputs + 0.3)), x)
    widened = widen.with_wide_activations
    monkeypatch.setattr(
        "kacc.converters.tflite.with_wide_activations",
        lambda data, constants: widened(data, ()),
    )
    with pytest.raises(ConversionError, match="must be one of the model's"):
        convert(model, tmp_path / "m.tflite", "tflite-int16x8")


def test_versions_and_options_are_those_of_16_bits(x, tmp_path):
    inputs = keras.Input((7,))
    model = keras.Model(inputs, layers.Dense(7)(inputs) + inputs)
    made = convert(quantized(model, x), tmp_path / "m.tflite", "tflite-int16x8")
    found = schema.ModelT.InitFromObj(schema.Model.GetRootAs(made.read(), 0))
    codes = {c.builtinCode: c.version for c in found.operatorCodes}
    assert codes[schema.BuiltinOperator.ADD] == 3
    add = found.subgraphs[0].operators[-1]
    assert add.builtinOptions.potScaleInt16 is False


def test_a_file_of_another_program_is_recognized(artifact, tmp_path):
    path = tmp_path / "other.tflite"
    found = schema.ModelT.InitFromObj(schema.Model.GetRootAs(artifact.read(), 0))
    found.metadata = []
    path.write_bytes(flatbuffer.pack(found, 10_000))
    assert open_artifact(path).target == "tflite-int16x8"


def test_what_a_rule_skips_stays_in_float(x, tmp_path):
    inputs = keras.Input((7,))
    hidden = layers.Dense(6, name="hidden")(inputs)
    outputs = layers.Dense(2)(layers.Dense(6, name="apart")(hidden))
    model = keras.Model(inputs, outputs)
    kacc.quantize(model, "int16x8", rules=[kacc.Rule("apart", skip=True)])
    calibrate(model, [x])
    with pytest.warns(UserWarning, match="computes in float"):
        made = convert(model, tmp_path / "m.tflite", "tflite-int16x8")
    types = {t.type for t in flatbuffer.subgraphs(made.read())[0].tensors}
    assert {"FLOAT32", "INT16"} <= types
    np.testing.assert_allclose(made.predict(x), model.predict(x, verbose=0), atol=2e-4)
