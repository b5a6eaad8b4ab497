"""Layers that a rule keeps in float, in files of integers."""

import os

import keras
import numpy as np
import pytest

import kacc
from kacc.converters import flatbuffer
from kacc.converters.convert import convert
from kacc.converters.islands import without_barriers
from kacc.converters.parity import parity
from kacc.core.errors import ConversionError
from kacc.quantization import calibrate

layers = keras.layers


def untrained():
    """Wide enough that the converter would make int8 of float weights if it could."""
    keras.utils.set_random_seed(2)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem")(image)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU(name="relu")(x)
    y = layers.Conv2D(16, 3, padding="same", activation="relu", name="conv")(x)
    x = layers.Add(name="sum")([x, y])
    x = layers.Dropout(0.5, name="drop")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(4, activation="softmax", name="classes")(x)
    return keras.Model(image, x, name="net")


def converted(pattern, images, path, io="int8"):
    rule = kacc.Rule(pattern, skip=True)
    with pytest.warns(UserWarning, match="kacc leaves in float"):
        model = kacc.quantize(untrained(), rules=[rule])
    with pytest.warns(UserWarning, match="computes in float, as rules say") as caught:
        artifact = convert(model, path, "tflite-int8", images, io=io)
    return model, artifact, str(caught[0].message)


def floats(artifact):
    """The operators that compute in float, and the types of constants they read."""
    found = {}
    for operator, graph in flatbuffer.float_operators(artifact.read(), False):
        if operator.name not in ("QUANTIZE", "DEQUANTIZE"):
            tensors = [graph.tensors[i] for i in operator.inputs if i >= 0]
            types = {t.type for t in tensors if t.constant}
            found[operator.name] = types & {"INT8", "FLOAT32", "FLOAT16"}
    return found


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("pattern", "operators"),
    [
        ("stem", {"CONV_2D"}),
        ("conv", {"CONV_2D"}),
        ("norm", {"MUL"}),
        ("relu", {"RELU"}),
        ("sum", {"ADD"}),
        ("pool", {"MEAN"}),
        ("stem|norm|relu", {"CONV_2D"}),
        ("conv|sum", {"CONV_2D", "ADD"}),
        ("stem|classes", {"CONV_2D", "FULLY_CONNECTED", "SOFTMAX"}),
    ],
)
@pytest.mark.parametrize("io", ["int8", "float32"])
def test_what_a_rule_skips_is_in_float_and_equal(
    images, tmp_path, pattern, operators, io
):
    model, artifact, message = converted(pattern, images, tmp_path / "m.tflite", io)
    in_float = floats(artifact)
    assert set(in_float) == operators
    assert all("INT8" not in types for types in in_float.values())
    named = {part.split(" from ")[1] for part in message.split(": ")[1].split(", ")}
    assert named <= set(pattern.split("|"))
    found = parity(model, artifact, images)
    if "classes" in pattern:  # floats at the end differ by the order of additions
        assert found.max_abs < 1e-6
        assert artifact.manifest.outputs[0].dtype == "float32"
    else:
        assert found.equal == 1
    assert found.first_difference is None


@pytest.mark.parametrize("kernels", ["builtin", "reference"])
def test_other_kernels(images, tmp_path, kernels):
    model, artifact, _ = converted("conv|sum", images, tmp_path / "m.tflite")
    assert parity(model, artifact, images, kernels).equal == 1


def test_a_skipped_layer_without_an_operator(images, tmp_path):
    with pytest.warns(UserWarning, match="kacc leaves in float"):
        model = kacc.quantize(untrained(), rules=[kacc.Rule("drop", skip=True)])
    artifact = convert(model, tmp_path / "m.tflite", "tflite-int8", images)
    assert not list(flatbuffer.float_operators(artifact.read(), False))
    assert parity(model, artifact, images).equal == 1


def test_plain_models_by_rules(images, tmp_path):
    model = untrained()
    with pytest.warns(UserWarning, match="in float, as rules say: CONV_2D from conv"):
        artifact = convert(
            model,
            tmp_path / "m.tflite",
            "tflite-int8",
            images,
            rules=[kacc.Rule("conv", skip=True)],
        )
    assert set(floats(artifact)) == {"CONV_2D"}
    assert artifact.manifest.backend == "kacc"
    assert artifact.manifest.options["rules"][0]["pattern"] == "conv"
    np.testing.assert_allclose(artifact.predict(images), model(images), atol=0.02)


