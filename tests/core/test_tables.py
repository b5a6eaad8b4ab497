"""Tables of embeddings: pruned, clustered and quantized, alone and together."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import kacc
from kacc.clustering import clusters
from kacc.core import attach
from kacc.core.errors import UsageError
from kacc.core.graph import trace
from kacc.core.left import read_elsewhere, unknown_type
from kacc.pruning.masks import pruned_layers, share_of
from tests.core.models import Tied
from tests.core.processes import run_python

WORDS, LENGTH = 120, 8
X = np.random.default_rng(0).integers(1, WORDS, (128, LENGTH)).astype("int32")
X[::3, 5:] = 0
Y = (np.sum(X % 2, axis=1) > 3).astype("int32")
# Masked averages are no integers in a file, whatever is done to the table.
AVERAGE = kacc.Rule("average", skip=True)


def classifier(mask_zero=False, width=8):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((LENGTH,), dtype="int32"),
            layers.Embedding(WORDS, width, mask_zero=mask_zero, name="table"),
            layers.GlobalAveragePooling1D(name="average"),
            layers.Dense(16, activation="relu", name="hidden"),
            layers.Dense(2, name="head"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    return model


def fit(model, *callbacks, epochs=1):
    history = model.fit(
        X, Y, batch_size=32, epochs=epochs, verbose=0, callbacks=list(callbacks)
    )
    return history.history


def table_of(model):
    return model.get_layer("table").embeddings.numpy()


def shares(model):
    return {layer.name: share_of([one]) for layer, one in pruned_layers(model)}


@pytest.mark.parametrize("method", ["magnitude", "soft", (1, 4), "2:4"])
def test_zeros_of_a_pruned_table_go_by_the_features_of_a_word(method):
    model = kacc.prune(classifier(), 0.5, method)
    want = model.predict(X, verbose=0)
    zeros = table_of(kacc.strip(model)) == 0
    assert zeros.mean() == 0.5
    counts = zeros.reshape(WORDS, 2, 4).sum(-1)
    if method == "2:4":
        assert (counts == 2).all()
    elif method == (1, 4):
        assert np.isin(counts, (0, 4)).all()
    np.testing.assert_array_equal(model.predict(X, verbose=0), want)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_table_of_any_scale_has_the_sparsity_of_the_other_layers(scale):
    """Ranked with the kernels it would go as a whole, or stay."""
    model = classifier()
    model.get_layer("table").embeddings.assign(scale * table_of(model))
    history = fit(model, kacc.callbacks.Pruning(0.75, end_step=2), epochs=2)
    assert history["sparsity"][-1] == 0.75
    assert shares(model) == {"table": 0.75, "hidden": 0.75}
    assert (table_of(model) == 0).mean() == 0.75


def test_a_table_is_no_end_and_rules_hold_for_it():
    plain = layers.Embedding(WORDS, 4, name="table")
    alone = keras.Sequential([keras.Input((3,)), plain, layers.Flatten()])
    assert shares(kacc.prune(alone, 0.5)) == {"table": 0.5}
    rules = [kacc.Rule("table", sparsity=0.25), kacc.Rule("hidden", skip=True)]
    assert shares(kacc.prune(classifier(), 0.5, rules=rules)) == {"table": 0.25}
    wrapped = kacc.layers.PruneWrapper(layers.Embedding(WORDS, 4), 0.5)
    model = keras.Sequential([keras.Input((3,)), wrapped])
    kacc.pruning.update_masks(model)
    assert kacc.pruning.sparsity(model) == 0.5
    sums = layers.Embedding(WORDS, 4, lora_rank=2)
    sums.build()
    with pytest.raises(UsageError, match="must have weights that kacc can prune"):
        kacc.layers.PruneWrapper(sums, 0.5)


def test_training_leaves_pruned_words_at_zero_and_resets_no_others():
    model = kacc.prune(classifier(), 0.5)
    before = table_of(model)
    fit(model, epochs=2)
    after = table_of(model)
    np.testing.assert_array_equal(after[before == 0], 0)
    used = np.unique(X)
    moved = (after != before) & (before != 0)
    assert moved[used].sum() == (before[used] != 0).sum()
    assert not moved[np.setdiff1d(np.arange(WORDS), used)].any()


@pytest.mark.parametrize("per", ["tensor", "channel"])
def test_clusters_of_a_table_are_of_all_or_of_each_feature(per):
    model = kacc.cluster(classifier(), 6, per=per)
    want = model.predict(X, verbose=0)
    assert clusters(model)["table"] == 6
    fit(model)
    table = table_of(kacc.strip(model))
    rows = table.T if per == "channel" else table.reshape(1, -1)
    assert max(len(np.unique(row)) for row in rows) <= 6
    assert not np.array_equal(model.predict(X, verbose=0), want)


@pytest.mark.parametrize("mask_zero", [False, True])
def test_everything_in_one_fit_is_what_the_file_has(mask_zero, tmp_path):
    model = classifier(mask_zero)
    rules = [AVERAGE] if mask_zero else []
    fit(
        model,
        kacc.callbacks.Pruning(0.75, end_step=4),
        kacc.callbacks.WeightClustering(8, start_epoch=1),
        kacc.callbacks.QuantizationAwareTraining("int8", start_epoch=1, rules=rules),
        epochs=2,
    )
    assert shares(model)["table"] == 0.75
    assert clusters(model)["table"] <= 8
    artifact = kacc.convert(model, tmp_path / "m.tflite", "tflite-int8")
    assert kacc.parity(model, artifact, X).equal == 1.0
    assert artifact.sparsity > 0.6
    table = table_of(kacc.strip(model))
    assert not attach.is_attached(model)
    assert (table == 0).mean() >= 0.75
    assert len(np.unique(table)) <= 8


def test_a_fresh_process_loads_masks_and_centroids(tmp_path):
    model = kacc.quantize(kacc.cluster(kacc.prune(classifier(), 0.5), 4))
    fit(model)
    want = model.predict(X, verbose=0)
    model.save(tmp_path / "m.keras")
    np.save(tmp_path / "x.npy", X)
    run_python(
        f"""
        import kacc, keras, numpy as np
        model = keras.models.load_model(r"{tmp_path}/m.keras")
        y = model.predict(np.load(r"{tmp_path}/x.npy"), verbose=0)
        assert kacc.pruning.sparsity(model) == 0.5
        np.save(r"{tmp_path}/y.npy", y)
        """
    )
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), want)


@pytest.mark.parametrize(
    ("target", "room", "size"),
    [
        ("tflite-float32", 1e-6, 0.6),
        ("tflite-float16", 1e-3, 0.7),
        ("tflite-int8", 0.05, 0.9),
    ],
)
def test_files_without_quantization_aware_training(target, room, size, tmp_path):
    """What is attached, and not the variable, is in the file."""
    model = kacc.cluster(classifier(), 4)
    options = {"calibration": X} if "int8" in target else {}
    artifact = kacc.convert(model, tmp_path / "m.tflite", target, **options)
    want = model.predict(X, verbose=0)
    np.testing.assert_allclose(artifact.predict(X), want, atol=room * abs(want).max())
    plain = classifier()
    assert not np.allclose(plain.predict(X, verbose=0), want, atol=1e-4)
    whole = kacc.convert(plain, tmp_path / "p.tflite", target, **options)
    assert artifact.gzip_bytes < size * whole.gzip_bytes


def test_bfloat16_prunes_and_clusters_the_full_values():
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        model = classifier()
    finally:
        keras.config.set_dtype_policy(before)
    kacc.cluster(kacc.prune(model, 0.5), 4)
    fit(model)
    want = model.predict(X, verbose=0)
    table = table_of(kacc.strip(model))
    assert table.dtype == "float32"
    assert len(np.unique(table)) <= 4
    np.testing.assert_array_equal(model.predict(X, verbose=0), want)


# Tables that others read


class Reader(layers.Layer):
    """An output layer that holds another one's table, or the layer itself."""

    def __init__(self, held, **options):
        super().__init__(**options)
        self.held = held

    def call(self, x):
        table = getattr(self.held, "embeddings", self.held)
        return ops.matmul(x, ops.transpose(table))


