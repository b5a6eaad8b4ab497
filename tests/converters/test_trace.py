"""The frozen graph: what it computes, and that names tell the layers apart."""

import keras
import numpy as np
import pytest

from kacc.converters.signature import signature_of
from kacc.converters.trace import freeze, with_constant_reshapes
from kacc.core.errors import ConversionError, UsageError

layers = keras.layers


def operations(graph):
    return {node.name: node.op for node in graph.graph_def.node}


def test_the_graph_computes_what_the_model_does(model, images):
    graph = freeze(model)
    (outputs,) = graph.run([images])
    np.testing.assert_allclose(outputs, model.predict(images, verbose=0), atol=1e-6)
    assert "VarHandleOp" not in operations(graph).values()


@pytest.mark.parametrize("batch", [None, 1, 7])
def test_the_batch_size_is_free_or_fixed(model, images, batch):
    graph = freeze(model, batch)
    assert graph.inputs[0].shape == (batch, 8, 8, 3)
    assert graph.outputs[0].shape == (batch, 5)
    outputs = graph.run([images[:10]])[0]
    np.testing.assert_allclose(outputs, model(images[:10]), atol=1e-6)


def test_names_are_exactly_the_paths_of_layers(model):
    """Keras opens scopes twice, which made the layer conv look like conv_1."""
    found = operations(freeze(model))
    for name in (
        "net/block/conv/convolution",
        "net/block/relu/Relu",
        "net/conv/convolution",
        "net/conv_1/convolution",
        "net/conv_1/Relu",
        "net/logits/MatMul",
        "net/classes/Softmax",
    ):
        assert name in found
    assert not any("block_1" in name or "conv_1_1" in name for name in found)


def test_operations_are_traced_back_to_their_layers(model):
    graph = freeze(model)
    assert graph.layer_of("net/block/conv/convolution") == "block/conv"
    assert graph.layer_of("net/conv_1/Relu") == "conv_1"
    assert graph.layer_of("net/Flat/Reshape") == "Flat"
    assert graph.layer_of("net/Add") is None
    assert graph.layer_of("other") is None


def test_both_calls_of_a_shared_layer_are_that_layer():
    image = keras.Input((8, 8, 3))
    shared = layers.Conv2D(3, 3, padding="same", name="shared")
    graph = freeze(keras.Model(image, shared(shared(image)), name="net"))
    convolutions = [n for n, op in operations(graph).items() if op == "Conv2D"]
    assert len(convolutions) == 2
    assert {graph.layer_of(name) for name in convolutions} == {"shared"}


def test_a_layer_called_like_an_operation_keeps_its_own_path():
    """TensorFlow's names ignore case: a layer relu collides with an operation Relu."""

    class Net(keras.Model):
        def __init__(self):
            super().__init__(name="net")
            self.conv = layers.Conv2D(2, 3, name="relu")

        def call(self, x):
            return self.conv(keras.ops.relu(x))

    net = Net()
    net(np.zeros((1, 8, 8, 3)))
    graph = freeze(net)
    convolution = next(n for n, op in operations(graph).items() if op == "Conv2D")
    operator = next(n for n, op in operations(graph).items() if op == "Relu")
    assert graph.layer_of(convolution) == "relu"
    assert graph.layer_of(operator) is None


def test_the_scopes_of_the_graph_are_restored_after_an_error():
    class Broken(layers.Layer):
        def call(self, x):
            raise ValueError("batch sizes must be odd")

        def compute_output_shape(self, shape):
            return shape

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape, x.dtype)

    model = keras.Sequential([keras.Input((3,)), Broken(name="broken")], name="net")
    with pytest.raises(ConversionError, match="batch sizes must be odd") as caught:
        freeze(model)
    assert "\n" not in str(caught.value)


def test_flatten_leaves_no_computed_shape(model):
    reshapes = [n for n in freeze(model).graph_def.node if n.op == "Reshape"]
    constants = {n.name for n in freeze(model).graph_def.node if n.op == "Const"}
    assert reshapes
    assert all(node.input[1] in constants for node in reshapes)


