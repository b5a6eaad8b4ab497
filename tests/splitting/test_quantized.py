"""Files of a quantized model's parts, in a chain, are the whole file to the bit."""

import keras
import numpy as np
import pytest

import kacc
from kacc.splitting import Chain
from kacc.splitting.layout import Layout
from kacc.splitting.model import cut_at_positions
from tests.conformance.graph_checks import pack
from tests.conformance.random_graphs import random_branches
from tests.splitting import models


def _raw(artifact, x):
    """Samples as integers, some of them beyond the range."""
    info = artifact.manifest.inputs[0]
    limits = np.iinfo(info.dtype)
    steps = np.rint(1.2 * x / np.float32(info.scale)) + info.zero_point
    return np.clip(steps, limits.min, limits.max).astype(info.dtype)


@pytest.fixture(scope="module")
def trained():
    """A small network with a skip connection, after some steps of training."""
    model = models.residual()
    model.compile("adam", "sparse_categorical_crossentropy")
    callback = kacc.callbacks.QuantizationAwareTraining("int8")
    labels = np.arange(32) % 5
    x = models.data(model, 32)
    model.fit(x, labels, epochs=2, batch_size=8, verbose=0, callbacks=[callback])
    return model


@pytest.fixture(scope="module")
def whole(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "whole.tflite"
    return kacc.convert(trained, path, "tflite-int8")


@pytest.mark.sampled(3)
@pytest.mark.parametrize("at", [["first"], ["relu", "pool"], ["second", "mean"], None])
def test_chain_of_files_equals_the_whole_file(trained, whole, tmp_path, at):
    x = models.data(trained, 32, seed=1)
    before = trained.predict(x, verbose=0)
    parts = kacc.split(trained, at=at)
    files = parts.convert(tmp_path, "tflite-int8")
    assert [f.manifest.inputs[0].dtype for f in files] == ["int8"] * len(files)
    given = {i.name: i for f in files for i in f.manifest.outputs}
    for info in (i for f in files[1:] for i in f.manifest.inputs):
        assert (info.scale, info.zero_point) == (
            given[info.name].scale,
            given[info.name].zero_point,
        )
    raw = _raw(whole, x)
    chain = parts.chain(files)
    assert chain.mismatches() == []
    got = chain.predict(raw, raw=True)
    assert got.dtype == np.int8
    np.testing.assert_array_equal(got, whole.predict(raw, raw=True))
    assert len(np.unique(got)) > 10
    np.testing.assert_array_equal(Chain(files).predict(x), whole.predict(x))
    # The parts in Keras compute as their files, and the model is as it was.
    np.testing.assert_array_equal(parts.predict(x), before)
    np.testing.assert_array_equal(trained.predict(x, verbose=0), before)


def test_parts_that_were_saved_and_loaded_convert_to_the_same(trained, tmp_path):
    parts = kacc.split(trained, at=["first"])
    files = parts.convert(tmp_path, "tflite-int8")
    for part, file in zip(parts, files, strict=True):
        part.save(tmp_path / "part.keras")
        loaded = keras.models.load_model(tmp_path / "part.keras")
        again = kacc.convert(loaded, tmp_path / "again.tflite", "tflite-int8")
        ranges = [(i.scale, i.zero_point) for i in again.manifest.inputs]
        assert ranges == [(i.scale, i.zero_point) for i in file.manifest.inputs]
        rng = np.random.default_rng(0)
        x = {
            i.name: rng.integers(-128, 128, (8, *i.shape[1:])).astype("int8")
            for i in file.manifest.inputs
        }
        x = x if len(x) > 1 else next(iter(x.values()))
        got, want = again.predict(x, raw=True), file.predict(x, raw=True)
        for a, b in zip(keras.tree.flatten(got), keras.tree.flatten(want), strict=True):
            np.testing.assert_array_equal(a, b)


def test_cuts_go_through_no_operator_of_the_file(trained):
    with pytest.raises(kacc.UsageError, match="Cut after 'relu'"):
        kacc.split(trained, at=["stem"])
    with pytest.raises(kacc.UsageError, match="quantized layer with weights"):
        kacc.split(trained, at=["last", "mean"])  # only a mean between


@pytest.mark.sampled(2)
@pytest.mark.filterwarnings("ignore:.*in float")
@pytest.mark.parametrize(
    ("scheme", "rules"),
    [
        ("w4a8", [kacc.Rule("second", bits=8)]),
        ("int16x8", []),
        ("int8", [kacc.Rule("pool", skip=True)]),
    ],
)
def test_other_schemes_and_rules(tmp_path, scheme, rules):
    model = kacc.quantize(models.residual(), scheme, rules=rules)
    kacc.quantization.calibrate(model, [models.data(model)])
    target = f"tflite-{scheme}"
    whole = kacc.convert(model, tmp_path / "whole.tflite", target)
    parts = kacc.split(model, at=["first", "joined"])
    chain = parts.chain(parts.convert(tmp_path, target))
    x = models.data(model, seed=1)
    np.testing.assert_array_equal(chain.predict(x), whole.predict(x))


def test_prescribed_ranges_keep_their_grid(tmp_path):
    dense = keras.layers.Dense
    for name in ("softsign", "tanh", "sigmoid"):
        activation = keras.layers.Activation(name, name="bounded")
        stack = [keras.Input((6,)), dense(8), activation, dense(4)]
        model = kacc.quantize(keras.Sequential(stack))
        x = 3 * np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
        kacc.quantization.calibrate(model, [x])
        whole = kacc.convert(model, tmp_path / "whole.tflite", "tflite-int8")
        parts = kacc.split(model, at=["bounded"])
        chain = parts.chain(parts.convert(tmp_path, "tflite-int8"))
        np.testing.assert_array_equal(chain.predict(x), whole.predict(x))


def test_half_precision(tmp_path):
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        model = models.residual()
    finally:
        keras.mixed_precision.set_global_policy(before)
    x = models.data(model)
    plain = model.predict(x, verbose=0).astype("float32")
    got = kacc.split(model, at=["first"]).predict(x).astype("float32")
    np.testing.assert_array_equal(got, plain)
    kacc.quantize(model)
    kacc.quantization.calibrate(model, [x])
    whole = kacc.convert(model, tmp_path / "whole.tflite", "tflite-int8")
    parts = kacc.split(model, at=["first"])
    chain = parts.chain(parts.convert(tmp_path, "tflite-int8"))
    np.testing.assert_array_equal(chain.predict(x), whole.predict(x))
    np.testing.assert_array_equal(parts.predict(x), model.predict(x, verbose=0))


def test_operators_in_a_call_and_nested_models(tmp_path):
    for kind in (Gated, models.nested):
        model = kind()
        x = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
        model(x)
        kacc.quantize(model)
        kacc.quantization.calibrate(model, [x])
        whole = kacc.convert(model, tmp_path / "whole.tflite", "tflite-int8")
        want = whole.predict(1.2 * x)
        for at in (["first"], ["second"]) if kind is Gated else (["a"], ["inner"]):
            parts = kacc.split(model, at=at)
            chain = parts.chain(parts.convert(tmp_path, "tflite-int8"))
            np.testing.assert_array_equal(chain.predict(1.2 * x), want)
            np.testing.assert_array_equal(parts.predict(1.2 * x), want)


class Gated(keras.Model):
    """Its sum lives for one call, and the layer that reads it holds the range."""

    def __init__(self):
        super().__init__()
        names = ("first", "second", "third")
        self.parts = [keras.layers.Dense(6, name=name) for name in names]

    def call(self, x):
        first, second, third = self.parts
        y = first(x)
        return third(keras.ops.reshape(second(y) + y, (-1, 6)))


def test_random_graphs_in_integers(tmp_path):
    packed = pack(random_branches(5, 6))
    model = kacc.quantize(packed.model)
    kacc.quantization.calibrate(model, [packed.data(1)])
    whole = kacc.convert(model, tmp_path / "whole.tflite", "tflite-int8")
    x = packed.data(2, spread=1.3)
    want, layout = whole.predict(x), Layout(model)
    places = [
        p
        for p in range(1, len(layout.calls))
        if not (layout.shared(p) or layout.fused(p) or layout.refusal(p))
    ]
    cuts, last = [], 0
    for place in places[:-1:3]:
        if layout.has_weights(last, place) and layout.has_weights(
            place, len(layout.calls)
        ):
            cuts.append(place)
            last = place
    assert len(cuts) >= 3
    parts = cut_at_positions(layout, cuts)
    chain = parts.chain(parts.convert(tmp_path, "tflite-int8"))
    assert chain.mismatches() == []
    got = chain.predict(x)
    names = keras.tree.map_structure(
        lambda tensor: layout.tensor_names[tensor], layout.graph.output_structure
    )
    for name, tensor in names.items():
        np.testing.assert_array_equal(got[tensor], want[name])


def test_parts_of_a_plain_model_are_calibrated_on_what_reaches_them(tmp_path):
    model = models.residual()
    x = models.data(model, 64)
    parts = kacc.split(model, at=["first"])
    files = parts.convert(tmp_path / "part_{}.tflite", "tflite-int8", x, backend="kacc")
    assert [f.path.name for f in files] == ["part_0.tflite", "part_1.tflite"]
    got, want = parts.chain(files).predict(x), model.predict(x, verbose=0)
    assert np.abs(got - want).max() < 0.05
    assert np.abs(got - want).max() > 0
    with pytest.raises(kacc.UsageError, match="needs calibration data"):
        parts.convert(tmp_path, "tflite-int8")


def test_float_files_of_several_inputs_and_outputs(tmp_path):
    model = models.several()
    x = models.data(model)
    parts = kacc.split(model, at=["two"])
    files = parts.convert(tmp_path, "tflite-float32")
    got, want = parts.chain(files).predict(x), model.predict(x, verbose=0)
    np.testing.assert_allclose(got["early"], want["z"], atol=1e-5)
    np.testing.assert_allclose(got["late"], want["y"], atol=1e-5)
    chain = Chain(files)
    assert (chain.input_names, chain.output_names) == (("a", "b"), ("early", "late"))
    with pytest.raises(kacc.UsageError, match="must name all"):
        Chain(files, inputs=["a"])
    with pytest.raises(kacc.UsageError, match="must name all"):
        Chain(files, outputs=["three"])


def test_resnet8(data, load, tmp_path):
    path = data / "models" / "mlperf_tiny_resnet8.keras"
    model = kacc.quantize(keras.models.load_model(path, compile=False))
    images = load.cifar10("val")[0][:80].astype("float32")
    kacc.quantization.calibrate(model, [images[:40]])
    whole = kacc.convert(model, tmp_path / "whole.tflite", "tflite-int8")
    parts = kacc.split(model, 3)
    chain = parts.chain(parts.convert(tmp_path, "tflite-int8"))
    raw = _raw(whole, images)
    np.testing.assert_array_equal(
        chain.predict(raw, raw=True), whole.predict(raw, raw=True)
    )
    macs = [row.macs for row in parts.report]
    assert max(macs) < 0.5 * sum(macs)
