import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import kacc
from kacc.core.errors import UsageError
from kacc.ensembling.functional import least_squares_weights, mixture_weights

RANDOM = np.random.default_rng(0)
X = RANDOM.uniform(0, 255, (24, 8, 8, 3)).astype("float32")
Y = RANDOM.integers(0, 3, 24)
UNLABELED = tf.data.Dataset.from_tensor_slices(X).batch(8)


def member(seed, width=4, scale=1 / 255, activation="softmax"):
    keras.utils.set_random_seed(seed)
    norm = layers.BatchNormalization()
    inner = [keras.Input((6, 6, width)), layers.Conv2D(width, 3, name="deep"), norm]
    return keras.Sequential(
        [
            keras.Input((8, 8, 3), name="image"),
            layers.Rescaling(scale),
            layers.Conv2D(width, 3, activation="relu", name="conv"),
            keras.Sequential(inner, name="inner"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, activation=activation, name="head"),
        ]
    )


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.scale = layers.Rescaling(1 / 255)
        self.conv = layers.Conv2D(2, 3)
        self.head = layers.Dense(3, activation="softmax")

    def call(self, inputs):
        return self.head(layers.Flatten()(self.conv(self.scale(inputs))))


def subclassed(seed):
    keras.utils.set_random_seed(seed)
    model = Subclassed()
    model(X[:1])
    return model


def predictions(models):
    return [m.predict(X, verbose=0) for m in models]


def test_the_average_is_the_mean_of_the_answers():
    models = [member(0), member(1, width=6), subclassed(2)]
    for given in (models, models[::-1]):  # the first one says what the inputs are like
        found = kacc.ensemble(given).predict(X, verbose=0)
        np.testing.assert_allclose(found, np.mean(predictions(models), 0), atol=1e-6)


def test_members_are_copied():
    models = [member(0), member(1)]
    before = [w.copy() for m in models for w in m.get_weights()]
    both = kacc.ensemble(models)
    both.compile("sgd", "sparse_categorical_crossentropy")
    both.fit(X, Y, verbose=0)
    after = [w for m in models for w in m.get_weights()]
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("scales", "count"), [((1, 1, 1), 1), ((1, 2, 1), 2)])
def test_equal_preprocessing_is_done_once(scales, count):
    models = [member(i, scale=s / 255) for i, s in enumerate(scales)]
    both = kacc.ensemble(models)
    rescalings = [x for x in both.layers if isinstance(x, layers.Rescaling)]
    assert len(rescalings) == count
    found = both.predict(X, verbose=0)
    np.testing.assert_allclose(found, np.mean(predictions(models), 0), atol=1e-6)


def test_normalizations_are_shared_if_their_numbers_are_equal():
    def normalized(mean):
        dense = layers.Dense(2)
        norm = layers.Normalization(mean=mean, variance=2.0)
        return keras.Sequential([keras.Input((4,)), norm, dense])

    def adapted(seed):
        norm = layers.Normalization()
        norm.adapt(np.random.default_rng(seed).normal(size=(50, 4)))
        return keras.Sequential([keras.Input((4,)), norm, layers.Dense(2)])

    for models, count in (
        ([normalized(0.5), normalized(0.5)], 1),
        ([normalized(0.5), normalized(1.5)], 2),
        ([adapted(0), adapted(0)], 1),
        ([adapted(0), adapted(1)], 2),
    ):
        both = kacc.ensemble(models)
        x = np.ones((2, 4), "float32")
        mean = np.mean([m.predict(x, verbose=0) for m in models], 0)
        np.testing.assert_allclose(both.predict(x, verbose=0), mean, atol=1e-6)
        found = [k for k in both.layers if isinstance(k, layers.Normalization)]
        assert len(found) == count


def test_weights_that_are_given():
    models = [member(0), member(1)]
    both = kacc.ensemble(models, "weighted", weights=[3, 1])
    one, two = predictions(models)
    found = both.predict(X, verbose=0)
    np.testing.assert_allclose(found, 0.75 * one + 0.25 * two, atol=1e-6)


