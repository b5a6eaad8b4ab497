"""Weights that stand beside the graph: no copies of them, and the same numbers."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

import kacc
from kacc.converters import lowering, onnx_weights, stablehlo_weights, weights
from kacc.converters.artifact import open_artifact
from kacc.converters.passes import optimized
from kacc.converters.trace import freeze

# What converting adds to the memory in use, in sizes of the weights: somewhat more than
# what it was here (4.5, 0.2 and 4.3), where graphs with their weights took 26 to 38.
BOUNDS = {"xla-cpu": 6.0, "stablehlo": 1.5, "onnx": 6.0}

MEASURE = """
import json, re, sys, tempfile
import keras, kacc
from kacc.core.memory import release

def in_use(field):
    status = open("/proc/self/status").read()
    return 1024 * int(re.search(field + r":\\s+(\\d+)", status)[1])

def convert(width, target):
    model = keras.Sequential([keras.Input((width,))])
    for _ in range(4):
        model.add(keras.layers.Dense(width))
    size = sum(4 * w.numpy().size for w in model.weights)
    options = {"xla": "never"} if target == "xla-cpu" else {}
    path = tempfile.mkdtemp() + "/m" + (".onnx" if target == "onnx" else "")
    release()
    open("/proc/self/clear_refs", "w").write("5")
    before = in_use("VmRSS")
    kacc.convert(model, path, target, **options)
    return (in_use("VmHWM") - before) / size

found = {}
for target in sys.argv[1:]:
    convert(80, target)  # what is imported is not counted
    found[target] = convert(2000, target)
