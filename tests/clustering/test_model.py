import warnings

import keras
import numpy as np
import pytest

import kacc
from kacc.clustering import clusters
from kacc.core.errors import UsageError

IMAGES = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype("float32")
LABELS = np.arange(16) % 3


def convolutional():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    x = y = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    inner = keras.Sequential(
        [keras.Input((6, 6, 8)), layers.Conv2D(8, 1, activation="relu", name="point")],
        name="inner",
    )
    x = layers.GlobalAveragePooling2D()(inner(x))
    return keras.Model(y, layers.Dense(3, activation="softmax", name="head")(x))


def compiled(model, optimizer="adam"):
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return model


def distinct(value):
    return len(np.unique(np.asarray(value)))


def kernels(model):
    layers = ("stem", "point", "head")
    named = [w for w in model.weights if w.path.split("/")[-2] in layers]
    return [w.numpy() for w in named if w.name == "kernel"]


def test_the_model_computes_with_few_values():
    model = kacc.cluster(convolutional(), 4)
    attached = model.predict(IMAGES, verbose=0)
    assert clusters(model) == {"stem": 4, "inner/point": 4, "head": 4}
    plain = kacc.strip(model)
    assert [distinct(k) for k in kernels(plain)] == [4, 4, 4]
    np.testing.assert_allclose(plain.predict(IMAGES, verbose=0), attached, atol=1e-6)


def test_the_depthwise_kernel_stays():
    model = convolutional()
    before = model.get_layer("depthwise").kernel.numpy()
    kacc.strip(kacc.cluster(model, 4))
    np.testing.assert_array_equal(model.get_layer("depthwise").kernel, before)


def test_channels_may_have_values_of_their_own():
    model = kacc.strip(kacc.cluster(convolutional(), 3, per="channel"))
    kernel = model.get_layer("stem").kernel.numpy()
    assert [distinct(kernel[..., i]) for i in range(8)] == [3] * 8
    assert distinct(kernel) > 3


def test_training_moves_centroids_and_weights_between_them():
    model = compiled(kacc.cluster(convolutional(), 4), keras.optimizers.Adam(0.01))
    layer = model.get_layer("stem")
    centroids = next(v for v in layer.trainable_variables if "centroids" in v.path)
    start = centroids.numpy()
    model.fit(IMAGES, LABELS, epochs=3, verbose=0)
    assert np.all(centroids.numpy() != start)
    assert clusters(model) == {"stem": 4, "inner/point": 4, "head": 4}


def test_an_optimizer_that_is_built_takes_the_centroids():
    model = compiled(convolutional())
    model.fit(IMAGES, LABELS, verbose=0)
    kacc.cluster(model, 4)
    model.fit(IMAGES, LABELS, verbose=0)
    assert max(clusters(model).values()) == 4


def test_rules():
    rules = [kacc.Rule("inner/.*", skip=True), kacc.Rule("head", clusters=2)]
    model = kacc.cluster(convolutional(), 8, rules=rules)
    assert clusters(model) == {"stem": 8, "head": 2}


def test_again_with_other_numbers():
    model = kacc.cluster(convolutional(), 8)
    kacc.cluster(model, 4)
    assert set(clusters(model).values()) == {4}
    kacc.cluster(model, 4, rules=[kacc.Rule("head", skip=True)])
    assert "head" not in clusters(model)


def constrained(constraint):
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense(
        8, use_bias=False, kernel_constraint=constraint, name="dense"
    )
    model = keras.Sequential([keras.Input((6,)), dense])
    model.compile(keras.optimizers.SGD(0.5), "mse")
    return model


@pytest.mark.filterwarnings("error::UserWarning")
def test_centroids_are_not_negative_where_weights_must_not_be(tmp_path):
    model = kacc.cluster(constrained("non_neg"), 4)
    model.save(tmp_path / "model.keras")
    for one in (model, keras.models.load_model(tmp_path / "model.keras")):
        x = np.abs(IMAGES[:, 0].reshape(16, -1)[:, :6])  # pulls all weights down
        one.fit(x, -np.ones((16, 8)), epochs=20, verbose=0)
        assert kacc.strip(one).get_layer("dense").kernel.numpy().min() >= 0


def test_constraints_that_clustered_weights_break_are_named():
    with pytest.warns(UserWarning, match="Received: MaxNorm of dense"):
        kacc.cluster(constrained("max_norm"), 4)


def centroids(model):
    return [v for v in model.variables if "centroids" in v.path]


@pytest.mark.filterwarnings("error:Gradients do not exist:UserWarning")
@pytest.mark.sampled(2)
@pytest.mark.parametrize("quantized", [True, False])
def test_centroids_of_another_count_or_kind_are_gone(quantized, tmp_path):
    model = compiled(kacc.cluster(convolutional(), 8))
    if quantized:
        kacc.quantize(model)
    model.fit(IMAGES, LABELS, verbose=0)
    rules = [kacc.Rule("head", skip=True)]
    for again in ({"per": "channel"}, {"rules": rules}):
        kacc.cluster(model, 4, **again)
        assert len(centroids(model)) == len(clusters(model))
        trained = model.optimizer._trainable_variables
        assert list(map(id, trained)) == list(map(id, model.trainable_variables))
        model.fit(IMAGES, LABELS, verbose=0)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert len(centroids(loaded)) == len(clusters(loaded))
        np.testing.assert_array_equal(
            loaded.predict(IMAGES, verbose=0), model.predict(IMAGES, verbose=0)
        )
    loaded.fit(IMAGES, LABELS, verbose=0)


