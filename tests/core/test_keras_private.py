"""The private names of Keras that kacc leans on: one test each, saying what for.

When one fails after an update of Keras, the module named in its docstring must change.
"""

import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from tests.core import models


@pytest.fixture
def dense():
    layer = layers.Dense(2)
    layer.build((None, 3))
    return layer


def test_registry_of_saved_classes():
    """_loading: names put into these two dictionaries are found when a model loads."""
    registry = importlib.import_module("keras.src.saving.object_registration")

    class Probe(layers.Layer):
        pass

    registry.GLOBAL_CUSTOM_OBJECTS["kacc_tests>Probe"] = Probe
    registry.GLOBAL_CUSTOM_NAMES[Probe] = "kacc_tests>Probe"
    try:
        config = keras.saving.serialize_keras_object(Probe(name="probe"))
        assert config["registered_name"] == "kacc_tests>Probe"
        config["module"] = "gone"
        assert type(keras.saving.deserialize_keras_object(config)) is Probe
    finally:
        del registry.GLOBAL_CUSTOM_OBJECTS["kacc_tests>Probe"]
        del registry.GLOBAL_CUSTOM_NAMES[Probe]


def test_tracker_refuses_and_takes_variables(dense):
    """core.attach, core.transform: a built layer refuses state until it is unlocked."""
    assert dense._tracker.locked
    with pytest.raises(ValueError, match="add new elements of state"):
        dense.extra = layers.Dense(1)
    dense._tracker.unlock()
    dense.extra = child = layers.Dense(1)
    dense._lock_state()
    assert dense._tracker.locked
    assert child in dense._layers
    dense._tracker.untrack(child)
    assert child not in dense._layers


def test_a_built_layer_lets_go_of_a_variable(dense):
    """core.transform: centroids of another count are forgotten."""
    dense._untrack_variable(dense.bias)
    assert [v.name for v in dense.variables] == ["kernel"]
    assert [v.name for v in dense.trainable_variables] == ["kernel"]
    assert dense._tracker.locked


def test_post_build_is_called_by_a_build_that_may_still_add_state():
    """core.attach: where transforms make the variables of a layer wrapped unbuilt."""
    seen = []

    class Probe(layers.Dense):
        def _post_build(self):
            super()._post_build()
            seen.append((self.built, self._tracker.locked, tuple(self.kernel.shape)))

    Probe(2).build((None, 3))
    Probe(2)(keras.Input((4,)))
    assert seen == [(True, False, (3, 2)), (True, False, (4, 2))]


def test_flatten_layers_walks_everything():
    """core.attach, core.graph: nested models, blocks, composite layers, each once."""
    model = models.nested()
    names = [layer.name for layer in model._flatten_layers()]
    assert {"nested", "body", "stem", "block", "conv", "relu", "head"} <= set(names)
    block = models.subclassed().block
    assert [x.name for x in block._flatten_layers()] == ["block", "first", "second"]
    lstm = layers.Bidirectional(layers.LSTM(2))
    lstm.build((None, 3, 4))
    kinds = {type(layer).__name__ for layer in lstm._flatten_layers()}
    assert {"LSTM", "LSTMCell"} <= kinds


def test_operations_of_a_functional_model():
    """core.attach: `operations` has the operators beside the layers."""
    kinds = [type(op).__name__ for op in models.operators().operations]
    assert {"Sigmoid", "Relu", "Add", "Concatenate", "Multiply", "Reshape"} <= set(
        kinds
    )


def test_functional_class_and_its_structure():
    """core.graph: the class, its `inputs`, and the outputs in their structure."""
    from keras.src.models.functional import Functional

    model = models.several()
    assert isinstance(model, Functional)
    assert set(model._outputs_struct) == {"kind", "amount"}
    assert all(isinstance(x, keras.KerasTensor) for x in model.inputs)


def test_sequential_has_a_functional_model_inside():
    """core.graph: `_functional`, None until the model is built."""
    assert models.small()._functional.inputs[0].shape == (None, 8)
    assert keras.Sequential([layers.Dense(2)])._functional is None


