import hashlib

import numpy as np
import pytest

from kacc.converters.artifact import open_artifact
from kacc.converters.flatbuffer import MANIFEST
from kacc.converters.runtime import KERNELS, from_grid, to_grid
from kacc.core.errors import KaccError, UsageError


def test_the_path_alone_is_enough(int8_file, two_file, float_file):
    for artifact in (int8_file, two_file, float_file):
        again = open_artifact(artifact.path)
        assert again == artifact
        assert again.manifest == artifact.manifest


def test_the_manifest_says_what_the_file_is(int8_file):
    manifest = int8_file.manifest
    data = int8_file.path.read_bytes()
    assert manifest.sha256 == hashlib.sha256(data).hexdigest()
    assert manifest.size_bytes == int8_file.size_bytes == len(data)
    assert manifest.scheme is None
    assert manifest.backend in ("tflite", "ai-edge", "kacc")
    assert set(manifest.versions) == {"kacc", "keras", "tensorflow"}
    assert manifest.options["calibration_samples"] == 80


def test_a_file_of_another_program_opens_too(two_file, images, extras, tmp_path):
    """Without a manifest the file alone tells order and target."""
    from ai_edge_litert import schema_py_generated as schema

    from kacc.converters.flatbuffer import pack

    data = two_file.path.read_bytes()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    model.metadata = [m for m in model.metadata if m.name != MANIFEST.encode()]
    (tmp_path / "foreign.tflite").write_bytes(pack(model, len(data)))
    foreign = open_artifact(tmp_path / "foreign.tflite")
    assert foreign.target == "tflite-int8"
    assert foreign.manifest.versions == {}
    feeds = {"image": images, "extra": extras}
    got, want = foreign.predict(feeds), two_file.predict(feeds)
    for name in want:
        np.testing.assert_array_equal(got[name], want[name])


@pytest.mark.parametrize("count", [1, 5, 64, 65, 80])
def test_any_number_of_samples(int8_file, images, count):
    whole = int8_file.predict(images)
    np.testing.assert_array_equal(int8_file.predict(images[:count]), whole[:count])


def test_raw_takes_and_gives_the_integers_of_the_file(int8_file, images):
    (image,), (classes,) = int8_file.manifest.inputs, int8_file.manifest.outputs
    integers = to_grid(images, image)
    raw = int8_file.predict(integers, raw=True)
    assert raw.dtype == "int8"
    np.testing.assert_array_equal(from_grid(raw, classes), int8_file.predict(images))


def test_raw_refuses_floats_rather_than_cut_them(int8_file, images):
    with pytest.raises(UsageError, match=r"file's own types, \['int8'\].*float32"):
        int8_file.predict(images, raw=True)


@pytest.mark.parametrize("kernels", sorted(KERNELS))
def test_every_set_of_kernels_runs(int8_file, images, kernels):
    got = int8_file.predict(images, kernels=kernels)
    np.testing.assert_allclose(got, int8_file.predict(images), atol=0.02)


def test_kernels_are_not_the_same_program(model, images, tmp_path):
    """If the choice had no effect, parity would name kernels that never ran."""
    from kacc.converters.convert import convert

    artifact = convert(model, tmp_path / "m.tflite", "tflite-float32")
    outputs = {k: artifact.predict(images, kernels=k) for k in KERNELS}
    assert (outputs["xnnpack"] != outputs["reference"]).any()


def test_threads_change_no_output(int8_file, images):
    got = int8_file.predict(images, threads=2)
    np.testing.assert_array_equal(got, int8_file.predict(images))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernels": "gpu"}, "`kernels` must be one of"),
        ({"threads": 0}, "`threads` must be a positive integer"),
    ],
)
def test_wrong_options(int8_file, images, options, message):
    with pytest.raises(UsageError, match=message):
        int8_file.predict(images, **options)


def test_data_that_does_not_fit(int8_file, images):
    with pytest.raises(UsageError, match=r"shape \(any, 8, 8, 3\)"):
        int8_file.predict(images[..., :2])
    with pytest.raises(UsageError, match="must be finite"):
        int8_file.predict(images * np.nan)


def test_files_that_cannot_be_opened(tmp_path):
    (tmp_path / "zip.tflite").write_bytes(b"PK\x03\x04 something else")
    for name, message in (
        ("zip.tflite", "must be a TFLite file"),
        ("none.tflite", "must exist"),
        (".", "Only these can be opened"),
    ):
        with pytest.raises(KaccError, match=message):
            open_artifact(tmp_path / name)


def test_a_file_that_changed_is_not_run(int8_file, images, tmp_path):
    copy = tmp_path / "copy.tflite"
    copy.write_bytes(int8_file.path.read_bytes())
    artifact = open_artifact(copy)
    copy.write_bytes(b"something else")
    with pytest.raises(KaccError, match="must be the one that was converted"):
        artifact.predict(images)
