"""`kacc.convert` on plain models: values, types, names, sizes, and bad input."""

import os

import keras
import numpy as np
import pytest

from kacc.converters import flatbuffer
from kacc.converters.artifact import open_artifact
from kacc.converters.convert import convert
from kacc.core.errors import ConversionError, KaccError, UsageError

layers = keras.layers
BACKENDS = ["tflite", "ai-edge", "kacc"]


@pytest.fixture(scope="module")
def dense():
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [keras.Input((4,), name="x"), layers.Dense(3, name="y")], name="dense"
    )


@pytest.fixture(scope="module")
def points():
    return np.random.default_rng(0).normal(size=(64, 4)).astype("float32")


@pytest.mark.parametrize(
    ("target", "tolerance"),
    [("tflite-float16", 2e-3), ("tflite-dynamic", 2e-2), ("tflite-float32", 1e-6)],
)
def test_float_targets_lie_near_the_model(model, images, tmp_path, target, tolerance):
    artifact = convert(model, tmp_path / "m.tflite", target)
    got = artifact.predict(images)
    assert got.dtype == "float32"
    np.testing.assert_allclose(got, model(images), atol=tolerance)
    assert artifact.manifest.target == artifact.target == target
    assert artifact.manifest.options == {"batch": None}


def test_int8_is_all_integer_and_near(model, images, int8_file):
    data = int8_file.path.read_bytes()
    assert not list(flatbuffer.float_operators(data, float_io=False))
    inputs, outputs = int8_file.manifest.inputs, int8_file.manifest.outputs
    assert [x.dtype for x in (*inputs, *outputs)] == ["int8", "int8"]
    np.testing.assert_allclose(int8_file.predict(images), model(images), atol=0.05)


def test_shapes_that_ai_edge_leaves_in_float_go_with_a_fixed_batch(images, tmp_path):
    transposed = layers.Conv2DTranspose(2, 2, strides=2, name="up")
    model = keras.Sequential([keras.Input((8, 8, 3)), transposed])
    call = model, tmp_path / "m.tflite", "tflite-int8", images
    with pytest.raises(ConversionError, match=r"SHAPE from up.*batch=1"):
        convert(*call, backend="ai-edge")
    artifact = convert(*call, backend="ai-edge", batch=1)
    assert artifact.manifest.backend == "ai-edge"


def test_float_inputs_of_an_int8_file(two_file, two_by_two, images, extras):
    assert {x.dtype for x in two_file.manifest.inputs} == {"float32"}
    got = two_file.predict([images, extras])
    want = two_by_two([images, extras])
    for name in want:
        np.testing.assert_allclose(got[name], want[name], atol=0.1)


def test_names_and_order_of_two_inputs_and_outputs(
    two_file, two_by_two, images, extras
):
    manifest = two_file.manifest
    assert [x.name for x in manifest.inputs] == ["image", "extra"]
    assert [x.name for x in manifest.outputs] == ["amount", "probability"]
    by_list = two_file.predict([images, extras])
    by_name = two_file.predict({"extra": extras, "image": images})
    assert list(by_list) == ["amount", "probability"]
    assert by_list["amount"].shape == (80, 1)
    for name, value in by_list.items():
        np.testing.assert_array_equal(value, by_name[name])


@pytest.mark.parametrize("batch", [1, 6])
def test_a_fixed_batch_size(model, images, int8_file, tmp_path, batch):
    artifact = convert(
        model,
        tmp_path / "m.tflite",
        "tflite-int8",
        images,
        batch=batch,
        backend=int8_file.manifest.backend,
    )
    assert artifact.manifest.inputs[0].shape == (batch, 8, 8, 3)
    assert artifact.manifest.options["batch"] == batch
    np.testing.assert_array_equal(artifact.predict(images), int8_file.predict(images))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("io", ["int8", "float32"])
def test_all_backends_make_integer_files(model, images, tmp_path, backend, io):
    artifact = convert(
        model, tmp_path / "m.tflite", "tflite-int8", images, backend=backend, io=io
    )
    assert artifact.manifest.backend == backend
    assert artifact.manifest.inputs[0].dtype == io
    assert artifact.manifest.options["io"] == io
    np.testing.assert_allclose(artifact.predict(images), model(images), atol=0.05)


def test_the_nearer_backend_is_kept(model, images, int8_file, tmp_path):
    distances = {}
    for backend in BACKENDS:
        artifact = convert(
            model, tmp_path / "m.tflite", "tflite-int8", images, backend=backend
        )
        distances[backend] = float(
            np.square(artifact.predict(images) - model(images)).mean()
        )
    assert len(set(distances.values())) == len(BACKENDS)
    assert int8_file.manifest.backend == min(distances, key=distances.get)


def test_the_same_conversion_gives_the_same_bytes(dense, points, tmp_path):
    files = [
        convert(dense, tmp_path / f"{i}.tflite", "tflite-int8", points).path
        for i in range(2)
    ]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_subclassed_models_with_operators(images, tmp_path):
    class Net(keras.Model):
        def __init__(self):
            super().__init__(name="residual")
            self.first = layers.Conv2D(3, 3, padding="same", activation="relu")
            self.head = keras.Sequential([layers.Flatten(), layers.Dense(2)])

        def call(self, x):
            return self.head(keras.ops.relu(self.first(x) + x))

    net = Net()
    want = net(images)
    for target, tolerance in (("tflite-float32", 1e-5), ("tflite-int8", 0.1)):
        artifact = convert(net, tmp_path / "m.tflite", target, images)
        np.testing.assert_allclose(artifact.predict(images), want, atol=tolerance)