def test_standardized_inputs_are_in_the_order_of_the_inputs():
    """quantization.simulation: what a functional model makes of a call's arguments."""
    model = models.several()
    x = models.inputs_for(model, 2)
    flat = model._standardize_inputs(x)
    for tensor, value in zip(model.inputs, flat, strict=True):
        np.testing.assert_array_equal(value, x[tensor.name])


def test_build_shapes_of_subclassed_models():
    """core.graph, support.merge: the shapes that a layer was built with."""
    assert models.subclassed()._build_shapes_dict == {"input_shape": (2, 8, 8, 3)}
    add = layers.Add()
    add([np.ones((1, 3)), np.ones((1, 3)), np.ones((1, 3))])
    assert len(add._build_shapes_dict["input_shape"]) == 3


def test_a_model_restored_from_its_build_config_is_not_called_built_yet():
    """core.recipe: sets `built` itself before it attaches to what was built."""
    model = models.Plain()
    model.build_from_config({"input_shape": (2, 8, 8, 3)})
    assert not model.built
    assert model.head.built


def test_nodes_and_histories_of_the_graph():
    """core.graph walks from an output tensor to the nodes before it."""
    x = keras.Input((3,))
    layer = layers.Dense(2)
    y = layer(x, training=True) + 1.0
    node = y._keras_history.operation._inbound_nodes[y._keras_history.node_index]
    assert type(node.operation).__name__ == "Add"
    assert node.outputs == [y]
    (before,) = node.input_tensors
    (inner,) = layer._inbound_nodes
    assert before is inner.outputs[0]
    assert layer._outbound_nodes == [node]
    args, kwargs = inner.arguments.convert(lambda v: "tensor" if v is x else v)
    assert (args, kwargs) == (("tensor",), {"training": True})
    assert inner.arguments.args[0] is x
    assert inner.arguments.kwargs == {"training": True}


def test_operator_classes_behind_keras_ops():
    """support: the classes that `keras.ops` puts on a graph."""
    from keras.src.ops import core, image, math, nn, numpy
    from keras.src.ops.operation import Operation

    x = keras.Input((3,))
    images = keras.Input((4, 4, 4))
    cases = {
        numpy.Add: x + x,
        numpy.Subtract: x - x,
        numpy.Multiply: x * 2.0,
        numpy.Concatenate: ops.concatenate([x, x]),
        numpy.Reshape: ops.reshape(x, (-1, 3)),
        numpy.Ravel: ops.ravel(x),
        numpy.Transpose: ops.transpose(x),
        numpy.Tanh: ops.tanh(x),
        nn.Relu: ops.relu(x),
        nn.Relu6: ops.relu6(x),
        nn.LeakyRelu: ops.leaky_relu(x),
        nn.Sigmoid: ops.sigmoid(x),
        nn.Silu: ops.silu(x),
        nn.HardSilu: ops.hard_silu(x),
        nn.Gelu: ops.gelu(x),
        nn.Softmax: ops.softmax(x),
        nn.Celu: ops.celu(x),
        nn.Squareplus: ops.squareplus(x),
        nn.SoftShrink: ops.soft_shrink(x),
        nn.TanhShrink: ops.tanh_shrink(x),
        nn.LogSigmoid: ops.log_sigmoid(x),
        nn.SparsePlus: ops.sparse_plus(x),
        nn.MaxPool: ops.max_pool(images, 2),
        nn.AveragePool: ops.average_pool(images, 2),
        nn.DepthToSpace: ops.nn.depth_to_space(images, 2),
        nn.SpaceToDepth: ops.nn.space_to_depth(images, 2),
        numpy.Maximum: ops.maximum(x, x),
        numpy.Minimum: ops.minimum(x, x),
        numpy.Stack: ops.stack([x, x]),
        numpy.Divide: ops.divide(x, 2.0),
        numpy.TrueDivide: x / 2.0,
        numpy.Negative: -x,
        numpy.Square: ops.square(x),
        numpy.Power: x**2,
        numpy.Sqrt: ops.sqrt(x),
        numpy.Log: ops.log(x),
        math.Rsqrt: ops.rsqrt(x),
        numpy.Mean: ops.mean(x, axis=-1),
        numpy.Sum: ops.sum(x, axis=-1),
        numpy.Max: ops.max(x, axis=-1),
        numpy.Min: ops.min(x, axis=-1),
        numpy.Squeeze: ops.squeeze(ops.expand_dims(x, 1), 1),
        numpy.ExpandDims: ops.expand_dims(x, 1),
        numpy.Swapaxes: ops.swapaxes(images, 1, 2),
        numpy.Moveaxis: ops.moveaxis(images, 1, 2),
        numpy.Repeat: ops.repeat(x, 2, axis=1),
        numpy.Tile: ops.tile(x, (1, 2)),
        numpy.BroadcastTo: ops.broadcast_to(x, (5, 3)),
        numpy.Split: ops.split(x, 3, axis=1)[0],
        numpy.GetItem: x[:, 1:],
        numpy.Take: ops.take(x, [0], axis=1),
        numpy.Pad: ops.pad(x, ((0, 0), (1, 0))),
        core.Unstack: ops.unstack(x, axis=1)[0],
        core.StopGradient: ops.stop_gradient(x),
        core.Cast: ops.cast(x, "float16"),
        image.Resize: ops.image.resize(images, (2, 2)),
        image.PadImages: ops.image.pad_images(images, 1, 1, 1, 1),
        image.CropImages: ops.image.crop_images(images, 1, 1, 1, 1),
    }
    for cls, y in cases.items():
        assert type(y._keras_history.operation) is cls
        assert issubclass(cls, Operation)
    assert not issubclass(Operation, keras.Layer)