def tied(kind):
    keras.utils.set_random_seed(0)
    if kind in ("turned", "einsum"):
        model = Tied(WORDS, kind == "turned")
        model(X)
        return model
    inputs = keras.Input((LENGTH,), dtype="int32")
    table = layers.Embedding(WORDS, 6, name="table")
    x = layers.Dense(6, name="dense")(table(inputs))
    held = table if kind == "layer" else table.embeddings
    return keras.Model(inputs, Reader(held, name="reader")(x))


@pytest.mark.parametrize("kind", ["turned", "einsum", "layer", "variable"])
def test_a_table_that_is_read_past_its_layer_stays_as_it_is(kind):
    model = tied(kind)
    with pytest.warns(UserWarning, match=r"leaves dense: table \(.*from outside of it"):
        kacc.prune(model, 0.5, keep_ends=False)
    with pytest.warns(UserWarning, match=r"not cluster: table \(.*from outside of it"):
        kacc.cluster(model, 4)
    assert shares(model) == {"dense": 0.5}
    assert clusters(model) == {"dense": 4}


def test_shared_and_wrapped_layers_are_not_read_past_their_calls():
    dense = layers.Dense(6, name="dense")
    table = layers.Embedding(WORDS, 6, name="table")
    one, two = keras.Input((LENGTH,)), keras.Input((LENGTH,))
    x = layers.Add()([layers.TimeDistributed(dense)(table(one)), dense(table(two))])
    assert not read_elsewhere(trace(keras.Model([one, two], x)))


