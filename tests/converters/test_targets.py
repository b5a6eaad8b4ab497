"""The targets beyond TFLite: converted, opened again, run, and refused alike."""

import json
import os
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
from keras import layers

import kacc
from kacc.converters import xla
from kacc.converters.artifact import open_artifact
from kacc.converters.warmup import warmup_requests
from kacc.core.manifest import TensorInfo

FLOAT = {
    "xla-cpu": "served",
    "xla-gpu": "served",
    "xla-tpu": "served",
    "stablehlo": "module",
    "onnx": "model.onnx",
}


def residual():
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Rescaling(1 / 255.0, offset=-0.5)(image)
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(x)
    x = layers.BatchNormalization(name="norm")(x)
    y = layers.Activation("swish")(x)  # which brings a gradient of its own
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(y)
    x = layers.Add()([x, y])
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(4, activation="softmax", name="scores")(x))


def two_inputs():
    left, right = keras.Input((6,), name="left"), keras.Input((3,), name="right")
    x = layers.Concatenate()([left, right])
    outputs = {"sum": layers.Dense(2)(x), "gate": layers.Dense(1, "sigmoid")(x)}
    return keras.Model({"right": right, "left": left}, outputs)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.conv, self.head = layers.Conv1D(4, 3), layers.Dense(3)

    def call(self, x):
        return self.head(keras.ops.mean(keras.ops.relu(self.conv(x)) + 1.0, axis=1))


def transformer():
    tokens = keras.Input((12,), dtype="int32", name="tokens")
    x = layers.Embedding(50, 16)(tokens)
    y = layers.MultiHeadAttention(2, 8)(x, x)
    x = layers.LayerNormalization()(x + y)
    y = layers.Dense(16)(layers.Dense(32, activation="gelu")(x))
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x + y))
    return keras.Model(tokens, layers.Dense(2)(x))


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 10, 5), "float32"))
    return model


MODELS = {f.__name__: f for f in (residual, two_inputs, subclassed, transformer)}


def samples(name, count=5):
    random = np.random.default_rng(0)
    if name == "two_inputs":
        return {
            "left": random.normal(size=(count, 6)).astype("float32"),
            "right": random.normal(size=(count, 3)).astype("float32"),
        }
    if name == "transformer":
        return random.integers(0, 50, (count, 12)).astype("int32")
    if name == "subclassed":
        return random.normal(size=(count, 10, 5)).astype("float32")
    return random.uniform(0, 255, (count, 8, 8, 3)).astype("float32")


@pytest.fixture(scope="module")
def models():
    made = {name: build() for name, build in MODELS.items()}
    random = np.random.default_rng(1)
    norm = made["residual"].get_layer("norm")
    norm.set_weights([random.uniform(0.5, 2, w.shape) for w in norm.get_weights()])
    return made


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("target", FLOAT)
def test_outputs_are_those_of_keras(target, name, models, tmp_path):
    model, x = models[name], samples(name)
    artifact = kacc.convert(model, tmp_path / FLOAT[target], target)
    again = open_artifact(tmp_path / FLOAT[target])
    assert again.manifest == artifact.manifest
    assert again.path == artifact.path
    parity = kacc.parity(model, again, x)
    assert parity.max_rel < 1e-5
    assert parity.samples == 5
    assert "layer" not in str(parity)  # which these files do not tell
    expected = model.predict(x, verbose=0)
    found = again.predict(x)
    assert type(found) is type(expected)
    keras.tree.map_structure(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected
    )


@pytest.mark.parametrize("target", FLOAT)
def test_a_file_lists_its_operators(target, models, tmp_path):
    artifact = kacc.convert(models["residual"], tmp_path / FLOAT[target], target)
    rows = artifact.operations()
    macs = kacc.measure(models["residual"], samples("residual")).macs
    assert sum(row.macs for row in rows) == macs
    assert kacc.measure(artifact, samples("residual")).macs == macs
    stem = [row for row in rows if row.layer == "stem" and row.macs]
    assert [row.macs for row in stem] == [8 * 8 * 27 * 8]
    assert stem[0].bytes >= 27 * 8 * 4
    assert artifact.size_bytes > 27 * 8 * 4


