"""Files of which one constant was changed: parity names the operator that reads it."""

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from kacc.converters import flatbuffer
from kacc.converters.artifact import open_artifact
from kacc.converters.convert import convert
from kacc.converters.parity import parity
from kacc.converters.runtime import host
from kacc.quantization import calibrate
from kacc.quantization.copies import quantized_copy

layers = keras.layers


def build():
    """Layers of one operator and of several, a shared one, an inner model."""
    keras.utils.set_random_seed(2)
    inner = keras.Sequential(
        [
            layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
        ],
        name="stem",
    )
    image = keras.Input((8, 8, 3), name="image")
    x = inner(image)
    shared = layers.Conv2D(8, 1, activation="relu", name="shared")
    x = shared(shared(x))
    y = layers.SeparableConv2D(8, 3, padding="same", name="separable")(x)
    z = layers.Conv2D(8, 1, activation="swish", name="gated")(x)
    x = layers.Concatenate(name="join")([x, y, z])
    x = layers.MaxPooling2D(name="largest")(x)
    x = layers.Conv2DTranspose(4, 2, strides=2, activation="elu", name="up")(x)
    x = layers.Flatten(name="flat")(x)
    x = layers.Dense(8, activation="tanh", name="hidden")(x)
    return keras.Model(image, layers.Dense(4, activation="softmax", name="classes")(x))


@pytest.fixture(scope="module")
def copy(images):
    result = quantized_copy(build())
    calibrate(result, [images])
    return result


@pytest.fixture(scope="module")
def file(copy, tmp_path_factory):
    path = tmp_path_factory.mktemp("altered") / "model.tflite"
    return convert(copy, path, "tflite-int8")


def constants(data):
    """The int8 constants that the convolutions and products of a file read, once."""
    (graph,) = flatbuffer.subgraphs(data)
    found = {}
    for operator in graph.operators:
        for index in operator.inputs:
            tensor = graph.tensors[index]
            if tensor.constant and tensor.type == "INT8" and np.prod(tensor.shape) > 1:
                found.setdefault(index, operator)
    return found


def altered(data, index, path):
    """The file with half the values in one constant."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    buffer = model.buffers[model.subgraphs[0].tensors[index].buffer]
    values = np.frombuffer(bytes(buffer.data), np.int8)
    buffer.data = (values // 2).astype(np.int8).view(np.uint8)
    path.write_bytes(flatbuffer.pack(model, len(data)))
    return open_artifact(path)


def test_every_tensor_of_an_unaltered_file_is_in_the_table(copy, file, images):
    found = parity(copy, file, images)
    assert found.equal == 1
    assert found.first_difference is None
    (graph,) = flatbuffer.subgraphs(file.read())
    kinds = [
        op.name
        for op in graph.operators
        if op.name != "QUANTIZE" and graph.tensors[op.outputs[0]].type == "INT8"
    ]
    assert [row.operator for row in found.layers] == kinds
    assert [row.layer for row in found.layers].count("shared") == 2
    assert "flat" in {row.layer for row in found.layers}


@pytest.mark.parametrize("kernels", ["xnnpack", "reference"])
def test_the_operator_whose_weights_changed_is_the_first(
    copy, file, images, tmp_path, kernels
):
    """Of a gate the convolution, of a separable layer its own half."""
    named = []
    for index, operator in constants(file.read()).items():
        artifact = altered(file.read(), index, tmp_path / "m.tflite")
        found = parity(copy, artifact, images[:16], kernels)
        first = found.first_difference
        (graph,) = flatbuffer.subgraphs(file.read())
        assert first.tensor == graph.tensors[operator.outputs[0]].name
        assert first.operator == operator.name
        assert first.largest_lsb > 1
        named.append(f"{first.layer} ({first.operator}, ")
        assert f"First layer that differs: {named[-1]}" in str(found)
        assert f"{kernels} kernels, {host()}" in str(found)
    assert named == [
        "stem/relu (CONV_2D, ",
        "shared (CONV_2D, ",
        "gated (CONV_2D, ",
        "separable (DEPTHWISE_CONV_2D, ",
        "separable (CONV_2D, ",
        "up (TRANSPOSE_CONV, ",
        "hidden (FULLY_CONNECTED, ",
        "classes (FULLY_CONNECTED, ",
    ]
