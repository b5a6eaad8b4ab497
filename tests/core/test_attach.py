"""Attaching to models of every kind, and what the training step then computes."""

import copy
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import kacc
from kacc.core import attach, registry
from kacc.quantization import functional, unseen_ranges
from kacc.quantization.transform import quantize_of
from tests.core import models

# By hand: the tensors of the integer file. What is fused or only moves values has
# none; the outputs of sigmoid and softmax have prescribed ranges, which nothing learns;
# what only a concatenation reads has the range of the concatenation.
RANGES = {
    "sequential": {"conv:input_0", "relu:output", "head:pre_activation"},
    "functional": {
        "stem:input_0",
        "stem:output",
        "conv:output",
        "concatenate:output",
        "pool:output",
        "head:output",
    },
    "nested": {
        "body/stem/conv:input_0",
        "body/stem/relu:output",
        "body/block/conv:output",
        "body/block/add:output",
        "head:output",
    },
    "operators": {
        "conv:input_0",
        "conv:output",
        "concatenate:output",
        "multiply:output",
        "head:output",
    },
    "shared": {"conv:input_0", "conv:output", "head:output"},
    "several": {
        "conv:input_0",
        "conv:output",
        "pool:output",
        "gate:input_0",
        "gate:output",
        "gated:output",
        "kind:output",
        "amount:output",
    },
    "subclassed": {
        "block/first:input_0",
        "block/first:output",
        "block/second:output",
        "pool:input_0",
        "pool:output",
        "head:output",
    },
    "plain": {"body/conv:input_0", "body/relu:output", "head:output"},
}


def named(build):
    return build.__name__


def ranges(model):
    """Name of each range variable -> its ends."""
    return {v.path: v.numpy() for v in model.variables if v.path.endswith("_range")}


@pytest.fixture
def x8():
    return models.vectors()


@pytest.mark.parametrize("build", models.MODELS, ids=named)
class TestEveryKind:
    def test_ranges_stand_where_the_file_has_tensors(self, build):
        model = build()
        assert not attach.is_attached(model)
        assert kacc.quantize(model) is model
        assert attach.is_attached(model)
        # Operators are numbered through the whole process: relu, relu_1, ...
        assert {_unnumbered(name) for name in unseen_ranges(model)} == RANGES[
            build.__name__
        ]

    @pytest.mark.sampled(3)
    def test_training_sees_every_range_and_moves_every_weight(self, build, trained):
        case = trained(build)
        assert unseen_ranges(case.model) == []
        start = build()
        for layer, before in zip(_leaves(case.model), _leaves(start), strict=True):
            spec = registry.find(layer)
            for weight in spec.weights if spec else ():
                now = getattr(layer, weight.attribute).numpy()
                assert np.isfinite(now).all()
                assert not np.array_equal(now, getattr(before, weight.attribute))

    def test_layers_stay_what_they_were(self, build):
        model, plain = build(), build()
        paths = _paths(plain)
        kacc.quantize(model)
        assert type(model).__name__ == type(plain).__name__
        assert isinstance(model, type(plain))
        for layer, before in zip(_leaves(model), _leaves(plain), strict=True):
            assert isinstance(layer, type(before))
            assert type(layer).__name__ == type(before).__name__
            assert type(layer).__qualname__ == type(before).__qualname__
        assert _paths(model) == paths
        model.summary(print_fn=lambda *args, **kwargs: None)

    def test_attaching_twice_changes_nothing(self, build, trained):
        model = keras.models.load_model(trained(build).path)
        classes = [type(layer) for layer in _leaves(model)]
        held = [id(v) for v in model.variables]
        before = models.variables(model)
        kacc.quantize(model)
        assert [type(layer) for layer in _leaves(model)] == classes
        assert [id(v) for v in model.variables] == held
        after = models.variables(model)
        assert all(np.array_equal(before[k], after[k]) for k in before)
        assert unseen_ranges(model) == []

    def test_no_range_is_trainable(self, build, trained):
        model = trained(build).model
        assert not [v.path for v in model.trainable_variables if "kacc" in v.path]
        assert all(v.dtype == "float32" for v in model.variables if "kacc" in v.path)


def _paths(model):
    """Of all variables but kacc's, and seeds, which Keras numbers."""
    paths = [v.path for v in model.variables]
    return [p for p in paths if "kacc_state" not in p and "seed" not in p]


def _unnumbered(name):
    path, tensor = name.split(":")
    head, _, last = path.rpartition("_")
    return f"{head if last.isdigit() else path}:{tensor}"


