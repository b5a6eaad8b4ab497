"""`kacc.from_tf_keras`: the same outputs in Keras 3, or a clear refusal."""

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from hypothesis import strategies as st

import kacc
from kacc.converters.legacy_layers import CLASSES
from kacc.core.errors import ConversionError, UsageError
from tests.converters import legacy_layers as cases

L = tf_keras.layers


def assert_same(old, *inputs):
    """The rebuilt model, after its outputs were found to be the old one's."""
    new = kacc.from_tf_keras(old)
    assert isinstance(new, keras.Model)
    assert new.name == old.name
    x = list(inputs) if len(inputs) > 1 else inputs[0]
    want, got = old(x, training=False), new(x, training=False)
    keras.tree.assert_same_structure(
        keras.tree.map_structure(lambda _: 0, want),
        keras.tree.map_structure(lambda _: 0, got),
    )
    for a, b in zip(keras.tree.flatten(want), keras.tree.flatten(got), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5)
    return new


@pytest.mark.parametrize("name", cases.LAYERS)
def test_a_layer(name):
    make, shape = cases.LAYERS[name]
    x = tf_keras.Input(shape)
    model = cases.randomized(tf_keras.Model(x, make()(x)))
    new = assert_same(model, cases.samples(shape))
    assert len(new.weights) == len(model.weights)


@pytest.mark.parametrize("name", cases.MERGES)
def test_a_layer_of_two_inputs(name):
    make, shape = cases.MERGES[name]
    inputs = [tf_keras.Input(shape), tf_keras.Input(shape)]
    model = cases.randomized(tf_keras.Model(inputs, make()(inputs)))
    assert_same(model, cases.samples(shape), cases.samples(shape, seed=1))


@pytest.mark.parametrize("name", cases.INTEGERS)
def test_a_layer_of_integers(name):
    x = tf_keras.Input((5,), dtype="int32")
    model = cases.randomized(tf_keras.Model(x, cases.INTEGERS[name]()(x)))
    assert_same(model, np.random.default_rng(0).integers(0, 9, (4, 5)).astype("int32"))


@pytest.mark.parametrize("activation", cases.ACTIVATIONS)
def test_an_activation(activation):
    model = tf_keras.Sequential([L.Dense(5, activation, input_shape=(6,))])
    assert_same(cases.randomized(model), 3 * cases.samples((6,)))


@pytest.mark.parametrize("name", cases.OPERATORS)
def test_an_operator(name):
    x, y = tf_keras.Input((4, 6)), tf_keras.Input((4, 6))
    model = tf_keras.Model([x, y], cases.OPERATORS[name](x, y))
    assert_same(model, cases.samples((4, 6)), cases.samples((4, 6), seed=1))


def test_every_known_class_is_tested():
    made = [make() for make, _ in (cases.LAYERS | cases.MERGES).values()]
    made += [make() for make in cases.INTEGERS.values()]
    inside = [layer for outer in made for layer in outer.submodules]
    names = {type(layer).__name__ for layer in (*made, *inside)}
    assert CLASSES - names == {"MultiHeadAttention"}  # which has a test of its own


def test_attention_of_many_heads():
    x, y = tf_keras.Input((7, 5)), tf_keras.Input((6, 4))
    attention = L.MultiHeadAttention(2, 3, value_dim=4, dropout=0.1, output_shape=6)
    model = tf_keras.Model([x, y], attention(x, value=y, use_causal_mask=True))
    assert_same(
        cases.randomized(model), cases.samples((7, 5)), cases.samples((6, 4), seed=1)
    )