def test_a_shared_weight_counts_once(tmp_path):
    dense = layers.Dense(6, use_bias=False)
    x = keras.Input((6,))
    model = keras.Model(x, dense(keras.ops.relu(dense(x))))
    for target in ("stablehlo", "onnx"):
        rows = kacc.convert(model, tmp_path / FLOAT[target], target).operations()
        assert sum(row.bytes for row in rows) == 6 * 6 * 4
        assert sum(row.macs for row in rows) == 2 * 6 * 6


# What a process that has neither kacc nor Keras does with each.
READERS = {
    "xla-cpu": """
        import tensorflow as tf
        function = tf.saved_model.load(path).signatures[signature]
        found = function(image=tf.constant(x))["scores"].numpy()
    """,
    "onnx": """
        import onnxruntime
        session = onnxruntime.InferenceSession(path)
        (found,) = session.run(["scores"], {"image": x})
    """,
    "stablehlo": """
        import json, pathlib
        from tensorflow.compiler.tf2xla.python import xla
        import tensorflow as tf
        files = json.loads((pathlib.Path(path) / "signature.json").read_text())
        module = (pathlib.Path(path) / files["modules"]["cpu"]).read_bytes()
        out = files["outputs"][0]
        call = lambda x: xla.call_module([x], version=10, module=module,
            Sout=[out["shape"]], Tout=[out["dtype"]], platforms=["CPU"])
        found = tf.function(call, jit_compile=True)(tf.constant(x))[0].numpy()
    """,
}
SAME = [pytest.param(name, marks=pytest.mark.slow) for name in ("xla-gpu", "xla-tpu")]
READERS["xla-gpu"] = READERS["xla-tpu"] = READERS["xla-cpu"]


@pytest.mark.parametrize("target", ["xla-cpu", "onnx", "stablehlo", *SAME])
def test_a_process_without_kacc_and_keras_runs_it(target, models, tmp_path):
    model, x = models["residual"], samples("residual", 8)
    options = {"batch": 8} if target == "stablehlo" else {}
    artifact = kacc.convert(model, tmp_path / FLOAT[target], target, **options)
    np.save(tmp_path / "x.npy", x)
    program = textwrap.dedent(
        f"""
        import sys
        sys.modules["kacc"] = sys.modules["keras"] = None
        import numpy as np
        path, signature = {os.fspath(artifact.path)!r}, "batch_8"
        x = np.load({os.fspath(tmp_path / "x.npy")!r})
        """
    ) + textwrap.dedent(READERS[target])
    program += f"np.save({os.fspath(tmp_path / 'y.npy')!r}, found)\n"
    # A folder of its own: kacc must not be importable by accident.
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    np.testing.assert_allclose(
        np.load(tmp_path / "y.npy"), model.predict(x, verbose=0), atol=1e-5
    )