@pytest.mark.parametrize("tie_weights", [True, False])
def test_a_reversible_embedding_sees_one_table_in_both_directions(tie_weights):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((LENGTH,), dtype="int32")
    options = {"tie_weights": tie_weights, "mask_zero": True}
    table = layers.ReversibleEmbedding(WORDS, 8, name="table", **options)
    x = layers.Dense(8, name="dense")(table(inputs))
    model = keras.Model(inputs, table(x, reverse=True))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    callbacks = [
        kacc.callbacks.Pruning(0.5, end_step=1, keep_ends=False),
        kacc.callbacks.WeightClustering(6, start_epoch=1),
    ]
    model.fit(X, X, epochs=2, verbose=0, callbacks=callbacks)
    want = model.predict(X, verbose=0)
    kacc.strip(model)
    np.testing.assert_array_equal(model.predict(X, verbose=0), want)
    held = [variable.numpy() for variable in table.trainable_variables]
    assert len(held) == 1 + (not tie_weights)
    assert np.mean([value == 0 for value in map(np.ravel, held)]) >= 0.5
    assert all(len(np.unique(value)) <= 6 for value in held)


def test_clusters_that_wait_keep_the_mask_on_a_tensor():
    table = layers.ReversibleEmbedding(WORDS, 8, mask_zero=True, name="table")
    model = keras.Sequential([keras.Input((LENGTH,), dtype="int32"), table])
    waiting = kacc.callbacks.WeightClustering(6, start_epoch=1)
    waiting.set_model(model)
    with tf.GradientTape():
        found = table(X, training=True)
    np.testing.assert_array_equal(found._keras_mask, X != 0)


# Layers that stay as they are


def recurrent():
    return keras.Sequential(
        [
            keras.Input((LENGTH,), dtype="int32"),
            layers.Embedding(WORDS, 8, name="table"),
            layers.LSTM(16, name="memory"),
            layers.Dense(2, name="head"),
        ]
    )


def test_layers_of_unknown_types_are_named_once():
    with pytest.warns(UserWarning, match="LSTM is not pruned") as said:
        kacc.prune(recurrent(), 0.5)
    assert [w.filename for w in said if w.category is UserWarning] == [__file__]
    with pytest.warns(UserWarning, match="LSTM is not clustered") as said:
        kacc.cluster(recurrent(), 4)
    assert [w.filename for w in said if w.category is UserWarning] == [__file__]


@pytest.mark.filterwarnings("error::UserWarning")
def test_nothing_is_said_where_a_rule_skips_it_or_little_is_left():
    rules = [kacc.Rule("memory", skip=True)]
    kacc.prune(recurrent(), 0.5, rules=rules)
    kacc.cluster(recurrent(), 4, rules=rules)
    small = layers.LSTM(2)
    small.build((None, 4, 3))
    assert unknown_type(small, "pruned") is None
    assert unknown_type(small, "pruned", few=8) is not None