print(json.dumps(found))
"""


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").is_file(), reason="measures as Linux does"
)
def test_conversion_takes_a_few_times_the_memory_of_the_weights():
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *BOUNDS],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert {k: v for k, v in found.items() if v > BOUNDS[k]} == {}
    assert min(found.values()) > 0  # something was measured


@pytest.fixture(scope="module")
def model():
    """Kernels of every kind that stands apart, random also where ones are usual."""
    keras.utils.set_random_seed(4)
    image = keras.Input((12, 12, 16), name="image")
    x = layers.Conv2D(96, 3, padding="same", use_bias=False)(image)
    x = layers.BatchNormalization()(x)
    x = layers.DepthwiseConv2D(7, depth_multiplier=2, padding="same")(x)
    x = layers.Conv2DTranspose(24, 3, strides=2, activation="relu")(x)
    x = layers.Reshape((-1, 24))(x)
    x = layers.Dense(200, activation="gelu")(x)
    tokens = keras.Input((5,), dtype="int32", name="tokens")
    y = layers.Embedding(64, 200)(tokens)
    y = layers.Concatenate(axis=1)([x, y])
    y = layers.Dense(40)(layers.LSTM(40)(y))
    made = keras.Model([image, tokens], y, name="net")
    rng = np.random.default_rng(5)
    for variable in made.weights:
        low = 0.5 if "variance" in variable.path else -0.1
        variable.assign(rng.uniform(low, 0.9, variable.shape))
    return made


@pytest.fixture(scope="module")
def feeds():
    rng = np.random.default_rng(6)
    image = rng.normal(size=(2, 12, 12, 16)).astype("float32")
    return [image, rng.integers(0, 64, (2, 5)).astype("int32")]


@pytest.fixture(scope="module")
def graph(model):
    return optimized(freeze(model))


class TestBesideTheGraph:
    def test_no_large_constant_is_in_the_graph(self, model, graph):
        for each in (freeze(model), graph):
            kept = [n for n in each.graph_def.node if n.op == "Const"]
            largest = max(n.attr["value"].tensor.ByteSize() for n in kept)
            assert largest < 4 * weights.LEAST
            assert set(each.weights) <= {n.name for n in kept}
            assert min(v.size for v in each.weights.values()) >= weights.LEAST
            total = sum(v.nbytes for v in each.weights.values())
            assert total > 0.9 * 4 * model.count_params()

    def test_a_function_takes_large_constants_as_arguments(self, graph):
        function = graph.function(graph.output_tensors)
        assert function.graph.as_graph_def().ByteSize() < 0.2 * graph.weight_bytes
        assert len(function.captured_inputs) == len(graph.read_weights)

    def test_a_forgotten_value_spoils_the_results(self, graph, feeds):
        (spoiled,) = graph.outline.run(feeds)
        assert not np.isfinite(spoiled).any()

    @pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
    def test_values_are_taken_out_and_put_back(self, dtype):
        rng = np.random.default_rng(0)
        kind = tf.as_dtype(dtype)
        values = rng.integers(-9, 9, (70, 80)).astype(kind.as_numpy_dtype)
        with tf.Graph().as_default() as built:
            tf.constant(values, name="large")
            tf.constant(values[0], name="small")
        whole = built.as_graph_def()
        small = tf.compat.v1.GraphDef()
        small.CopyFrom(whole)
        taken = weights.take_apart(small.node)
        assert list(taken) == ["large"]
        np.testing.assert_array_equal(taken["large"], values)
        assert small.ByteSize() < whole.ByteSize() - values.nbytes + 200
        assert weights.put_back(small.node, taken) == {"large"}
        assert small == whole

    def test_a_large_constant_that_is_an_output(self):
        class Table(layers.Layer):
            def build(self, shape):
                self.table = self.add_weight(shape=(80, 80), initializer="normal")

            def call(self, x):
                return x @ self.table, tf.identity(self.table.value), self.table * 2.0

        x = keras.Input((80,))
        net = keras.Model(x, list(Table()(x)))
        x = np.ones((1, 80), "float32")
        want = net.layers[-1].table.numpy()[:1]  # of one sample
        for each in (freeze(net), optimized(freeze(net))):
            _, table, twice = each.run([x])
            np.testing.assert_array_equal(table, want)
            np.testing.assert_array_equal(twice, 2 * want)

    def test_values_are_those_of_the_moment_of_freezing(self):
        net = keras.Sequential([keras.Input((80,)), layers.Dense(80)])
        (before,) = (v.numpy() for v in net.weights if len(v.shape) == 2)
        frozen = freeze(net)
        net.weights[0].assign(net.weights[0] + 1)
        net.weights[0].value.assign_add(net.weights[0] + 1)
        (after,) = frozen.weights.values()
        np.testing.assert_array_equal(after, before)

    def test_the_names_of_constants_are_those_that_tensorflow_gives(self, model):
        # How freezing asks a graph for its variables is not promised.
        from tensorflow.python.framework.convert_to_constants import (
            convert_variables_to_constants_v2,
        )

        dense = keras.Sequential([keras.Input((80,)), layers.Dense(80)])
        spec = tf.TensorSpec((None, 80))
        concretes = [
            tf.function(lambda x: dense(x)).get_concrete_function(spec)
            for _ in range(2)
        ]
        usual = convert_variables_to_constants_v2(concretes[0]).graph.as_graph_def()
        made, apart = weights.frozen(concretes[1])
        graph_def = made.graph.as_graph_def()
        weights.put_back(graph_def.node, apart)

        def constants(of):
            return {
                n.name: tf.make_ndarray(n.attr["value"].tensor).tobytes()
                for n in of.node
                if n.op == "Const"
            }

        assert apart
        assert constants(graph_def) == constants(usual)


class TestSavedModel:
    def test_the_file_is_whole(self, model, feeds, tmp_path):
        path = tmp_path / "m"
        artifact = kacc.convert(model, path, "xla-cpu", xla="never", batch_sizes=(2,))
        loaded = tf.saved_model.load(str(artifact.path))
        named = dict(zip(["image", "tokens"], map(tf.constant, feeds), strict=True))
        (got,) = loaded.signatures["batch_2"](**named).values()
        want = model.predict(feeds, verbose=0)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())

    def test_the_fingerprint_is_that_of_the_file(self, model, tmp_path):
        from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
        from tensorflow.python.saved_model.fingerprinting_utils import (
            write_fingerprint,
        )

        artifact = kacc.convert(model, tmp_path / "m", "xla-cpu", xla="never")
        read = tf.saved_model.experimental.read_fingerprint
        found = read(str(artifact.path))
        saved = SavedModel.FromString((artifact.path / "saved_model.pb").read_bytes())
        assert len(saved.meta_graphs) == 1
        copy = tmp_path / "copy"
        copy.mkdir()
        for name in ("saved_model.pb", "variables"):
            (copy / name).symlink_to(artifact.path / name)
        write_fingerprint(str(copy))
        assert read(str(copy)).graph_def_program_hash == found.graph_def_program_hash
        assert read(str(copy)).signature_def_hash == found.signature_def_hash

    def test_large_models_are_timed_with_weights_as_arguments(
        self, tmp_path, monkeypatch
    ):
        from kacc.converters.frozen_graph import FrozenGraph

        net = keras.Sequential([keras.Input((80,)), layers.Dense(80)])
        monkeypatch.setattr(weights, "LARGE", 0)
        monkeypatch.setattr(FrozenGraph, "calling", None)
        artifact = kacc.convert(net, tmp_path / "m", "xla-cpu", batch_sizes=(1,))
        assert artifact.manifest.report["milliseconds"]["batch_1"]["xla"] > 0

    @pytest.mark.parametrize("xla", ["never", "always"])
    def test_a_large_file_runs_with_weights_as_arguments(
        self, xla, model, feeds, tmp_path, monkeypatch
    ):
        if xla == "always":  # XLA has no recurrent loops of any batch size
            model = keras.Model(model.inputs[0], model.layers[4].output)
            feeds = feeds[:1]
        options = {"xla": xla, "batch_sizes": (2,)}
        artifact = kacc.convert(model, tmp_path / "m", "xla-cpu", **options)
        want = artifact.predict(feeds)
        monkeypatch.setattr(weights, "LARGE", 0)
        monkeypatch.setattr(tf.saved_model, "load", None)
        again = open_artifact(artifact.path)
        for size in (2, 1):
            got = again.predict([array[:size] for array in feeds])
            scale = np.abs(want).max()
            np.testing.assert_allclose(got, want[:size], rtol=0, atol=1e-6 * scale)

    @pytest.mark.parametrize("target", ["xla-cpu", "xla-gpu", "xla-tpu"])
    def test_more_than_a_protocol_buffer_holds(self, target, tmp_path, monkeypatch):
        net = keras.Sequential([keras.Input((80,)), layers.Dense(80)])
        monkeypatch.setattr(weights, "_LARGEST", 1000)
        with pytest.raises(kacc.ConversionError, match=r"2 GiB.*kacc\.split"):
            kacc.convert(net, tmp_path / "m", target)
        assert list(tmp_path.iterdir()) == []


class TestOnnx:
    def test_the_model_is_the_one_that_tf2onnx_makes_of_constants(
        self, model, feeds, tmp_path, monkeypatch
    ):
        import onnx

        apart = kacc.convert(model, tmp_path / "a.onnx", "onnx")
        _, inputs = onnx_weights.with_inputs(optimized(freeze(model)))
        assert len(inputs) == 5  # the recurrent kernels stay: tf2onnx computes on them
        monkeypatch.setattr(onnx_weights, "_ALIKE", {})
        whole = kacc.convert(model, tmp_path / "b.onnx", "onnx")
        np.testing.assert_array_equal(apart.predict(feeds), whole.predict(feeds))

        def content(artifact):
            graph = onnx.load(artifact.path).graph
            kinds = sorted(node.op_type for node in graph.node)
            stored = sorted((t.raw_data, list(t.dims)) for t in graph.initializer)
            names = [[v.name for v in vs] for vs in (graph.input, graph.output)]
            return kinds, stored, names

        assert content(apart) == content(whole)

    def test_more_than_a_protocol_buffer_holds(self, tmp_path, monkeypatch):
        from kacc.converters.formats import onnx as module

        net = keras.Sequential([keras.Input((80,)), layers.Dense(80)])
        monkeypatch.setattr(module, "_LARGEST", 1000)
        with pytest.raises(kacc.KaccError, match=r"less than 2 GiB.*'stablehlo'"):
            kacc.convert(net, tmp_path / "m.onnx", "onnx")
        assert list(tmp_path.iterdir()) == []


class TestStableHlo:
    def test_weights_are_lowered_apart(self, graph):
        # Private: TensorFlow's text of a module, and the bytecode that it makes of it.
        found = lowering._lowered_apart(graph, ["CPU", "GPU"], 2)
        for module in found.values():
            assert len(module.weights) == len(graph.read_weights)
            assert len(module.data) < 200_000
            size = sum(len(piece) for piece in module.pieces())
            assert size - len(module.data) >= graph.weight_bytes

    def test_the_module_computes_what_one_with_weights_does(
        self, model, feeds, tmp_path, monkeypatch
    ):
        apart = kacc.convert(model, tmp_path / "a", "stablehlo", batch=2)

        def unknown(text, values):
            raise ValueError("another TensorFlow")

        monkeypatch.setattr(lowering, "with_constants", unknown)
        whole = kacc.convert(model, tmp_path / "b", "stablehlo", batch=2)
        np.testing.assert_array_equal(apart.predict(feeds), whole.predict(feeds))
        assert apart.size_bytes == pytest.approx(whole.size_bytes, rel=0.01)

    @given(st.integers(0, 2**64 - 1), st.integers(0, 3))
    def test_numbers_of_bytecode(self, number, before):
        data = b"\1" * before + stablehlo_weights._written(number) + b"rest"
        reader = stablehlo_weights._Reader(data, before)
        assert reader.number() == number
        assert reader.left == 4

    @pytest.mark.parametrize(
        "data", [b"", b"text", b"ML\xefR\r", b"ML\xefR\rmade\0", b"ML\xefR\rx\0\2\5ab"]
    )
    def test_other_bytecode_is_refused(self, data):
        marks = {b"abcd": np.zeros(5000, "float32")}
        with pytest.raises(ValueError, match=r".+"):
            stablehlo_weights._Filler(data, marks)

    def test_a_mark_that_is_lost_is_refused(self, graph):
        module = lowering._lowered_apart(graph, ["CPU"], 1)["CPU"]
        more = {**module.weights, b"lost": np.zeros(5000, "float32")}
        with pytest.raises(ValueError, match="not as they are known"):
            stablehlo_weights._Filler(module.data, more)