class TestServed:
    def test_signatures_of_batch_sizes(self, models, tmp_path):
        import tensorflow as tf

        artifact = kacc.convert(
            models["residual"], tmp_path / "m", "xla-cpu", batch_sizes=(2, 4)
        )
        assert artifact.path == (tmp_path / "m" / "1").resolve()
        loaded = tf.saved_model.load(str(artifact.path))
        assert sorted(loaded.signatures) == ["batch_2", "batch_4", "serving_default"]
        for name, size in (("batch_2", 2), ("batch_4", 4), ("serving_default", None)):
            spec = loaded.signatures[name].structured_input_signature[1]["image"]
            assert spec.shape.as_list() == [size, 8, 8, 3]
        report = artifact.manifest.report
        assert set(report["xla"]) == set(loaded.signatures)
        assert set(report["milliseconds"]) == {"batch_2", "batch_4"}
        for name, times in report["milliseconds"].items():
            assert report["xla"][name] == (times["xla"] < times["tensorflow"])

    @pytest.mark.parametrize("faster", [{1}, {1, 2}, set()])
    def test_the_faster_function_is_kept(self, faster, models, tmp_path, monkeypatch):
        sizes = iter((1, 2))

        def interleaved(calls, repeats):  # first without XLA, then with it
            return np.array([[2.0], [1.0 if next(sizes) in faster else 3.0]])

        monkeypatch.setattr(xla, "interleaved", interleaved)
        artifact = kacc.convert(
            models["residual"], tmp_path / "m", "xla-cpu", batch_sizes=(1, 2)
        )
        assert artifact.manifest.report["xla"] == {
            "batch_1": 1 in faster,
            "batch_2": 2 in faster,
            "serving_default": faster == {1, 2},
        }

    @pytest.mark.parametrize(("mode", "jit"), [("always", True), ("never", False)])
    def test_xla_can_be_forced(self, mode, jit, models, tmp_path):
        from tensorflow.core.protobuf import saved_model_pb2

        artifact = kacc.convert(
            models["residual"], tmp_path / "m", "xla-cpu", xla=mode, batch_sizes=(2,)
        )
        assert set(artifact.manifest.report["xla"].values()) == {jit}
        saved = saved_model_pb2.SavedModel.FromString(
            (artifact.path / "saved_model.pb").read_bytes()
        )
        functions = saved.meta_graphs[0].graph_def.library.function
        compiled = [f.attr["_XlaMustCompile"].b for f in functions]
        assert any(compiled) is jit

    def test_weights_are_stored_once(self, tmp_path):
        model = keras.Sequential([keras.Input((256,)), layers.Dense(256)])
        artifact = kacc.convert(model, tmp_path / "m", "xla-cpu", batch_sizes=(1, 2, 4))
        weights = 256 * 257 * 4
        assert weights < artifact.size_bytes < 1.5 * weights

    def test_versions_stand_side_by_side(self, models, tmp_path):
        model = models["residual"]
        first = kacc.convert(model, tmp_path / "m", "xla-gpu")
        second = kacc.convert(model, tmp_path / "m", "xla-gpu", version=2)
        assert (first.path.name, second.path.name) == ("1", "2")
        assert open_artifact(tmp_path / "m").path == second.path
        assert open_artifact(first.path).manifest == first.manifest
        with pytest.raises(kacc.UsageError, match="folder of the served model"):
            kacc.convert(model, first.path, "xla-gpu")
        text = (tmp_path / "m" / "Dockerfile").read_text()
        assert "COPY . /models/m" in text

    def test_a_servers_warm_up_requests(self, models, tmp_path):
        import tensorflow as tf

        from kacc.converters.warmup import _classes

        artifact = kacc.convert(
            models["two_inputs"], tmp_path / "m", "xla-gpu", batch_sizes=(2, 4)
        )
        path = artifact.path / "assets.extra" / "tf_serving_warmup_requests"
        signatures = tf.saved_model.load(str(artifact.path)).signatures
        seen = []
        for record in tf.data.TFRecordDataset(str(path)):
            log = _classes()["PredictionLog"].FromString(record.numpy())
            request = log.predict_log.request
            feeds = {
                entry.key: tf.io.parse_tensor(entry.value, tf.float32)
                for entry in request.inputs
            }
            signatures[request.model_spec.signature_name](**feeds)
            seen.append(request.model_spec.signature_name)
        assert seen == ["batch_2", "batch_4"]

    def test_the_wire_of_warm_up_requests(self, tmp_path):
        """The tags are those of TensorFlow Serving's own messages."""
        import tensorflow as tf

        x = TensorInfo("x", (None, 1), "int32")
        warmup_requests(tmp_path / "requests", [x], {"s": 1})
        (record,) = tf.data.TFRecordDataset(str(tmp_path / "requests"))
        data = record.numpy()
        assert data[0] == 6 << 3 | 2  # PredictionLog.predict_log
        assert data[2] == 1 << 3 | 2  # PredictLog.request
        # PredictRequest.model_spec: a ModelSpec with the signature_name "s".
        assert data[4:9] == bytes([1 << 3 | 2, 3, 3 << 3 | 2, 1]) + b"s"
        # PredictRequest.inputs: an entry of a map, its key "x", then its value.
        assert data[9] == 2 << 3 | 2
        assert data[11:15] == bytes([1 << 3 | 2, 1]) + b"x" + bytes([2 << 3 | 2])

    def test_tpus_get_batches_of_eights(self, models, tmp_path):
        model, x = models["residual"], samples("residual", 5)
        artifact = kacc.convert(
            model, tmp_path / "m", "xla-tpu", batch_sizes=(3, 8, 17)
        )
        report = artifact.manifest.report
        assert report["padded_batches"] == {"3": 8, "17": 24}
        assert artifact.manifest.inputs[0].shape == (8, 8, 8, 3)
        assert report["lanes"]["stem"] == {"channels": 8, "idle": 0.9375}
        np.testing.assert_allclose(
            artifact.predict(x), model.predict(x, verbose=0), atol=1e-5
        )