def test_weights_are_found_for_classes():
    sure, other = member(0), member(1)
    kernel, bias = sure.layers[-1].get_weights()
    sure.layers[-1].set_weights([50 * kernel, 50 * bias])
    right = sure.predict(X, verbose=0).argmax(-1)
    for labels in (right, right[:, None], np.eye(3)[right]):
        both = kacc.ensemble([sure, other], "weighted", data=(X, labels))
        scales = [x.scale for x in both.layers if isinstance(x, layers.Rescaling)]
        assert sum(scales[1:]) == pytest.approx(1.0)
        assert scales[1] > 0.8


def test_mixture_weights_make_labels_most_likely():
    labels = RANDOM.integers(0, 3, 200)
    members = [RANDOM.dirichlet(np.ones(3), 200) for _ in range(2)]
    members[0][np.arange(200), labels] += 0.3
    members[0] /= members[0].sum(-1, keepdims=True)
    weights = mixture_weights(members, labels)

    def likelihood(w):
        mixed = w * members[0] + (1 - w) * members[1]
        return np.log(mixed[np.arange(200), labels]).sum()

    best = max(np.linspace(0, 1, 1001), key=likelihood)
    assert weights[0] == pytest.approx(best, abs=2e-3)


def test_least_squares_weights_are_the_best_of_all_means():
    a, b = RANDOM.normal(size=(2, 100))
    target = 0.3 * a + 0.7 * b
    np.testing.assert_allclose(
        least_squares_weights([a, b], target), [0.3, 0.7], atol=1e-6
    )
    np.testing.assert_allclose(least_squares_weights([a, -a], a), [1, 0], atol=1e-6)


def test_a_trained_head_is_better_than_the_mean():
    good, bad = member(0), member(1)
    good.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    good.fit(X, Y, epochs=40, verbose=0)
    x, y = np.repeat(X, 4, 0), np.repeat(Y, 4)

    def loss(model):
        model.compile("sgd", "sparse_categorical_crossentropy")
        return model.evaluate(X, Y, verbose=0)

    stacked = kacc.ensemble([good, bad], "stacked", data=(x, y), epochs=30)
    assert loss(stacked) < loss(kacc.ensemble([good, bad]))


def test_a_head_is_kept_as_it_was_at_its_best():
    """On the fifth of the data that it does not see, which here says the opposite."""
    x = RANDOM.uniform(0, 255, (100, 8, 8, 3)).astype("float32")
    y = np.zeros(100, int)
    y[np.random.default_rng(0).permutation(100)[:20]] = 1
    models, heads = [member(0), member(1)], []
    for epochs in (1, 10):
        keras.utils.set_random_seed(3)
        stacked = kacc.ensemble(models, "stacked", data=(x, y), epochs=epochs)
        heads.append(stacked.layers[-1].get_weights())
    for once, stopped in zip(*heads, strict=True):
        np.testing.assert_allclose(once, stopped, rtol=1e-6)


def test_values_are_stacked_by_a_linear_head():
    models = [member(i, activation=None) for i in range(2)]
    target = predictions(models)[1] * 2
    stacked = kacc.ensemble(models, "stacked", data=(X, target), epochs=1)
    assert stacked.layers[-1].activation is keras.activations.linear


def head_of(answers, labels):
    """A stacked head on members that answer what they are given."""
    inputs = keras.Input((len(answers), *answers[0].shape[1:]))
    members = [keras.Model(inputs, inputs[:, i]) for i in range(len(answers))]
    data = np.stack(answers, 1), labels
    return kacc.ensemble(members, "stacked", data=data, epochs=1), data[0]


def test_two_classes_by_one_probability_are_stacked_by_a_sigmoid():
    one = np.random.default_rng(0).uniform(size=(200, 1)).astype("float32")
    stacked, x = head_of([one, one], (one[:, 0] > 0.5).astype(int))
    answers = stacked.predict(x, verbose=0)
    assert np.all((answers > 0) & (answers < 1))
    assert np.mean((answers > 0.5) == (one > 0.5)) > 0.95