@pytest.mark.parametrize("order", ["prune first", "cluster first"])
def test_zeros_of_pruning_stay_and_are_one_of_the_clusters(order):
    model = compiled(convolutional())
    techniques = [
        lambda: kacc.prune(model, 0.5, keep_ends=False),
        lambda: kacc.cluster(model, 4),
    ]
    for technique in techniques if order == "prune first" else techniques[::-1]:
        technique()
    if order != "prune first":
        kacc.clustering.update_clusters(model)
    model.fit(IMAGES, LABELS, epochs=2, verbose=0)
    assert set(clusters(model).values()) <= {3, 4}
    kacc.strip(model)
    zeros = sum((k == 0).sum() for k in kernels(model))
    assert zeros >= 0.5 * sum(k.size for k in kernels(model))


def test_zeros_of_a_stripped_model_stay():
    model = kacc.strip(kacc.prune(convolutional(), 0.5, keep_ends=False))
    zeros = [k == 0 for k in kernels(model)]
    model = compiled(kacc.cluster(model, 4), keras.optimizers.Adam(0.05))
    model.fit(IMAGES, LABELS, epochs=3, verbose=0)
    for kernel, zero in zip(kernels(kacc.strip(model)), zeros, strict=True):
        assert not kernel[zero].any()


def test_zeros_may_be_given_up():
    model = kacc.strip(kacc.prune(convolutional(), 0.5, keep_ends=False))
    kacc.strip(kacc.cluster(model, 4, preserve_sparsity=False))
    assert any(k.all() for k in kernels(model))


class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = keras.layers.Dense(8, activation="relu", name="first")
        self.last = keras.layers.Dense(3, activation="softmax", name="last")

    def call(self, inputs):
        return self.last(self.first(inputs))


keras.saving.register_keras_serializable("tests")(Subclassed)


def subclassed():
    keras.utils.set_random_seed(0)
    model = Subclassed()
    model(np.zeros((1, 6), "float32"))
    return model


@pytest.mark.parametrize("make", [convolutional, subclassed])
def test_saved_and_loaded(make, tmp_path):
    model = compiled(kacc.cluster(make(), 4))
    x = IMAGES if make is convolutional else IMAGES.reshape(-1, 6)[:16]
    model.fit(x, LABELS, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert clusters(loaded) == clusters(model)
    np.testing.assert_array_equal(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0)
    )
    loaded.fit(x, LABELS, verbose=0)
    assert max(clusters(loaded).values()) == 4


def test_plain_again_it_loads_without_kacc(tmp_path):
    model = kacc.strip(kacc.cluster(convolutional(), 4))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert all(type(layer).__module__.startswith("keras") for layer in loaded.layers)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"clusters": 1}, "Received: 1"),
        ({"clusters": 300}, "2 to 256"),
        ({"clusters": True}, "2 to 256"),
        ({"start": "random"}, "`start` must be one of"),
        ({"per": "layer"}, "`per` must be one of"),
        ({"rules": ["stem"]}, "kacc.Rule"),
        ({"rules": kacc.Rule("stem", skip=True)}, "kacc.Rule"),
        ({"preserve_sparsity": "no"}, "True or False"),
        ({"rules": [kacc.Rule("nothing")]}, "must match a layer"),
    ],
)
def test_wrong_calls(wrong, said):
    model = convolutional()
    with pytest.raises(UsageError, match=said):
        kacc.cluster(model, **wrong)
    assert all(type(layer).__module__.startswith("keras") for layer in model.layers)


def test_a_model_without_kernels():
    model = keras.Sequential([keras.Input((4,)), keras.layers.ReLU()])
    with pytest.raises(UsageError, match="must have a layer to cluster"):
        kacc.cluster(model)


def test_matrices_that_are_not_clustered_are_named():
    layers = keras.layers
    hidden = [layers.Embedding(9, 6, name="table"), layers.LSTM(4, name="memory")]
    model = keras.Sequential([keras.Input((5,)), *hidden, layers.Dense(3, name="head")])
    rules = [kacc.Rule("memory", skip=True)]
    with pytest.warns(UserWarning, match="memory .*LSTM is not clustered"):
        kacc.cluster(model, 4)
    assert set(clusters(model)) == {"table", "head"}
    with warnings.catch_warnings(action="error"):
        kacc.cluster(model, 4, rules=rules)


def test_small_layers_are_left_alone_and_named():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="small")])
    with pytest.raises(UsageError, match="small: it has no more weights than clusters"):
        kacc.cluster(model)


def test_a_shared_layer_has_rules_at_each_of_its_paths():
    shared = keras.layers.Dense(8, name="shared")
    inner = keras.Sequential([keras.Input((8,)), shared], name="inner")
    inputs = keras.Input((8,))
    outputs = keras.layers.Dense(4, name="head")(inner(shared(inputs)))
    model = keras.Model(inputs, outputs)
    kacc.cluster(model, 4, rules=[kacc.Rule("inner/.*", skip=True)])
    assert clusters(model) == {"head": 4}
