"""The target fpga-hls: its types, what its library computes, and what it refuses."""

import json
import re
import shutil
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
from keras import layers

import kacc
from kacc.converters.artifact import open_artifact
from kacc.converters.fixed_type import Fixed, covering, exact
from kacc.converters.samples import gather
from kacc.core.errors import ConversionError, KaccError, UsageError
from tests.converters.hls_bounds import SIGMOID, Bounds, Emulation

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


def dense_model():
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(12, activation="relu", name="hidden"),
            layers.Dense(3, name="scores"),
        ]
    )


def conv_model():
    image = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, padding="same", use_bias=False, name="stem")(image)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(x))
    y = layers.DepthwiseConv2D(3, padding="same", activation="relu", name="deep")(x)
    x = layers.Dropout(0.3)(layers.Add(name="sum")([x, y]))
    x = layers.Flatten()(layers.MaxPooling2D(name="pool")(x))
    return keras.Model(image, layers.Dense(3, activation="softmax", name="scores")(x))


def every_layer():
    """The layers that the others leave out, on two inputs, with two outputs."""
    left, right = keras.Input((8, 3), name="left"), keras.Input((3,), name="right")
    x = layers.Conv1D(4, 3, padding="causal", activation="relu", name="conv")(left)
    y = layers.DepthwiseConv1D(3, padding="same", name="deep")(x)
    x = layers.AveragePooling1D(2)(layers.Maximum()([x, y]))
    x = layers.GlobalAveragePooling1D()(x)
    y = layers.BatchNormalization(name="norm")(right)
    x = layers.Concatenate()([x, y, right])
    x = layers.Reshape((5, 2, 1))(x)
    x = layers.MaxPooling2D(3, 2, padding="same")(keras.ops.relu6(x))
    x = layers.Flatten()(layers.GlobalMaxPooling2D(keepdims=True)(x))
    h = layers.Dense(3)(x)
    h = layers.Multiply()([h, layers.Subtract()([right, h])]) + right
    return keras.Model(
        {"right": right, "left": left},
        {"sum": layers.Dense(2)(h), "gate": layers.Dense(1, "sigmoid")(h)},
    )


def samples(model, count=40):
    random = np.random.default_rng(0)
    arrays = [
        random.normal(size=(count, *x.shape[1:])).astype("float32")
        for x in model.inputs
    ]
    if len(arrays) == 1:
        return arrays[0]
    return dict(zip([x.name for x in model.inputs], arrays, strict=True))


def trained(make, scheme="int8"):
    keras.utils.set_random_seed(0)
    model = make()
    x = samples(model, 64)
    y = np.random.default_rng(1).integers(0, 3, 64)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=make is dense_model)
    model.compile("adam", loss)
    model.fit(x, y, epochs=1, verbose=0)
    if scheme:
        kacc.quantize(model, scheme)
        model.compile(keras.optimizers.Adam(3e-3), loss)
        model.fit(x, y, epochs=2, verbose=0)
    return model


def converted(model, folder, **options):
    return model, kacc.convert(model, folder / "project", "fpga-hls", **options)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return converted(trained(dense_model), tmp_path_factory.mktemp("dense"))