def test_logits_are_weighed_and_stacked_as_such():
    """Logits of good members may be negative, which no probability is."""
    y = np.arange(30) % 3
    good = (6 * np.eye(3)[y] - 9).astype("float32")
    bad = (6 * np.eye(3)[(y + 1) % 3] + 9).astype("float32")
    stacked, x = head_of([good, good], y)
    answers = stacked.predict(x, verbose=0)
    powers = np.exp(good + 9)
    np.testing.assert_allclose(answers, powers / powers.sum(1, keepdims=True), atol=0.1)
    inputs = keras.Input((2, 3))
    members = [keras.Model(inputs, inputs[:, i]) for i in range(2)]
    x = np.stack([good, bad], 1)
    both = kacc.ensemble(members, "weighted", data=(x, y))
    np.testing.assert_allclose(both.predict(x, verbose=0), good, atol=0.1)


def test_weights_of_two_classes_are_those_that_labels_are_most_likely_under():
    y = np.random.default_rng(0).integers(0, 2, 50)
    sure, unsure = np.where(y, 0.9, 0.1)[:, None], np.full((50, 1), 0.5)
    inputs = keras.Input((2, 1))
    members = [keras.Model(inputs, inputs[:, i]) for i in range(2)]
    x = np.stack([sure, unsure], 1).astype("float32")
    both = kacc.ensemble(members, "weighted", data=(x, y))
    np.testing.assert_allclose(both.predict(x, verbose=0), sure, atol=0.01)


def test_data_may_be_a_dataset():
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    models = [member(0), member(1)]
    one = kacc.ensemble(models, "weighted", data=data)
    two = kacc.ensemble(models, "weighted", data=(X, Y))
    np.testing.assert_allclose(
        one.predict(X, verbose=0), two.predict(X, verbose=0), atol=1e-5
    )


def test_weights_of_several_outputs_are_not_found():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, [layers.Dense(2)(inputs), layers.Dense(3)(inputs)])
    with pytest.raises(UsageError, match="models of one output"):
        kacc.ensemble([model, model], "weighted", data=(np.ones((2, 4)), np.ones(2)))


def test_structures_of_outputs():
    def two(seed):
        keras.utils.set_random_seed(seed)
        inputs = {"a": keras.Input((4,), name="a"), "b": keras.Input((2,), name="b")}
        x = layers.Concatenate()([inputs["a"], inputs["b"]])
        return keras.Model(inputs, {"u": layers.Dense(2)(x), "v": layers.Dense(1)(x)})

    models = [two(0), two(1)]
    x = {"a": np.ones((2, 4), "float32"), "b": np.ones((2, 2), "float32")}
    found = kacc.ensemble(models).predict(x, verbose=0)
    for key in ("u", "v"):
        mean = np.mean([m.predict(x, verbose=0)[key] for m in models], 0)
        np.testing.assert_allclose(found[key], mean, atol=1e-6)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("method", ["stacked", "average", "weighted"])
def test_saved_quantized_and_converted_as_one_file(method, tmp_path):
    both = kacc.ensemble([member(0), member(1)], method, data=(X, Y), epochs=2)
    both.save(tmp_path / "both.keras")
    loaded = keras.models.load_model(tmp_path / "both.keras")
    np.testing.assert_allclose(
        loaded.predict(X, verbose=0), both.predict(X, verbose=0), atol=1e-6
    )
    both.compile(keras.optimizers.SGD(1e-3), "sparse_categorical_crossentropy")
    both.fit(X, Y, verbose=0, callbacks=[kacc.callbacks.QuantizationAwareTraining()])
    artifact = kacc.convert(both, tmp_path / "both.tflite", "tflite-int8")
    assert kacc.parity(both, artifact, X).equal == 1.0