def test_several_inputs_and_outputs_by_name():
    image, extra = tf_keras.Input(cases.IMAGE, name="image"), tf_keras.Input((4,))
    x = L.Conv2D(4, 3, name="conv")(image)
    x = L.BatchNormalization(name="norm")(x)
    x = L.Add()([L.GlobalAveragePooling2D()(x), L.Dense(4)(extra)])
    outputs = {"b": L.Dense(2, name="one")(x), "a": [x, tf.nn.relu(extra)]}
    inputs = {"picture": image, "number": extra}
    old = cases.randomized(tf_keras.Model(inputs, outputs, name="two"))
    new = assert_same(
        old, {"picture": cases.samples(cases.IMAGE), "number": cases.samples((4,))}
    )
    assert {"image", "conv", "norm", "one"} <= {layer.name for layer in new.layers}
    assert [w.name for w in new.get_layer("norm").weights][2] == "moving_mean"


def nested():
    block = tf_keras.Sequential(
        [
            L.Conv2D(4, 3, padding="same", input_shape=cases.IMAGE),
            L.BatchNormalization(),
            L.ReLU(),
        ],
        name="block",
    )
    image = tf_keras.Input(cases.IMAGE)
    inner = tf_keras.Model(image, L.Add()([block(image), image]), name="inner")
    x = tf_keras.Input(cases.IMAGE)
    y = inner(inner(x))  # shared, as its block is
    y = L.GlobalAveragePooling2D()(block(y))
    return cases.randomized(tf_keras.Model(x, L.Dense(3)(y), name="outer"))


def test_nested_and_shared_models_stay_so():
    old = nested()
    new = assert_same(old, cases.samples(cases.IMAGE))
    assert len(new.weights) == len(old.weights)
    inner = new.get_layer("inner")
    assert inner.get_layer("block") is new.get_layer("block")


def test_frozen_layers_stay_frozen():
    old = nested()
    old.get_layer("inner").get_layer("block").layers[1].trainable = False
    new = assert_same(old, cases.samples(cases.IMAGE))
    assert len(new.trainable_weights) == len(old.trainable_weights) == 4
    old.trainable = False
    assert not kacc.from_tf_keras(old).trainable_weights


def test_half_frozen_parts_of_a_layer():
    layer = L.Bidirectional(L.LSTM(3))
    old = tf_keras.Sequential([layer, L.Dense(2)])
    old(cases.samples(cases.SERIES))
    layer.forward_layer.trainable = False
    new = assert_same(cases.randomized(old), cases.samples(cases.SERIES))
    assert len(new.trainable_weights) == len(old.trainable_weights)


def test_a_model_inside_time_distributed():
    block = tf_keras.Sequential(
        [L.Conv2D(3, 3), L.BatchNormalization(), L.Conv2D(2, 3), L.Flatten()]
    )
    x = tf_keras.Input(cases.FILM)
    old = cases.randomized(tf_keras.Model(x, L.TimeDistributed(block)(x)))
    assert_same(old, cases.samples(cases.FILM))


def test_a_model_of_a_fixed_batch_size_and_type():
    x = tf_keras.Input(batch_shape=(3, 6), dtype="float16", name="half")
    old = tf_keras.Model(x, L.Dense(2)(x))
    new = assert_same(old, cases.samples((6,)).astype("float16"))
    assert new.inputs[0].shape == (3, 6)
    assert new.inputs[0].dtype == "float16"


def test_mixed_precision_is_kept():
    old = tf_keras.Sequential([L.Dense(2, input_shape=(6,), dtype="mixed_bfloat16")])
    new = kacc.from_tf_keras(old)
    assert new.layers[0].dtype_policy.name == "mixed_bfloat16"


@pytest.mark.parametrize("training", [False, None])
def test_layers_that_were_called_for_inference(training):
    x = tf_keras.Input((6,))
    y = L.BatchNormalization()(L.Dense(5)(x), training=training)
    old = cases.randomized(tf_keras.Model(x, y))
    assert_same(old, cases.samples((6,)))


def test_layers_that_always_train_are_refused():
    """Keras 3 runs them as in inference where the model is called so."""
    x = tf_keras.Input((6,))
    old = tf_keras.Model(x, L.BatchNormalization(name="norm")(x, training=True))
    with pytest.raises(ConversionError, match=r"norm \(called with training=True\)"):
        kacc.from_tf_keras(old)


