import numpy as np
import pytest

from kacc.converters import flatbuffer
from kacc.core.errors import KaccError
from kacc.core.manifest import TensorInfo


def test_metadata_is_read_back_and_replaced(float_file):
    data = float_file.path.read_bytes()
    once = flatbuffer.with_metadata(data, "note", b"first")
    twice = flatbuffer.with_metadata(once, "note", b"second, longer")
    assert flatbuffer.read_metadata(data, "note") is None
    assert flatbuffer.read_metadata(once, "note") == b"first"
    assert flatbuffer.read_metadata(twice, "note") == b"second, longer"
    assert flatbuffer.read_metadata(twice, flatbuffer.MANIFEST)


def test_buffers_are_aligned_as_the_schema_demands(int8_file):
    """FlatBuffers' own packing of Python objects leaves this out."""
    from ai_edge_litert import schema_py_generated as schema

    data = np.frombuffer(int8_file.path.read_bytes(), np.uint8)
    model = schema.Model.GetRootAs(data, 0)
    start = data.__array_interface__["data"][0]
    offsets = [
        content.__array_interface__["data"][0] - start
        for i in range(model.BuffersLength())
        if model.Buffers(i).DataLength()
        for content in [model.Buffers(i).DataAsNumpy()]
    ]
    assert len(offsets) > 8
    assert all(offset % 16 == 0 for offset in offsets)


def test_a_new_packing_changes_no_output(int8_file, images, tmp_path):
    from kacc.converters.artifact import open_artifact

    data = flatbuffer.with_metadata(int8_file.path.read_bytes(), "pad", b"x" * 1001)
    (tmp_path / "again.tflite").write_bytes(data)
    again = open_artifact(tmp_path / "again.tflite")
    np.testing.assert_array_equal(again.predict(images), int8_file.predict(images))
    assert again.manifest.inputs == int8_file.manifest.inputs


def test_inputs_and_outputs_with_their_grids(two_file):
    inputs, outputs = flatbuffer.signature(two_file.path.read_bytes())
    assert set(inputs) == {"image", "extra"}
    assert set(outputs) == {"probability", "amount"}
    image = inputs["image"]
    assert (image.shape, image.dtype) == ((None, 8, 8, 3), "float32")
    # Behind the QUANTIZE that a float input meets lies a grid.
    assert image.is_quantized
    assert -128 <= image.zero_point <= 127
    assert outputs["probability"].scale == 1 / 256


def test_float_files_have_no_grid(float_file):
    inputs, _ = flatbuffer.signature(float_file.path.read_bytes())
    assert inputs == {"image": TensorInfo("image", (None, 8, 8, 3), "float32")}


def test_float_operators_are_found(float_file, int8_file, two_file):
    floats = list(flatbuffer.float_operators(float_file.path.read_bytes(), True))
    assert {operator.name for operator, _ in floats} >= {"CONV_2D", "SOFTMAX"}
    assert not list(flatbuffer.float_operators(int8_file.path.read_bytes(), False))
    with_io = two_file.path.read_bytes()
    assert not list(flatbuffer.float_operators(with_io, True))
    boundary = {op.name for op, _ in flatbuffer.float_operators(with_io, False)}
    assert boundary == {"QUANTIZE", "DEQUANTIZE"}


def test_what_is_no_tflite_file():
    with pytest.raises(KaccError, match="must be a TFLite file"):
        flatbuffer.check_tflite(b"", "empty")


def test_buffers_behind_the_flatbuffer_are_taken_inside(int8_file, images, tmp_path):
    """ai-edge-quantizer writes files above a megabyte in this way."""
    from ai_edge_litert import schema_py_generated as schema

    from kacc.converters.artifact import open_artifact

    data = int8_file.path.read_bytes()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    contents = {i: b.data for i, b in enumerate(model.buffers) if b.data is not None}
    for i in contents:
        # Large for now, so that the fields take their room.
        model.buffers[i] = schema.BufferT(None, offset=2**40, size=2**40)
    base = len(flatbuffer.pack(model, len(data)))
    behind, position = b"", base + (-base % 16)
    for i, content in contents.items():
        model.buffers[i].offset = position + len(behind)
        model.buffers[i].size = len(content)
        behind += content.tobytes() + b"\0" * (-len(content) % 16)
    head = flatbuffer.pack(model, len(data))
    assert len(head) == base
    outside = head.ljust(position, b"\0") + behind
    (tmp_path / "m.tflite").write_bytes(flatbuffer.with_metadata(outside, "a", b"b"))
    again = open_artifact(tmp_path / "m.tflite")
    np.testing.assert_array_equal(again.predict(images), int8_file.predict(images))
    before = [t.constant for t in flatbuffer.subgraphs(data)[0].tensors]
    assert [t.constant for t in flatbuffer.subgraphs(outside)[0].tensors] == before