def test_masks_and_clusters_of_members_are_kept_as_numbers():
    models = [kacc.cluster(member(0), 4), kacc.prune(member(1), 0.5, keep_ends=False)]
    both = kacc.ensemble(models)
    mean = np.mean(predictions(models), 0)
    np.testing.assert_allclose(both.predict(X, verbose=0), mean, atol=1e-6)


def test_distilled_back_into_one():
    both = kacc.ensemble([member(0), member(1)])
    small = member(2, width=2)
    small.compile("adam", "sparse_categorical_crossentropy")
    small.fit(X, Y, verbose=0, callbacks=[kacc.callbacks.Distillation(both)])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: kacc.ensemble(m[:1]), "two Keras models or more"),
        (lambda m: kacc.ensemble(m[0]), "two Keras models or more"),
        (lambda m: kacc.ensemble(m, "vote"), "`method` must be one of"),
        (lambda m: kacc.ensemble(m, "stacked"), "needs data"),
        (lambda m: kacc.ensemble(m, "weighted"), "needs data"),
        (lambda m: kacc.ensemble(m, "weighted", weights=[1]), "`weights` must be"),
        (lambda m: kacc.ensemble(m, "weighted", weights=[1, -1]), "at least 0"),
        (lambda m: kacc.ensemble(m, weights=[1, 1]), 'method="weighted"'),
        (lambda m: kacc.ensemble(m, "stacked", data=X), r"must be \(x, y\) arrays"),
        (lambda m: kacc.ensemble(m, "stacked", data=(X, Y[:3])), "a label for each"),
        (lambda m: kacc.ensemble(m, "stacked", data=(X, Y - 1)), "from 0 to 2, or one"),
        (
            lambda m: kacc.ensemble(m, "weighted", data=(X, Y + 1)),
            "from 0 to 2, or one",
        ),
        (lambda m: kacc.ensemble(m, "weighted", data=(X, Y + 0.5)), "whole numbers"),
        (lambda m: kacc.ensemble(m, "weighted", data=(X, np.eye(4)[Y])), "labels of"),
        (
            lambda m: kacc.ensemble(m, "weighted", data=UNLABELED),
            r"batches of \(x, y\)",
        ),
        (lambda m: kacc.ensemble(m, "weighted", weights=["a", 1]), "`weights` must be"),
        (lambda m: kacc.ensemble(m, "stacked", data=(X, Y), epochs=0), "`epochs`"),
    ],
)
def test_wrong_calls(call, said):
    with pytest.raises(UsageError, match=said):
        call([member(0), member(1)])


@pytest.mark.parametrize("method", ["average", "weighted"])
def test_probabilities_and_logits_have_no_mean(method):
    members = [member(0), member(1, activation=None)]
    for given in (members, members[::-1]):
        with pytest.raises(UsageError, match="or all logits") as caught:
            kacc.ensemble(given, method, data=(X, Y))
        assert "\n" not in str(caught.value)
    sharp = keras.Sequential([members[1], layers.Softmax()])
    found = kacc.ensemble([members[0], sharp]).predict(X, verbose=0)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
    kacc.ensemble([kacc.ensemble([members[0], sharp]), members[0]])


def test_logits_that_only_the_loss_tells():
    def scaled(activation):
        head = [layers.Dense(2, activation), layers.Rescaling(1.0)]
        return keras.Sequential([keras.Input((4,)), *head])

    plain = keras.Sequential([keras.Input((4,)), layers.Dense(2, "softmax")])
    told = scaled(None)
    kacc.ensemble([plain, scaled("softmax")])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    told.compile("sgd", loss)
    with pytest.raises(UsageError, match="logits of model 1"):
        kacc.ensemble([plain, told])


def test_models_must_fit_together():
    other = keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten()])
    with pytest.raises(UsageError, match="equal outputs"):
        kacc.ensemble([member(0), other])
    other = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    with pytest.raises(UsageError, match="equal inputs"):
        kacc.ensemble([member(0), other])