def test_regularizers_and_constraints_come_along():
    dense = L.Dense(
        2,
        input_shape=(6,),
        kernel_regularizer=tf_keras.regularizers.L2(0.25),
        bias_constraint=tf_keras.constraints.NonNeg(),
        activity_regularizer="l1",
    )
    new = kacc.from_tf_keras(tf_keras.Sequential([dense])).layers[0]
    assert float(new.kernel_regularizer.l2) == 0.25
    assert isinstance(new.bias_constraint, keras.constraints.NonNeg)
    assert new.activity_regularizer is not None


def test_the_old_hard_sigmoid_is_saved_and_loaded(tmp_path):
    old = tf_keras.Sequential([L.Dense(5, "hard_sigmoid", input_shape=(6,))])
    new = assert_same(old, 5 * cases.samples((6,)))
    new.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded(cases.samples((6,))), new(cases.samples((6,))))


def test_names_with_slashes():
    old = tf_keras.Sequential([L.Dense(5, name="a/b", input_shape=(6,))], name="c/d")
    new = kacc.from_tf_keras(old)
    assert (new.name, new.layers[0].name) == ("c_d", "a_b")


class Own(L.Layer):
    def call(self, x):
        return x


class OwnDense(L.Dense):
    """A class of the user's with a known base is not the base."""


class Subclassed(tf_keras.Model):
    def __init__(self):
        super().__init__(name="sub")
        self.dense = L.Dense(2)

    def call(self, x):
        return self.dense(x)


def test_everything_that_is_unlike_is_named_at_once():
    x = tf_keras.Input(cases.IMAGE)
    y = L.LocallyConnected2D(2, 3, name="local")(x)
    y = OwnDense(2, name="own_dense")(Own(name="own")(y))
    y = L.Dense(2, lambda v: v + 1, name="odd")(y)
    y = L.Dense(2, kernel_regularizer=lambda v: 0.0, name="regular")(y)
    inner = tf_keras.Sequential([L.ThresholdedReLU(name="cut"), Subclassed()])
    y = tf.linalg.pinv(inner(y))
    with pytest.raises(ConversionError, match="Keras 3 must have the like") as caught:
        kacc.from_tf_keras(tf_keras.Model(x, y))
    text = str(caught.value)
    for part in ("LocallyConnected2D local", "Own own", "OwnDense own_dense", "odd"):
        assert part in text
    for part in ("regular", "cut", "Subclassed sub", "tf.linalg.pinv"):
        assert part in text
    assert "\n" not in text


@pytest.mark.parametrize("built", [True, False])
def test_subclassed_models_are_refused(built):
    model = Subclassed()
    if built:
        model(cases.samples((6,)))
    with pytest.raises(UsageError, match=r"Sequential or functional.*Subclassed 'sub'"):
        kacc.from_tf_keras(model)


@pytest.mark.parametrize("model", [3, "m.h5", keras.Sequential()])
def test_only_tf_keras_models(model):
    with pytest.raises(UsageError, match="takes a tf_keras model"):
        kacc.from_tf_keras(model)


def test_an_unbuilt_model_is_refused():
    with pytest.raises(UsageError, match="that is built"):
        kacc.from_tf_keras(tf_keras.Sequential([L.Dense(2)]))


# Quick layers that take and give images of 8 x 8 and any channels.
BLOCKS = st.sampled_from(
    [
        lambda n: L.Conv2D(n, 3, padding="same", activation="relu"),
        lambda n: L.Conv2D(n, 1, use_bias=False),
        lambda n: L.DepthwiseConv2D(3, padding="same"),
        lambda n: L.SeparableConv2D(n, 3, padding="same"),
        lambda n: L.BatchNormalization(),
        lambda n: L.LayerNormalization(),
        lambda n: L.LeakyReLU(0.1 * n),
        lambda n: L.PReLU(),
        lambda n: L.Activation("hard_sigmoid"),
        lambda n: L.Dense(n),
        lambda n: L.Dropout(0.5),
        lambda n: L.MaxPooling2D(2, strides=1, padding="same"),
    ]
)
JOINS = st.sampled_from(
    [
        lambda a, b: L.Concatenate()([a, b]),
        lambda a, b: tf.concat([b, a], axis=-1),
        lambda a, b: L.Add()([a, tf.reduce_mean(b, axis=-1, keepdims=True)]),
        lambda a, b: a * tf.sigmoid(b[..., :1]) + 0.5,
    ]
)


