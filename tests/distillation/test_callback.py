import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import kacc
from kacc.callbacks import Distillation
from kacc.core.errors import UsageError
from kacc.distillation.functional import feature_loss, soft_loss

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(32, 8, 8, 3)).astype("float32")
Y = RANDOM.integers(0, 3, 32)
SPARSE = keras.losses.SparseCategoricalCrossentropy


def network(width, seed=0, activation="softmax", regularizer=None):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(
        width, 3, activation="relu", name="conv", kernel_regularizer=regularizer
    )(inputs)
    inner = [keras.Input((6, 6, width)), layers.Conv2D(width, 3, name="deep")]
    x = keras.Sequential(inner, name="inner")(x)
    x = layers.GlobalAveragePooling2D()(x)
    outputs = layers.Dense(3, activation=activation, name="head")(x)
    model = keras.Model(inputs, outputs)
    loss = SPARSE(from_logits=activation is None)
    model.compile(keras.optimizers.SGD(0.1), loss)
    return model


def fit(model, *callbacks, **options):
    return model.fit(
        X, Y, batch_size=16, shuffle=False, verbose=0, callbacks=callbacks, **options
    ).history


def by_hand(model, teacher, alpha, temperature, features=None):
    """One epoch of the same, written out."""
    optimizer = keras.optimizers.SGD(0.1)
    outs = [model.output] + [_tensor(model, f) for f in features or {}]
    of_student = keras.Model(model.inputs, outs)
    outs = [teacher.output] + [_tensor(teacher, f) for f in (features or {}).values()]
    of_teacher = keras.Model(teacher.inputs, outs)
    kinds = ("probabilities", "probabilities")
    for start in (0, 16):
        x, y = X[start : start + 16], Y[start : start + 16]
        taught, *taught_features = keras.tree.flatten(of_teacher(x, training=False))
        with tf.GradientTape() as tape:
            own, *own_features = keras.tree.flatten(of_student(x, training=True))
            loss = (1 - alpha) * SPARSE()(y, own)
            loss += alpha * soft_loss(taught, own, temperature, kinds)
            for a, b in zip(taught_features, own_features, strict=True):
                loss += 2.0 * feature_loss(a, b)
            loss += sum(model.losses)
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)


def _tensor(model, path):
    for name in path.split("/"):
        layer = model.get_layer(name)
        model = layer
    return layer.output if "/" not in path else None