def test_layers_of_ready_made_models():
    """support.applications: Keras does not export them."""
    from keras.src.applications.convnext import LayerScale, StochasticDepth
    from keras.src.applications.inception_resnet_v2 import CustomScaleLayer

    assert LayerScale(0.1, 3).init_values == 0.1
    assert StochasticDepth(0.1).drop_path_rate == 0.1
    assert CustomScaleLayer(0.2).scale == 0.2


def test_operators_call_the_call_of_their_class():
    """core.attach: a swapped class of an operator is what the model then runs."""
    model = models.operators()
    (relu,) = [op for op in model.operations if type(op).__name__ == "Relu"]
    base = type(relu)
    relu.__class__ = type("Relu", (base,), {"call": lambda self, x: ops.zeros_like(x)})
    x = models.images(2)
    y = models.outputs(keras.Model(model.inputs, model.outputs), x)[0]
    head = model.get_layer("head")
    assert np.abs(y - head.bias.numpy()).max() < np.abs(head.kernel.numpy()).sum()
    relu.__class__ = type("Relu", (base,), {"call": lambda self, x: x * 1e6})
    assert np.abs(models.outputs(model, x)[0]).max() > 1e4


def test_running_call_context_tells_training():
    """core.transform: new for each outermost call; it holds `training`, and notes."""
    from keras.src.backend.common import global_state

    seen = []

    class Probe(layers.Layer):
        def call(self, x):
            context = global_state.get_global_attribute("current_call_ctx")
            seen.append((context, context.get_value("training")))
            vars(context).setdefault("_kacc", {})
            return x

    model = keras.Sequential([keras.Input((2,)), Probe(), Probe()])
    seen.clear()
    model(np.ones((1, 2)), training=True)
    model(np.ones((1, 2)), training=False)
    (first, one), (second, two), (third, three), _ = seen
    assert (one, two, three) == (True, True, False)
    assert first is second
    assert first is not third
    assert global_state.get_global_attribute("current_call_ctx") is None


def test_autocast_scope(dense):
    """core.attach: with a scope of None a variable's value is the full one."""
    from keras.src.backend import AutocastScope

    with AutocastScope("bfloat16"):
        assert dense.kernel.value.dtype == tf.bfloat16
        with AutocastScope(None):
            assert dense.kernel.value.dtype == tf.float32
            # The variable itself would be cast when it is used, so its value is taken.
            assert ops.convert_to_tensor(dense.kernel) is dense.kernel