def test_no_trace_of_what_kept_them_apart(images, tmp_path):
    _, artifact, _ = converted("conv", images, tmp_path / "m.tflite")
    (graph,) = flatbuffer.subgraphs(artifact.read())
    assert not [t.name for t in graph.tensors if "kacc_float" in t.name]
    assert "SIN" not in {operator.name for operator in graph.operators}
    from ai_edge_litert import schema_py_generated as schema

    file = schema.Model.GetRootAs(artifact.read(), 0)
    codes = [file.OperatorCodes(i) for i in range(file.OperatorCodesLength())]
    assert schema.BuiltinOperator.SIN not in {code.BuiltinCode() for code in codes}
    used = {i for op in graph.operators for i in (*op.inputs, *op.outputs)}
    assert used >= set(range(len(graph.tensors)))


def test_files_without_barriers_are_left_alone(int8_file, images, tmp_path):
    data = int8_file.read()
    assert without_barriers(data) is data
    image = keras.Input((8, 8, 3), name="image")
    model = keras.Model(image, keras.ops.sin(layers.Conv2D(2, 3, name="conv")(image)))
    own = convert(model, tmp_path / "m.tflite", "tflite-float32").read()
    assert without_barriers(own) is own


def test_what_fell_to_float_unasked_is_refused(images, tmp_path):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(2, 3, name="conv"),
            layers.GroupNormalization(1, name="norm"),
            layers.Conv2D(2, 3, name="last"),
        ]
    )
    with pytest.warns(UserWarning, match="kacc leaves in float"):
        kacc.quantize(model, rules=[kacc.Rule("last", skip=True)])
    with pytest.raises(ConversionError, match=r"in float: .* from norm") as caught:
        convert(model, tmp_path / "m.tflite", "tflite-int8", images)
    assert "from last" not in str(caught.value)
    assert "skip them by a rule" in str(caught.value)
    assert os.listdir(tmp_path) == []
    both = kacc.Rule("last|norm", skip=True)
    with pytest.warns(UserWarning, match="kacc leaves in float"):
        kacc.quantize(model, rules=[both])
    with pytest.warns(UserWarning, match="from norm"):
        artifact = convert(model, tmp_path / "m.tflite", "tflite-int8", images)
    assert parity(model, artifact, images).max_abs < 1e-4


@pytest.mark.parametrize("io", ["int8", "float32"])
def test_a_skipped_layer_may_read_an_output(images, tmp_path, io):
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="conv")(image)
    model = keras.Model(image, [x, layers.Conv2D(2, 1, name="head")(x)])
    with pytest.warns(UserWarning, match="kacc leaves in float"):
        kacc.quantize(model, rules=[kacc.Rule("head", skip=True)])
    calibrate(model, [images])
    with pytest.warns(UserWarning, match="computes in float, as rules say"):
        artifact = convert(model, tmp_path / "m.tflite", "tflite-int8", io=io)
    assert artifact.manifest.outputs[1].dtype == "float32"
    assert parity(model, artifact, images).equal == 1


def reshaped_alike():
    """Operators on tensors that were reshaped and have one grid."""
    image = keras.Input((8, 8, 3))
    rows = layers.Reshape((8, 24))(image)
    conv = layers.Conv1D(4, 3)(rows)
    gates = [layers.Dense(4, activation="sigmoid")(rows) for _ in range(2)]
    flat = [layers.Flatten()(gate) for gate in gates]
    norm = layers.RMSNormalization()(layers.BatchNormalization()(rows))
    outputs = [keras.ops.square(conv), conv, layers.Multiply()(gates)]
    return keras.Model(image, [*outputs, layers.Add()(flat), norm])


def test_operators_on_reshaped_tensors_of_one_grid(images, tmp_path):
    """The converter would take them before the reshape, and give them its range."""
    keras.utils.set_random_seed(0)
    model = kacc.quantize(reshaped_alike())
    calibrate(model, [images])
    artifact = convert(model, tmp_path / "m.tflite", "tflite-int8")
    assert parity(model, artifact, images).equal == 1
    operators = [op.name for op in flatbuffer.subgraphs(artifact.read())[0].operators]
    assert not {"QUANTIZE", "DEQUANTIZE", "SIN"} & set(operators)