def test_operators_do_not_take_the_names_of_layers():
    keras.backend.clear_session()
    x = tf_keras.Input((4,))
    join = tf_keras.layers.Concatenate
    # Keras 3 calls its first operators concatenate, concatenate_1 and so on.
    y = tf.concat([x, x], -1)
    for name in ("concatenate", "concatenate_1", "concatenate_2"):
        y = join(name=name)([y, tf.concat([x, x], -1)])
    assert_same(tf_keras.Model(x, y), cases.samples((4,)))


@hypothesis.settings(max_examples=15)
@hypothesis.given(st.data())
def test_small_models_of_any_kind(data):
    """Chains of layers with joins of earlier tensors, some of them models inside."""
    x = tf_keras.Input((8, 8, 2))
    tensors = [x]
    for _ in range(data.draw(st.integers(1, 5))):
        tensor = data.draw(st.sampled_from(tensors))
        layers = [
            block(data.draw(st.integers(1, 4)))
            for block in data.draw(st.lists(BLOCKS, min_size=1, max_size=3))
        ]
        if data.draw(st.booleans()):
            layers = [tf_keras.Sequential(layers)]
        for layer in layers:
            tensor = layer(tensor)
        if data.draw(st.booleans()):
            other = data.draw(st.sampled_from(tensors))
            tensor = data.draw(JOINS)(tensor, other)
        tensors.append(tensor)
    old = cases.randomized(tf_keras.Model(x, tensors[-2:]))
    assert_same(old, cases.samples((8, 8, 2)) / 4)


@pytest.mark.parametrize("mask_zero", [False, True])
def test_tables_that_tfmot_prunes_and_clusters(mask_zero):
    """As tfmot strips them: its own wrapper of pruning forgets the mask."""
    import tensorflow_model_optimization as tfmot

    x = np.random.default_rng(0).integers(0, 40, (64, 6)).astype("int32")

    def trained(wrapped, *callbacks):
        loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        wrapped.compile("adam", loss)
        wrapped.fit(x, x[:, 0] % 3, verbose=0, callbacks=list(callbacks))
        return wrapped

    def plain():
        table = L.Embedding(40, 8, mask_zero=mask_zero, input_length=6, name="table")
        return tf_keras.Sequential(
            [table, L.GlobalAveragePooling1D(), L.Dense(3, name="head")]
        )

    sparsity, clustering = tfmot.sparsity.keras, tfmot.clustering.keras
    schedule = sparsity.ConstantSparsity(0.5, 0, frequency=1)
    pruned = trained(
        sparsity.prune_low_magnitude(plain(), schedule), sparsity.UpdatePruningStep()
    )
    new = kacc.from_tf_keras(pruned)
    assert (new.get_layer("table").embeddings.numpy() == 0).mean() == 0.5
    want = sparsity.strip_pruning(pruned)(x)
    np.testing.assert_allclose(new(x), want, rtol=1e-5, atol=1e-6)

    start = clustering.CentroidInitialization.LINEAR
    clustered = trained(clustering.cluster_weights(plain(), 4, start))
    new = kacc.from_tf_keras(clustered)
    assert len(np.unique(new.get_layer("table").embeddings)) <= 4
    want = clustering.strip_clustering(clustered)(x)
    np.testing.assert_allclose(new(x), want, rtol=1e-5, atol=1e-6)