def test_stateless_scope(dense):
    """core.attach: maps a variable, by `id` in `state_mapping`, and keeps updates."""
    scope = keras.StatelessScope(
        [(dense.kernel, tf.zeros((3, 2)))], collect_losses=True
    )
    assert set(scope.state_mapping) == {id(dense.kernel)}
    before = dense.bias.numpy()
    with scope:
        assert keras.src.backend.in_stateless_scope()
        assert keras.src.backend.get_stateless_scope() is scope
        np.testing.assert_array_equal(dense(np.ones((1, 3))), [[0.0, 0.0]])
        dense.bias.assign([5.0, 5.0])
        dense.add_loss(tf.constant(3.0))
    np.testing.assert_array_equal(scope.state_mapping[id(dense.bias)], [5.0, 5.0])
    np.testing.assert_array_equal(dense.bias, before)
    assert [float(v) for v in scope.losses] == [3.0]
    assert keras.src.backend.get_stateless_scope() is None


def test_symbolic_scope_while_shapes_are_computed():
    """core.recipe: tells the tracing of shapes from a real call at inference."""
    seen = []

    class Probe(layers.Layer):
        def call(self, x):
            seen.append(keras.src.backend.in_symbolic_scope())
            return x * 1.0

    layer = Probe()
    layer(keras.Input((2,)))
    layer(np.ones((1, 2)))
    assert seen == [True, False]


def test_call_has_training_arg():
    """quantization: whether a layer's own `call` takes `training`."""
    assert layers.Dropout(0.5)._call_has_training_arg
    assert not layers.Flatten()._call_has_training_arg


def test_tensors_take_attributes():
    """quantization.transform marks tensors, as Keras does with `_keras_mask`."""
    value = tf.constant(1.0)
    value._kacc_probe = True
    assert value._kacc_probe

    @tf.function
    def symbolic(x):
        x = x + 1
        x._kacc_probe = True
        assert x._kacc_probe
        return x

    symbolic(value)


def test_functions_of_a_compiled_model_can_be_made_anew():
    """core.attach: `make_*_function(force=True)` replaces a traced function."""
    model = models.small()
    model.compile("sgd", "mse", jit_compile=False)
    x, y = models.vectors(4), np.ones((4, 3))
    model.fit(x, y, verbose=0)
    model.evaluate(x, y, verbose=0)
    model.predict(x, verbose=0)
    for kind in ("train", "test", "predict"):
        before = getattr(model, f"{kind}_function")
        assert before is not None
        getattr(model, f"make_{kind}_function")()
        assert getattr(model, f"{kind}_function") is before
        getattr(model, f"make_{kind}_function")(force=True)
        assert getattr(model, f"{kind}_function") is not before


def test_inputs_of_bfloat16_models_are_cast_before_their_call():
    """core.recipe keeps the arguments of `__call__`, since `call` gets rounded ones."""
    seen = []

    class Probe(keras.Model):
        def call(self, x):
            seen.append(x.dtype)
            return x

    Probe(dtype="mixed_bfloat16")(np.ones((1, 2), "float32"))
    assert seen[-1] == tf.bfloat16


def test_a_callback_finds_its_siblings_among_its_callers():
    """quantization.monitors: the list that calls `set_model` is a CallbackList."""
    from kacc.quantization.monitors import siblings

    found = []

    class Probe(keras.callbacks.Callback):
        def set_model(self, model):
            found.append(siblings(self))

    other, probe = keras.callbacks.Callback(), Probe()
    model = models.small()
    model.compile("sgd", "mse")
    model.fit(
        *(models.vectors(4), np.ones((4, 3))), callbacks=[probe, other], verbose=0
    )
    assert [c for c in found[0] if c in (probe, other)] == [probe, other]
    probe.set_model(model)
    assert found[1] == []


@pytest.fixture
def old_model():
    """A functional model of tf_keras, with one of half precision inside."""
    tf_keras = pytest.importorskip("tf_keras")
    inner = tf_keras.Sequential(
        [tf_keras.layers.Dense(2, dtype="mixed_bfloat16", name="dense")], name="inner"
    )
    x = tf_keras.Input((3,), name="x")
    return tf_keras.Model({"x": x}, [inner(x)], name="outer")


def test_walk_through_the_layers_of_tf_keras(old_model):
    """converters.tfmot, converters.legacy: every layer, once."""
    names = [layer.name for layer in old_model._flatten_layers()]
    assert names.count("dense") == 1
    assert {"outer", "x", "inner", "dense"} <= set(names)