@pytest.fixture(scope="module")
def conv(tmp_path_factory):
    return converted(trained(conv_model), tmp_path_factory.mktemp("conv"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    keras.utils.set_random_seed(0)
    model = every_layer()
    folder = tmp_path_factory.mktemp("plain")
    return converted(model, folder, calibration=samples(model))


def typedefs(artifact):
    text = (artifact.path / "firmware" / "defines.h").read_text()
    return {name: t for t, name in re.findall(r"typedef (.+?) (\w+);", text)}


def test_types_cover_ranges():
    assert covering(-1.0, 1.0 - 2**-7, 8) == Fixed(8, 1)
    assert covering(0.0, 1.01, 8) == Fixed(8, 1, signed=False)
    assert covering(-0.01, 0.01, 8) == Fixed(8, -5)
    assert covering(-300.0, 5.0, 4) == Fixed(4, 10)
    assert covering(0.0, 0.0, 8).width == 8
    random = np.random.default_rng(0)
    for low, high in np.sort(
        random.normal(size=(200, 2)) * 10 ** random.uniform(-4, 4, (200, 1))
    ):
        for fixed in (covering(low, high, 8), exact(low, high, 12)):
            assert fixed.low - fixed.step / 2 <= low
            assert high <= fixed.high + fixed.step / 2
        finer = Fixed(8, covering(low, high, 8).integer - 1, bool(low < 0))
        assert low < finer.low - finer.step / 2 or high > finer.high + finer.step / 2
        assert exact(low, high, 12).fraction == 12


@pytest.mark.parametrize("name", ["dense", "conv"])
def test_precisions_are_those_of_the_scheme(name, request):
    _, artifact = request.getfixturevalue(name)
    types, report = typedefs(artifact), artifact.manifest.report["precisions"]
    assert artifact.manifest.scheme == "int8"
    assert re.match(r"ap_u?fixed<8,", types["input_t"])
    assert re.match(r"ap_u?fixed<8,.*AP_RND,AP_SAT", types["result_t"])
    kernels = {n: t for n, t in types.items() if n.endswith("_weight_t")}
    assert len(kernels) == sum("weight" in layer for layer in report.values())
    for kernel, text in kernels.items():
        assert text.startswith("ap_fixed<8,")
        assert text == report[kernel.removesuffix("_weight_t")]["weight"]
    for layer, row in report.items():
        if "accum" in row and "weight" in row:
            assert types[f"{layer}_accum_t"] == row["accum"]
            assert types[f"{layer}_bias_t"] == row["bias"]
    # A tensor that a range was trained for has 8 bits; between a product and its
    # relu there is none.
    wide = {n for n, row in report.items() if "fixed<8," not in row["result"]}
    assert wide == {"dense": {"hidden"}, "conv": {"stem", "deep"}}[name]
    assert artifact.manifest.report["hls4ml"].startswith("1.3")


def test_bits_of_layers_reach_the_project():
    """w4a8 keeps 8 bits at both ends; int16x8 has wide activations."""
    few = Emulation(calibrated(conv_model(), "w4a8")).parts
    assert [few[n].types["weight"].width for n in ("stem", "deep", "scores")] == [
        8,
        4,
        8,
    ]
    wide = Emulation(calibrated(dense_model(), "int16x8")).parts
    assert wide["hidden_relu"].types["result"].width == 16
    assert not wide["hidden_relu"].types["result"].signed
    assert wide["hidden"].types["weight"].width == 8


def calibrated(model, scheme):
    kacc.quantize(model, scheme)
    kacc.quantization.calibrate(model, [samples(model)])
    return model


def test_a_plain_model_without_data_has_default_types():
    types = Emulation(dense_model()).parts["scores"].types
    assert types["result"] == Fixed(16, 6)
    assert types["weight"].width == 16


def test_integers_equal_the_emulation(dense):
    model, artifact = dense
    x = samples(model, 200) * 2  # some saturate
    emulation = Emulation(model)
    want = emulation.walk([x], emulation.apply)
    assert np.array_equal(artifact.predict(x), want.astype("float32"))


@pytest.mark.parametrize("name", ["dense", "conv"])
def test_outputs_are_within_the_fixed_point_step_of_keras(name, request):
    model, artifact = request.getfixturevalue(name)
    x = samples(model)
    (bound,) = Bounds(model).outputs([x])
    got, want = artifact.predict(x), model.predict(x, verbose=0)
    assert (np.abs(got - want) <= bound + 1e-6).all()
    # The bound says something, and what is measured lies far inside.
    step = artifact.manifest.outputs[0].scale
    parity = kacc.parity(model, artifact, x)
    assert parity.max_abs == pytest.approx(np.abs(got - want).max())
    assert parity.largest_lsb * step <= bound.max() + step
    assert parity.argmax_agreement >= 0.9
    assert np.abs(got - want).mean() <= 2 * step


def test_every_layer_in_fixed_point(plain):
    """16 bits from calibration: as near as averages, tables and steps allow."""
    model, artifact = plain
    x, infos = samples(model), artifact.manifest.inputs
    got, want = artifact.predict(x), model.predict(x, verbose=0)
    bounds = Bounds(model, gather(x, infos, "x")).outputs([x[i.name] for i in infos])
    for info, bound in zip(artifact.manifest.outputs, bounds, strict=True):
        distance = np.abs(got[info.name] - want[info.name])
        assert distance.shape == bound.shape
        assert (distance <= bound + 1e-6).all()
        assert bound.max() < 0.01 * np.ptp(want[info.name]) + SIGMOID


def test_manifest_lists_the_layers(conv):
    _, artifact = conv
    rows = artifact.operations()
    assert [row.layer for row in rows][:2] == ["stem", "relu"]
    assert sum(row.macs for row in rows) == artifact.manifest.report["macs"]
    kernel = 3 * 3 * 2 * 4
    bias = int(artifact.manifest.report["precisions"]["stem"]["bias"][9:].split(",")[0])
    assert rows[0].bytes == (kernel * 8 + 4 * bias + 7) // 8
    assert not any("dropout" in row.layer or "norm" in row.layer for row in rows)
    assert artifact.manifest.outputs[0].scale == 2**-8  # of a softmax in 8 bits
    assert str(artifact.path.parent) not in "".join(
        path.read_text(errors="ignore")
        for path in artifact.path.rglob("*")
        if path.is_file()
    )


CHILD = """
import sys
import numpy as np
from kacc.converters.artifact import open_artifact
artifact = open_artifact(sys.argv[1])
np.save(sys.argv[2], artifact.predict(np.load(sys.argv[3])))
"""


def test_another_process_opens_a_moved_project(dense, tmp_path):
    model, artifact = dense
    x = samples(model, 5)
    np.save(tmp_path / "x.npy", x)
    moved = tmp_path / "moved"
    shutil.copytree(artifact.path, moved)
    for library in (moved / "firmware").glob("*.so"):
        library.unlink()  # it is compiled again
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(moved)]
    subprocess.run([*command, tmp_path / "y.npy", tmp_path / "x.npy"], check=True)
    assert np.array_equal(np.load(tmp_path / "y.npy"), artifact.predict(x))
    assert not list((moved / "firmware").glob("*.so"))  # nothing in it has changed


def test_a_missing_compiler_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KaccError, match=r"compiled and run by g\+\+.*no g\+\+"):
        kacc.convert(dense_model(), tmp_path / "project", "fpga-hls")
    assert not list(tmp_path.iterdir())