def test_shapes_with_two_computed_sizes_stay():
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((None, None, 4))])
    def function(x):
        shape = tf.shape(x)
        return tf.reshape(x, [shape[0], shape[1] * 2, 2])

    graph_def = function.get_concrete_function().graph.as_graph_def()
    before = graph_def.SerializeToString(deterministic=True)
    with_constant_reshapes(graph_def)
    assert graph_def.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_half_precision_is_traced_in_float32(policy, images):
    """The private parts of Keras that this rests on: layers inside layers, casting."""
    image = keras.Input((8, 8, 3))
    x = layers.TimeDistributed(layers.Dense(4, dtype=policy), dtype=policy)(image)
    x = layers.Conv2D(3, 3, dtype=policy)(x)
    x = layers.BatchNormalization(dtype=policy)(x)
    model = keras.Model(image, layers.Flatten(dtype=policy)(x))
    policies = [layer.dtype_policy.name for layer in model._flatten_layers()]
    graph = freeze(model)
    computing = [
        n for n in graph.graph_def.node if "MatMul" in n.op or n.op == "Conv2D"
    ]
    assert len(computing) >= 2
    assert {node.attr["T"].type for node in computing} == {1}  # DT_FLOAT
    assert graph.outputs[0].dtype == "float32"
    (outputs,) = graph.run([images[:4]])
    wanted = np.asarray(model(images[:4])).astype("float32")
    np.testing.assert_allclose(outputs, wanted, atol=0.05)
    assert [x.dtype_policy.name for x in model._flatten_layers()] == policies


def test_policies_come_back_after_an_error():
    class Broken(layers.Layer):
        def call(self, x):
            if self.compute_dtype == "float32":
                raise ValueError("only half precision")
            return x

    model = keras.Sequential([keras.Input((3,)), Broken(dtype="mixed_bfloat16")])
    with pytest.raises(ConversionError, match="only half precision"):
        freeze(model)
    assert model.layers[0].dtype_policy.name == "mixed_bfloat16"


def test_names_of_inputs_are_those_given_to_keras_input(two_by_two):
    signature = signature_of(two_by_two, None)
    assert [info.name for info in signature.inputs] == ["image", "extra"]
    sequential = keras.Sequential([keras.Input((3,), name="x"), layers.Dense(2)])
    assert signature_of(sequential, 4).inputs[0].name == "x"
    assert signature_of(sequential, 4).inputs[0].shape == (4, 3)


def test_outputs_are_named_by_key_layer_or_number(two_by_two):
    assert [x.name for x in freeze(two_by_two).outputs] == ["amount", "probability"]
    image = keras.Input((3,))
    twice = layers.Dense(2, name="head")(image)
    names = [x.name for x in freeze(keras.Model(image, [twice, twice])).outputs]
    assert names == ["head", "head_1"]


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="subclassed")
        self.dense = layers.Dense(2, name="dense")

    def call(self, inputs):
        left, right = inputs
        return [self.dense(left), right]


def test_subclassed_models_have_numbers_for_names():
    model = Subclassed()
    arrays = [np.ones((6, 3), "float32"), np.ones((6, 2), "float32")]
    expected = model(arrays)
    graph = freeze(model)
    assert [x.name for x in graph.inputs] == ["input_0", "input_1"]
    assert [x.name for x in graph.outputs] == ["output_0", "output_1"]
    assert [x.shape for x in graph.inputs] == [(None, 3), (None, 2)]
    for got, want in zip(graph.run(arrays), expected, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize("model", [Subclassed(), keras.Sequential([layers.Dense(2)])])
def test_unbuilt_models(model):
    with pytest.raises(UsageError, match=r"must be built.*Call it once on a batch"):
        freeze(model)


def test_what_is_no_keras_model():
    with pytest.raises(UsageError, match=r"Only Keras 3 models.*builtins\.int"):
        freeze(3)