def test_integer_inputs_stay_integers(tmp_path):
    ids = np.random.default_rng(0).integers(0, 9, (40, 5))
    model = keras.Sequential(
        [
            keras.Input((5,), dtype="int32", name="ids"),
            layers.Embedding(9, 4),
            layers.GlobalAveragePooling1D(),
            layers.Dense(2),
        ]
    )
    artifact = convert(model, tmp_path / "m.tflite", "tflite-int8", ids)
    assert artifact.manifest.inputs[0].dtype == "int32"
    np.testing.assert_allclose(artifact.predict(ids), model(ids), atol=0.02)


def test_half_precision_models_become_float32_files(images, tmp_path):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(3, 3, dtype="mixed_bfloat16"),
            layers.Flatten(dtype="mixed_bfloat16"),
        ]
    )
    artifact = convert(model, tmp_path / "m.tflite", "tflite-float32")
    want = np.asarray(model(images)).astype("float32")
    assert artifact.predict(images).dtype == "float32"
    np.testing.assert_allclose(artifact.predict(images), want, atol=0.05)
    assert model.layers[0].dtype_policy.name == "mixed_bfloat16"


def test_nothing_is_printed(dense, points, tmp_path, capfd):
    artifact = convert(dense, tmp_path / "m.tflite", "tflite-int8", points)
    artifact.predict(points)
    assert capfd.readouterr() == ("", "")


def test_operators_that_stay_float_are_listed_with_their_layers(images, tmp_path):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(2, 3, name="conv"),
            layers.ELU(name="first"),
            layers.Conv2D(2, 3, name="conv_1"),
            layers.ELU(name="second"),
        ]
    )
    path = tmp_path / "m.tflite"
    path.write_bytes(b"old")
    for backend in ("tflite", "ai-edge"):
        with pytest.raises(ConversionError, match="ELU from first, ELU from second"):
            convert(model, path, "tflite-int8", images, backend=backend)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["m.tflite"]
    # kacc knows an elu of integers.
    artifact = convert(model, path, "tflite-int8", images)
    assert artifact.manifest.backend == "kacc"


def test_operations_without_operator_are_listed_with_their_layers(images, tmp_path):
    class Inverse(layers.Layer):
        def call(self, x):
            return keras.ops.erfinv(x / 100)

    model = keras.Sequential([keras.Input((8, 8, 3)), Inverse(name="inverse")])
    with pytest.raises(ConversionError, match=r"tf\.Erfinv from inverse") as caught:
        convert(model, tmp_path / "m.tflite", "tflite-float32")
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


BAD = [
    ({"target": "tflite-int9"}, UsageError, "Did you mean 'tflite-int8'"),
    ({"target": None}, UsageError, "`target` must be one of"),
    ({"path": "model.keras"}, UsageError, "must end with '.tflite'"),
    ({"path": "missing/m.tflite"}, KaccError, "folder of the file must exist"),
    ({"io": "uint4"}, UsageError, "`io` must be one of"),
    ({"batch": 0}, UsageError, "`batch` must be a positive integer"),
    ({"batch": True}, UsageError, "`batch` must be a positive integer"),
    ({"backend": "onnx"}, UsageError, "`backend` must be one of"),
    ({"target": "tflite-float32", "backend": "tflite"}, UsageError, "no choice"),
    ({"calibration": None}, UsageError, "needs calibration data"),
    ({"calibration": np.zeros((0, 4))}, UsageError, "at least one sample"),
    ({"calibration": np.full((4, 4), np.nan)}, UsageError, "must be finite"),
    ({"calibration": np.zeros((4, 5))}, UsageError, r"shape \(any, 4\)"),
    ({"calibration": np.array([["a"] * 4])}, UsageError, "type that becomes float32"),
    ({"model": keras.Sequential([layers.Dense(2)])}, UsageError, "must be built"),
    ({"model": "model.keras"}, UsageError, "Only Keras 3 models"),
]


@pytest.mark.parametrize(("changes", "error", "message"), BAD)
def test_bad_input_is_one_line_and_touches_nothing(
    dense, points, tmp_path, changes, error, message
):
    good = {"model": dense, "path": "m.tflite", "target": "tflite-int8"}
    call = {**good, "calibration": points, **changes}
    path = tmp_path / call.pop("path")
    old = tmp_path / "m.tflite"
    old.write_bytes(b"old")
    with pytest.raises(error, match=message) as caught:
        convert(call.pop("model"), path, call.pop("target"), **call)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["m.tflite"]
    assert old.read_bytes() == b"old"


def test_a_new_file_takes_the_place_of_the_old_one(dense, points, tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(b"old")
    artifact = convert(dense, path, "tflite-float32")
    assert open_artifact(path) == artifact
    assert os.listdir(tmp_path) == ["m.tflite"]


@pytest.mark.parametrize(("large", "times"), [(2**22, 0), (100, 1)])
def test_memory_is_given_back_after_large_files_only(
    dense, tmp_path, monkeypatch, large, times
):
    from types import SimpleNamespace

    from kacc.core import memory

    calls = []
    monkeypatch.setattr(memory, "LARGE", large)
    collector = SimpleNamespace(collect=lambda: calls.append("collected"))
    monkeypatch.setattr(memory, "gc", collector)
    convert(dense, tmp_path / "m.tflite", "tflite-float32")
    assert len(calls) == times