def test_dtype_policy_of_tf_keras(old_model):
    """converters.legacy: the policy of a built layer can be changed and put back."""
    layer = old_model.get_layer("inner").layers[0]
    assert layer.compute_dtype == "bfloat16"
    policy = layer.dtype_policy
    layer._set_dtype_policy("float32")
    assert layer(np.ones((1, 3))).dtype == tf.float32
    layer._set_dtype_policy(policy)
    assert layer(np.ones((1, 3))).dtype == tf.bfloat16


def test_scopes_of_tf_keras(old_model):
    """converters.legacy: a layer opens its scope by its whole name, inside its call."""
    base = importlib.import_module("tf_keras.src.engine.base_layer_utils")
    seen = []

    @tf.function
    def trace(x):
        graph = tf.compat.v1.get_default_graph()
        original = graph.name_scope

        def name_scope(name):
            layer = base.call_context().layer
            seen.append((name, layer and layer.name))
            return original(name)

        graph.name_scope = name_scope
        try:
            return old_model({"x": x})
        finally:
            graph.name_scope = original

    trace.get_concrete_function(tf.TensorSpec((1, 3)))
    for pair in (
        ("outer/", "outer"),
        ("outer/inner/", "inner"),
        ("outer/inner/dense/", "dense"),
    ):
        assert pair in seen


def test_graphs_of_tf_keras(old_model):
    """converters.from_tf_keras: nodes by depth, and the structures of both ends."""
    functional = importlib.import_module("tf_keras.src.engine.functional").Functional
    assert isinstance(old_model, functional)
    assert old_model._is_graph_network
    assert type(old_model).call is functional.call
    nodes = [n for depth in old_model._nodes_by_depth.values() for n in depth]
    (node,) = [n for n in nodes if not n.is_input]
    assert node.layer.name == "inner"
    assert node.call_args[0] is old_model.inputs[0]
    assert node.outputs is old_model.outputs[0]
    assert old_model._nested_inputs["x"] is old_model.inputs[0]
    assert old_model.inputs[0]._keras_history.layer.name == "x"
    assert old_model._nested_outputs is old_model.outputs[0]


def test_a_compiled_model_keeps_the_arguments_it_was_compiled_with():
    """pruning.channels.callback compiles the smaller model with the same objects."""
    model = models.small()

    def loss(y, p):
        return ops.mean(ops.abs(y - p), axis=-1)

    model.compile("sgd", loss, metrics=["mae"], steps_per_execution=2)
    arguments = model._compile_config.config
    assert arguments["loss"] is loss
    assert arguments["metrics"] == ["mae"]
    assert arguments["steps_per_execution"] == 2
    models.small().compile(**arguments)


def test_operators_name_what_channels_are_followed_by():
    """core.channels.operator_rows: their classes, axes and configs."""
    from kacc.core.channels.operator_rows import OPERATORS

    assert all(cls.__module__.startswith("keras.src.ops") for cls in OPERATORS)
    x = keras.Input((4, 4, 6))
    for y, attribute, value in (
        (ops.mean(x, axis=(1, 2)), "axis", (1, 2)),
        (ops.concatenate([x, x], axis=-1), "axis", -1),
        (ops.transpose(x, (0, 2, 1, 3)), "axes", (0, 2, 1, 3)),
        (ops.expand_dims(x, 1), "axis", 1),
    ):
        assert getattr(y._keras_history.operation, attribute) == value
    assert ops.reshape(x, (-1, 96))._keras_history.operation.get_config()["newshape"]
    split = ops.split(x, [2], axis=-1)[0]._keras_history.operation
    assert tuple(split.get_config()["indices_or_sections"]) == (2,)
    item = x[..., 1:3]._keras_history
    node = item.operation._inbound_nodes[item.node_index]
    assert node.arguments.args[1] == (Ellipsis, slice(1, 3))


def test_a_model_says_whether_its_loss_takes_training():
    class Own(keras.Model):
        def compute_loss(self, x, y, y_pred, sample_weight):
            return 0.0

    assert keras.Sequential([])._compute_loss_has_training_arg is True
    assert Own()._compute_loss_has_training_arg is False


def test_a_frozen_layer_knows_what_it_would_train(dense):
    dense.trainable = False
    assert dense.trainable_variables == []
    assert [v.name for v in dense._trainable_variables] == ["kernel", "bias"]