def _leaves(model):
    return [
        layer
        for layer in model._flatten_layers()
        if not isinstance(layer, keras.Model) and layer.name != "kacc_state"
    ]


def test_the_training_step_computes_with_rounded_weights_and_tensors(x8):
    """Against the same in numpy, from the functions that test_functional.py checks."""
    model = kacc.quantize(models.small())
    hidden, head = model.layers
    got = model(x8, training=True)  # the first batch sets each range

    def quantized(value, nonnegative=False):
        low = 0.0 if nonnegative else value.min()
        return functional.fake_quantize(value, *functional.nudge(low, value.max()))

    w1, w2 = (
        functional.fake_quantize_weight(layer.kernel.value, (-1,))
        for layer in (hidden, head)
    )
    x = quantized(x8)
    h = quantized(tf.nn.relu(x @ w1 + hidden.bias.value).numpy(), nonnegative=True)
    want = quantized((h @ w2 + head.bias.value).numpy())
    np.testing.assert_array_equal(got, want)


def test_gradients_pass_straight_through_the_rounding(x8):
    """As if nothing were rounded, but with the rounded input, where nothing clips."""
    dense = layers.Dense(3)
    model = kacc.quantize(keras.Sequential([keras.Input((8,)), dense]))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(x8, training=True))
    kernel, bias = tape.gradient(loss, [dense.kernel.value, dense.bias.value])
    x = functional.fake_quantize(x8, *functional.nudge(x8.min(), x8.max()))
    y = x @ functional.fake_quantize_weight(dense.kernel.value, (-1,))
    low, high = quantize_of(dense).ends("output")
    inside = tf.cast((y >= low) & (y <= high), "float32")
    np.testing.assert_allclose(kernel, tf.transpose(x) @ inside, rtol=1e-5)
    np.testing.assert_allclose(bias, tf.reduce_sum(inside, 0), rtol=1e-5)


def test_ranges_are_moving_averages_that_the_first_batch_sets():
    model = kacc.quantize(models.small())
    first, second = models.vectors(seed=1), 3 * models.vectors(seed=2)
    model(first, training=True)
    (name,) = [k for k in ranges(model) if k.endswith("input_0_range")]
    ends = np.array([first.min(), first.max()])
    np.testing.assert_allclose(ranges(model)[name], ends, rtol=1e-6)
    model(second, training=True)
    ends = 0.99 * ends + 0.01 * np.array([second.min(), second.max()])
    np.testing.assert_allclose(ranges(model)[name], ends, rtol=1e-5)


def test_inference_leaves_ranges_alone(x8):
    model = kacc.quantize(models.small())
    model(x8, training=True)
    before = ranges(model)
    model(100 * x8, training=False)
    model.predict(100 * x8, verbose=0)
    assert all(np.array_equal(before[k], v) for k, v in ranges(model).items())


@pytest.mark.parametrize("factor", [10.0, 0.1])
def test_a_shared_layer_has_one_range_over_all_its_calls(factor):
    model = kacc.quantize(models.shared())
    conv = model.get_layer("conv")
    assert [v.name for v in conv.variables].count("output_range") == 1
    # One call's values are larger by far, and still none is clipped.
    conv.kernel.assign(factor * conv.kernel)
    x = models.images()
    for _ in range(2):
        got = model(x, training=True)
        plain = attach.base_class(conv).call
        first = plain(conv, x)
        second = plain(conv, first)
        largest = [float(tf.reduce_max(v)) for v in (first, second)]
        assert max(largest) > 3 * min(largest)
        ends = quantize_of(conv).ends("output")
        np.testing.assert_allclose(ends[1], max(largest), rtol=0.05)
        # What the first call made is read as it is, not by the range of the image.
        assert quantize_of(conv).ends("input_0")[1] < 1.1 * x.max()
        head = model.get_layer("head")
        want = tf.reshape(second, (len(x), -1)) @ head.kernel.value
        error = np.linalg.norm(got - want) / np.linalg.norm(want)
        assert error < (0.1 if factor > 1 else 0.5)  # of a range that both share