def test_the_signature_of_stablehlo(models, tmp_path):
    artifact = kacc.convert(models["residual"], tmp_path / "m", "stablehlo", batch=4)
    signature = json.loads((artifact.path / "signature.json").read_text())
    assert list(signature["modules"]) == ["cpu", "cuda", "tpu"]
    assert signature["inputs"] == [
        {"name": "image", "shape": [4, 8, 8, 3], "dtype": "float32"}
    ]
    assert artifact.manifest.inputs[0].shape == (4, 8, 8, 3)
    one = kacc.convert(
        models["residual"], tmp_path / "n", "stablehlo", platforms=("tpu",)
    )
    with pytest.raises(kacc.KaccError, match="module for the platform 'cpu'"):
        one.predict(samples("residual"))


def test_the_operator_that_xla_lacks_is_named(tmp_path):
    import tensorflow as tf

    class Words(keras.layers.Layer):
        def call(self, x):
            text = tf.strings.as_string(x)
            return tf.cast(tf.strings.length(text), "float32")

    x = keras.Input((4,))
    model = keras.Model(x, Words(name="words")(layers.Dense(4)(x)))
    for target in ("xla-gpu", "xla-tpu", "stablehlo"):
        with pytest.raises(kacc.ConversionError, match="AsString from words"):
            kacc.convert(model, tmp_path / "m", target)
        assert not (tmp_path / "m" / "1").exists()
    with pytest.raises(kacc.ConversionError, match="from words"):
        kacc.convert(model, tmp_path / "m.onnx", "onnx")


class TestOnnxInt8:
    @pytest.fixture(scope="class")
    def quantized(self):
        model = residual()
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy())
        qat = kacc.callbacks.QuantizationAwareTraining("int8")
        x = samples("residual", 64)
        model.fit(x, np.arange(64) % 4, callbacks=[qat], verbose=0)
        return model

    @pytest.mark.parametrize("io", ["float32", "int8"])
    def test_within_a_step_of_keras(self, quantized, io, tmp_path):
        import onnx

        artifact = kacc.convert(quantized, tmp_path / "m.onnx", "onnx-int8", io=io)
        parity = kacc.parity(quantized, artifact, samples("residual", 64))
        assert parity.within_one >= 0.995
        kinds = {node.op_type for node in onnx.load(artifact.path).graph.node}
        assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= kinds
        (image,), (scores,) = artifact.manifest.inputs, artifact.manifest.outputs
        assert image.dtype == scores.dtype == io
        assert image.shape == (None, 8, 8, 3)
        assert scores.scale == pytest.approx(1 / 256)

    def test_averages_round_as_those_of_litert(self, tmp_path):
        image = keras.Input((8, 8, 3))
        y = layers.AveragePooling2D(2)(layers.Conv2D(8, 3, padding="same")(image))
        model = kacc.quantize(keras.Model(image, y), "int8")
        x = samples("residual", 64) / 255
        artifact = kacc.convert(model, tmp_path / "m.onnx", "onnx-int8", x)
        # One in eight averages of four integers ends in a half that even would change.
        assert kacc.parity(model, artifact, x).equal > 0.998

    def test_a_plain_model_is_calibrated(self, models, tmp_path):
        model, x = models["residual"], samples("residual", 64)
        with pytest.raises(kacc.UsageError, match="needs calibration data"):
            kacc.convert(model, tmp_path / "m.onnx", "onnx-int8")
        artifact = kacc.convert(model, tmp_path / "m.onnx", "onnx-int8", x)
        assert kacc.parity(model, artifact, x).max_abs < 0.05

    @pytest.mark.parametrize("target", FLOAT)
    def test_float_targets_keep_fake_quantization(self, quantized, target, tmp_path):
        artifact = kacc.convert(quantized, tmp_path / FLOAT[target], target)
        x = samples("residual", 64)
        step = 1 / 256
        assert kacc.parity(quantized, artifact, x).max_abs <= 3 * step
        assert artifact.manifest.scheme == "int8"
        steps = artifact.predict(x) / step
        # The outputs lie on the file's grid.
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("xla-cpu", {"batch_sizes": ()}, "`batch_sizes` must be positive integers"),
        ("xla-cpu", {"batch_sizes": 8}, "`batch_sizes` must be positive integers"),
        ("xla-cpu", {"batch_sizes": (1, 1)}, "each once"),
        ("xla-cpu", {"batch_sizes": (0,)}, "`batch_sizes` must be positive integers"),
        ("xla-cpu", {"xla": "maybe"}, "`xla` must be one of"),
        ("xla-cpu", {"version": 0}, "`version` must be a positive integer"),
        ("xla-cpu", {"compute": "bfloat16"}, "no choice of `compute`"),
        ("xla-tpu", {"compute": "float16"}, "`compute` must be one of"),
        ("stablehlo", {"platforms": ("metal",)}, "`platforms` must be some of"),
        ("stablehlo", {"batch_sizes": (1,)}, "no choice of `batch_sizes`"),
        ("onnx", {"opset": 3}, "`opset` must be one of"),
        ("tflite-float32", {"opset": 17}, "no choice of `opset`"),
        ("onnx", {"io": "int8"}, "`io` must be one of"),
    ],
)
def test_wrong_options(target, options, message, models, tmp_path):
    path = tmp_path / FLOAT.get(target, "m.tflite")
    with pytest.raises(kacc.UsageError, match=message):
        kacc.convert(models["residual"], path, target, **options)
    assert not path.exists()