def odd(layer, shape):
    return keras.Sequential([keras.Input(shape), layer])


@pytest.mark.parametrize(
    ("layer", "shape", "named"),
    [
        (layers.LayerNormalization(name="odd"), (4,), r"odd \(LayerNormalization"),
        (layers.Dense(2, "gelu", name="odd"), (4,), r"odd \(Dense with .* gelu"),
        (layers.Softmax(axis=1, name="odd"), (4, 3), r"odd \(Softmax: "),
        (layers.Dense(2, name="odd"), (3, 4), r"odd \(Dense of more than a vector"),
        (layers.LSTM(2, name="odd"), (3, 4), r"odd \(LSTM"),
        (layers.Conv2D(2, 3, dilation_rate=2, name="odd"), (8, 8, 1), "dilation"),
        (layers.Conv2D(2, 3, name="odd"), (None, None, 1), "free size"),
    ],
)
def test_unsupported_layers_are_named(layer, shape, named, tmp_path):
    with pytest.raises(ConversionError, match=named):
        kacc.convert(odd(layer, shape), tmp_path / "project", "fpga-hls")
    assert not list(tmp_path.iterdir())


def test_an_error_leaves_nothing(tmp_path, monkeypatch):
    def fails(folder):
        assert list(folder.iterdir())  # half of it is there
        raise KaccError("g++ must compile the project")

    monkeypatch.setattr("kacc.converters.hls_project.compile_project", fails)
    with pytest.raises(KaccError, match="must compile"):
        kacc.convert(dense_model(), tmp_path / "project", "fpga-hls")
    assert not list(tmp_path.iterdir())


def test_a_project_that_does_not_run_is_an_error(tmp_path):
    from kacc.converters import hls_project

    source = tmp_path / "broken.cpp"
    source.write_text(
        "#include <cassert>\n"
        f'extern "C" void {hls_project.PROJECT}_float(float*, float*)'
        '{ assert(false && "no such thing"); }\n'
    )
    library = tmp_path / "broken.so"
    subprocess.run(["g++", "-shared", "-fPIC", source, "-o", library], check=True)
    with pytest.raises(ConversionError, match="no such thing"):
        hls_project._try(library, Emulation(dense_model()).plain)


@pytest.mark.parametrize(
    "options",
    [{"reuse_factor": 0}, {"io_type": "io_serial"}, {"opset": 17}, {"io": "int16"}],
)
def test_wrong_options_are_refused(options, tmp_path):
    with pytest.raises(UsageError, match=next(iter(options))):
        kacc.convert(dense_model(), tmp_path / "project", "fpga-hls", **options)


def test_streams_and_shared_multipliers_compute_the_same(conv, tmp_path):
    model, artifact = conv
    other = kacc.convert(
        model, tmp_path / "stream", "fpga-hls", io_type="io_stream", reuse_factor=2
    )
    parameters = (other.path / "firmware" / "parameters.h").read_text()
    assert "nnet::io_stream" in parameters
    assert "reuse_factor = 2" in parameters
    x = samples(model, 10)
    assert np.array_equal(other.predict(x), artifact.predict(x))
    assert json.loads((other.path / "kacc.json").read_text())["options"] == {
        "batch": None,
        "io_type": "io_stream",
        "reuse_factor": 2,
    }
    assert open_artifact(other.path).manifest == other.manifest