def test_weights_of_bfloat16_models_are_rounded_from_their_full_values():
    """The trap: in a layer's call Keras hands out the value cast already."""
    dense = layers.Dense(1, dtype="mixed_bfloat16", use_bias=False)
    dense.build((None, 128))
    steps = np.arange(128) + 0.45  # bfloat16 rounds the larger ones across the half
    dense.kernel.assign(steps[:, None] / 127.45 * 1.27)
    kacc.layers.QuantizeWrapper(dense)
    with (
        keras.src.backend.AutocastScope("bfloat16"),
        attach.transformed_weights(dense, registry.find(dense), attach.Steps(dense)),
    ):
        scope = keras.src.backend.get_stateless_scope()
        got = scope.get_current_value(dense.kernel)
    want = functional.fake_quantize_weight(dense.kernel.value, (-1,))
    want = tf.cast(want, tf.bfloat16)
    np.testing.assert_array_equal(got, want)
    cast = tf.cast(tf.cast(dense.kernel.value, tf.bfloat16), tf.float32)
    trapped = tf.cast(functional.fake_quantize_weight(cast, (-1,)), tf.bfloat16)
    assert np.any(trapped != want)


def test_an_optimizer_that_is_built_keeps_its_slots(x8):
    model = models.small()
    model.compile(keras.optimizers.Adam(0.01), "mse")
    y = models.targets_for(model)
    model.fit(x8, y, verbose=0)
    before = [v.numpy() for v in model.optimizer.variables]
    kacc.quantize(model)
    after = [v.numpy() for v in model.optimizer.variables]
    assert len(before) > 4
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    model.fit(x8, y, verbose=0)
    assert int(model.optimizer.iterations) == 2


def test_batch_normalization_still_learns_its_statistics():
    """StatelessScope swallows updates of state unless they are written back."""
    model = kacc.quantize(models.sequential())
    norm = model.get_layer("norm")
    before = norm.moving_mean.numpy()
    model(models.images(), training=True)
    assert np.all(norm.moving_mean.numpy() != before)


def test_losses_and_updates_inside_a_quantized_layer_survive(x8):
    @keras.saving.register_keras_serializable("kacc_tests")
    class Counting(layers.Dense):
        kacc_equivalent = True

        def build(self, shape):
            super().build(shape)
            self.calls = self.add_weight(
                name="calls", initializer="zeros", trainable=False
            )

        def call(self, inputs, training=None):
            self.calls.assign_add(1.0)
            self.add_loss(keras.ops.sum(inputs) * 0 + 5.0)
            return super().call(inputs)

    model = keras.Sequential([keras.Input((8,)), Counting(3, kernel_regularizer="l2")])
    kacc.quantize(model)
    penalty = float(model.losses[0])
    before = float(model.layers[0].calls)
    model(x8, training=True)
    assert float(model.layers[0].calls) == before + 1
    assert sorted(float(v) for v in model.losses) == sorted([penalty, 5.0])


def test_a_model_inside_a_stateless_scope_sees_its_values(x8):
    """`stateless_call` puts its own values in the place of the variables'."""
    model = kacc.quantize(models.small())
    for layer in model.layers:
        layer.bias.assign(layer.bias + 1.0)
    values = [v.value for v in model.trainable_variables]
    state = [tf.identity(v.value) for v in model.non_trainable_variables]
    got, updated = model.stateless_call(values, state, x8, training=True)
    own = np.asarray(model(x8, training=True))
    np.testing.assert_array_equal(got, own)
    for variable, value in zip(model.non_trainable_variables, updated, strict=True):
        np.testing.assert_array_equal(variable, value)
    zeros = [tf.zeros_like(v) for v in values]
    got, _ = model.stateless_call(zeros, state, x8, training=True)
    np.testing.assert_array_equal(got, np.zeros((len(x8), 3)))


def test_layers_built_by_hand_take_the_wrapper(x8):
    model = keras.Sequential(
        [
            keras.Input((8,)),
            kacc.layers.QuantizeWrapper(layers.Dense(4, activation="relu")),
            layers.Dense(3),
        ]
    )
    model(x8, training=True)
    first, second = model.layers
    assert quantize_of(second) is None
    assert set(quantize_of(first).ranges) == {"output"}
    assert quantize_of(first).seen("output")
    copied = keras.models.model_from_json(model.to_json())
    assert quantize_of(copied.layers[0]) is not None
    assert json.loads(copied.to_json()) == json.loads(model.to_json())


def test_copies_of_attached_layers_are_attached(x8):
    dense = layers.Dense(3)
    dense.build((None, 8))
    kacc.layers.QuantizeWrapper(dense)
    twin = type(dense).from_config(dense.get_config())
    assert type(twin) is type(dense)
    assert quantize_of(twin).scheme == quantize_of(dense).scheme
    assert quantize_of(copy.deepcopy(dense)).scheme == quantize_of(dense).scheme