def test_what_is_not_kaccs_is_not_replaced(models, tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(kacc.KaccError, match="new or empty"):
        kacc.convert(models["residual"], folder, "stablehlo")
    assert (folder / "thesis.txt").read_text() == "years of work"
    (tmp_path / "n" / "1").mkdir(parents=True)
    (tmp_path / "n" / "1" / "saved.txt").write_text("")
    with pytest.raises(kacc.KaccError, match="new or empty"):
        kacc.convert(models["residual"], tmp_path / "n", "xla-gpu")


def test_a_changed_folder_is_noticed(models, tmp_path):
    artifact = kacc.convert(models["residual"], tmp_path / "m", "stablehlo")
    (artifact.path / "signature.json").write_text("{}")
    with pytest.raises(kacc.KaccError, match="changed since"):
        artifact.predict(samples("residual"))


def test_files_of_other_programs(tmp_path):
    import onnx
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "xy"]
    node = helper.make_node("Relu", ["x"], ["y"])
    graph = helper.make_graph([node], "g", value[:1], value[1:])
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    with pytest.raises(kacc.KaccError, match="one that kacc wrote"):
        open_artifact(tmp_path / "m.onnx")
    (tmp_path / "n.onnx").write_bytes(b"words")
    with pytest.raises(kacc.KaccError, match="must be an ONNX file"):
        open_artifact(tmp_path / "n.onnx")


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("target", "compute"),
    [
        ("xla-gpu", "float16"),
        ("xla-gpu", "bfloat16"),
        ("xla-tpu", "bfloat16"),
        ("stablehlo", "bfloat16"),
    ],
)
@pytest.mark.parametrize("name", ["residual", "transformer"])
def test_computing_in_half_precision(target, compute, name, models, tmp_path):
    model, x = models[name], samples(name)
    artifact = kacc.convert(model, tmp_path / "m", target, compute=compute)
    rounding = {"float16": 2**-11, "bfloat16": 2**-8}[compute]
    parity = kacc.parity(model, artifact, x)
    assert 0 < parity.max_rel < 8 * rounding  # some ten roundings, one after another
    assert {info.dtype for info in artifact.manifest.outputs} == {"float32"}
    products = [row for row in artifact.operations() if row.macs]
    assert {row.dtype for row in products} == {compute}