def same(a, b):
    for one, other in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_it_is_the_loss_written_out(alpha):
    teacher = network(6, seed=1)
    model, other = (network(2, regularizer="l2") for _ in range(2))
    before = [w.copy() for w in teacher.get_weights()]
    history = fit(model, Distillation(teacher, 2.0, alpha))
    by_hand(other, teacher, alpha, 2.0)
    same(model, other)
    assert history["distillation_loss"][0] > 0
    for a, b in zip(before, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_features_are_those_of_the_same_step():
    teacher, features = network(6, seed=1), {"conv": "conv"}
    model, other = network(2), network(2)
    fit(model, Distillation(teacher, 2.0, 0.5, features, feature_weight=2.0))
    by_hand(other, teacher, 0.5, 2.0, features)
    same(model, other)


def test_features_of_nested_models_change_the_training():
    teacher = network(6, seed=1)
    model, other = network(2), network(2)
    fit(model, Distillation(teacher, features={"inner/deep": "inner/deep"}))
    fit(other, Distillation(teacher))
    assert not np.allclose(model.get_weights()[0], other.get_weights()[0], atol=1e-6)


def test_without_a_share_it_trains_as_plain():
    plain, model = network(2), network(2)
    fit(plain)
    fit(model, Distillation(network(6, seed=1), alpha=0.0))
    same(plain, model)


def test_validation_is_that_of_the_labels():
    model = network(2)
    history = fit(model, Distillation(network(6, seed=1)), validation_data=(X, Y))
    expected = model.evaluate(X, Y, verbose=0)
    assert history["val_loss"][0] == pytest.approx(expected, rel=1e-5)
    assert history["loss"][0] != pytest.approx(expected, rel=1e-3)


def test_nothing_of_it_stays(tmp_path):
    plain, model = network(2), network(2)
    fit(model, Distillation(network(6, seed=1), features={"conv": "conv"}))
    assert "compute_loss" not in vars(model)
    assert all("call" not in vars(layer) for layer in model.layers)
    model.set_weights(plain.get_weights())
    fit(model)
    fit(plain)
    same(plain, model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        loaded.predict(X, verbose=0), model.predict(X, verbose=0)
    )


def test_saved_in_the_middle_it_is_the_student_alone(tmp_path):
    path = tmp_path / "{epoch}.keras"
    model = network(2)
    checkpoint = keras.callbacks.ModelCheckpoint(path)
    callback = Distillation(network(6, seed=1), features={"conv": "conv"})
    fit(model, callback, checkpoint)
    loaded = keras.models.load_model(tmp_path / "1.keras")
    assert len(loaded.weights) == len(model.weights)
    same(loaded, model)


@pytest.mark.parametrize("options", [{"jit_compile": True}, {"run_eagerly": True}])
def test_ways_to_run_a_step(options):
    model, other = network(2), network(2)
    model.compile(keras.optimizers.SGD(0.1), SPARSE(), **options)
    for one in (model, other):
        fit(one, Distillation(network(6, seed=1), features={"conv": "conv"}))
    same(model, other)


def test_several_steps_per_execution():
    model, other = network(2), network(2)
    model.compile(keras.optimizers.SGD(0.1), SPARSE(), steps_per_execution=2)
    for one in (model, other):
        fit(one, Distillation(network(6, seed=1), features={"conv": "conv"}), epochs=2)
    same(model, other)


def test_logits_of_both():
    teacher = network(6, seed=1, activation=None)
    history = fit(network(2, activation=None), Distillation(teacher), epochs=2)
    assert len(history["distillation_loss"]) == 2


def test_a_student_learns_its_teachers_answers():
    keras.utils.set_random_seed(0)
    teacher = network(6, seed=1)
    model = network(6, seed=2)
    model.compile(keras.optimizers.Adam(0.01), SPARSE())
    history = fit(model, Distillation(teacher, 1.0, 1.0), epochs=30)
    losses = history["distillation_loss"]
    assert losses[-1] < 0.2 * losses[0]


def test_with_quantization_and_pruning(tmp_path):
    model = network(4)
    callbacks = [
        Distillation(network(6, seed=1), features={"conv": "conv"}),
        kacc.callbacks.Pruning(0.5, keep_ends=False, end_step=1),
        kacc.callbacks.QuantizationAwareTraining("int8", start_epoch=1),
    ]
    history = fit(model, *callbacks, epochs=3)
    assert len(history["distillation_loss"]) == 3
    artifact = kacc.convert(model, tmp_path / "m.tflite", "tflite-int8")
    assert kacc.parity(model, artifact, X).equal == 1.0


def test_a_function_may_teach():
    teacher = network(6, seed=1)
    model, other = network(2), network(2)
    fit(model, Distillation(lambda x: teacher(x, training=False)))
    fit(other, Distillation(teacher))
    same(model, other)


def test_two_outputs():
    def two(width, seed):
        keras.utils.set_random_seed(seed)
        x = inputs = keras.Input((4,))
        x = layers.Dense(width, activation="relu")(x)
        out = {
            "a": layers.Dense(2, activation="softmax")(x),
            "b": layers.Dense(1)(x),
        }
        model = keras.Model(inputs, out)
        model.compile("sgd", {"a": "sparse_categorical_crossentropy", "b": "mse"})
        return model

    x = RANDOM.normal(size=(8, 4)).astype("float32")
    y = {"a": np.zeros(8), "b": np.ones(8)}
    student, teacher = two(2, 0), two(8, 1)
    callback = Distillation(teacher)
    student.fit(x, y, verbose=0, callbacks=[callback])
    assert sorted(callback._kinds) == [
        ("probabilities", "probabilities"),
        ("values", "values"),
    ]


class OldFashioned(keras.Model):
    """Its own loss, without the argument that Keras added later, and its own step."""

    def __init__(self, asks=True):
        super().__init__()
        self.head = layers.Dense(3, activation="softmax")
        self.asks = asks

    def call(self, inputs):
        return self.head(layers.Flatten()(inputs))

    def compute_loss(self, x, y, y_pred, sample_weight):
        return SPARSE()(y, y_pred)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            if self.asks:
                loss = self._compute_loss(x, y, y_pred, None, training=True)
            else:
                loss = SPARSE()(y, y_pred)
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


@pytest.mark.parametrize("asks", [True, False])
def test_steps_of_ones_own(asks):
    model = OldFashioned(asks)
    model(X[:1])
    model.compile("sgd", SPARSE())
    callback = Distillation(network(6, seed=1))
    if not asks:
        with pytest.raises(UsageError, match="calls the model's `compute_loss`"):
            fit(model, callback)
        callback.on_train_end()
    else:
        fit(model, callback, validation_data=(X, Y))
    assert "compute_loss" not in vars(model)
    fit(model)


def test_after_an_interruption_it_can_go_on():
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyboardInterrupt

    model, callback = network(2), Distillation(network(6), features={"conv": "conv"})
    with pytest.raises(KeyboardInterrupt):
        fit(model, callback, Stop())
    fit(model, callback)
    assert "compute_loss" not in vars(model)
    assert all("call" not in vars(layer) for layer in model.layers)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"temperature": 0}, "`temperature`"),
        ({"temperature": "hot"}, "Received: 'hot'"),
        ({"alpha": 1.5}, "`alpha` must be a number from 0 to 1"),
        ({"feature_loss": "l1"}, "`feature_loss`"),
        ({"features": ["conv"]}, "`features` must be"),
    ],
)
def test_wrong_arguments(wrong, said):
    with pytest.raises(UsageError, match=said):
        Distillation(network(2), **wrong)


@pytest.mark.parametrize("teacher", [None, "model.keras", keras.Sequential([])])
def test_wrong_teachers(teacher):
    with pytest.raises(UsageError, match="`teacher` must be a built model"):
        Distillation(teacher)


def test_features_need_a_model():
    with pytest.raises(UsageError, match="the teacher a model"):
        Distillation(lambda x: x, features={"a": "b"})


def test_unfit_teachers_are_found_before_the_fit():
    other = keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten()])
    with pytest.raises(UsageError, match="outputs of the same shapes"):
        fit(network(2), Distillation(other))
    with pytest.raises(UsageError, match=r"the student has no such.*Received: 'none'"):
        fit(network(2), Distillation(network(6), features={"none": "conv"}))
    with pytest.raises(UsageError, match="the teacher has no such"):
        fit(network(2), Distillation(network(6), features={"conv": "none"}))
    callback = Distillation(network(6), features={"conv": "conv"}, feature_loss="mse")
    with pytest.raises(UsageError, match="cannot be compared by 'mse'"):
        fit(network(2), callback)


def test_an_unbuilt_student_is_refused_before_the_first_step():
    student = keras.Sequential([layers.Flatten(), layers.Dense(3)])
    student.compile("sgd", SPARSE(from_logits=True))
    with pytest.raises(UsageError, match="model must be built"):
        fit(student, Distillation(network(2)))
    assert not student.built
