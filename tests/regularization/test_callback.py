import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import kacc
from kacc.callbacks import Regularization
from kacc.core.errors import UsageError
from kacc.regularization import group_lasso, l1, l2

X = np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype("float32")
Y = np.arange(32) % 3


def network():
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, use_bias=False, name="conv")(x)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    inner = [keras.Input((6, 6, 6)), layers.Conv2D(4, 1, name="deep")]
    x = keras.Sequential(inner, name="inner")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))
    model.compile(keras.optimizers.SGD(0.05), "sparse_categorical_crossentropy")
    return model


def fit(model, *callbacks, **options):
    return model.fit(
        X, Y, batch_size=16, shuffle=False, verbose=0, callbacks=callbacks, **options
    ).history


def kernels(model):
    inner = model.get_layer("inner").get_layer("deep")
    return [
        layer.kernel for layer in (model.get_layer("conv"), inner, model.layers[-1])
    ]


@pytest.mark.parametrize(
    "options", [{"l1": 0.01}, {"l2": 0.02}, {"group_lasso": 0.03}, {"batch_norm": 0.05}]
)
def test_it_is_the_loss_written_out(options):
    model, other = network(), network()
    history = fit(model, Regularization(**options))
    factor = next(iter(options.values()))
    of_kernels = {"l1": l1, "l2": l2, "group_lasso": group_lasso}
    optimizer = keras.optimizers.SGD(0.05)

    def penalty():
        if "batch_norm" in options:
            return factor * l1(other.get_layer("norm").gamma.value)
        function = of_kernels[next(iter(options))]
        return factor * sum(function(kernel.value) for kernel in kernels(other))

    for start in (0, 16):
        with tf.GradientTape() as tape:
            y_pred = other(X[start : start + 16], training=True)
            loss = keras.losses.SparseCategoricalCrossentropy()(
                Y[start : start + 16], y_pred
            )
            loss += penalty()
        variables = other.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert history["regularization"] == [pytest.approx(float(penalty()), rel=1e-4)]


def test_group_lasso_makes_whole_channels_small():
    model = network()
    model.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy")
    fit(model, Regularization(group_lasso=0.3), epochs=60)
    lengths = np.sort(np.linalg.norm(kernels(model)[0].numpy().reshape(-1, 6), axis=0))
    assert lengths[0] < 0.05


def test_rules_leave_layers_alone():
    model, other = network(), network()
    rules = [kacc.Rule(".*", skip=True), kacc.Rule("inner/.*")]
    fit(model, Regularization(l2=5.0, rules=rules))
    fit(other)
    sizes = [
        [float(np.abs(kernel.numpy()).max()) for kernel in kernels(m)]
        for m in (model, other)
    ]
    assert sizes[0][1] < 0.5 * sizes[1][1]
    assert sizes[0][0] == pytest.approx(sizes[1][0], rel=0.3)


def test_validation_is_without_it_and_nothing_stays():
    model = network()
    history = fit(model, Regularization(l1=1.0), validation_data=(X, Y))
    assert history["val_loss"][0] == pytest.approx(
        model.evaluate(X, Y, verbose=0), rel=1e-5
    )
    assert history["loss"][0] > history["val_loss"][0] + 1
    assert "compute_loss" not in vars(model)


def test_beside_distillation_pruning_and_quantization(tmp_path):
    teacher, model = network(), network()
    callbacks = [
        Regularization(l1=0.01),
        kacc.callbacks.Distillation(teacher),
        kacc.callbacks.Pruning(0.5, keep_ends=False, end_step=1),
        kacc.callbacks.QuantizationAwareTraining(start_epoch=1),
    ]
    history = fit(model, *callbacks, epochs=2)
    assert {"regularization", "distillation_loss", "sparsity"} <= set(history)
    assert "compute_loss" not in vars(model)
    artifact = kacc.convert(model, tmp_path / "model.tflite", "tflite-int8")
    assert kacc.parity(model, artifact, X).equal == 1.0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({}, "a factor above zero"),
        ({"l1": -1.0}, "`l1` must be a number, at least 0"),
        ({"l2": "much"}, "Received: 'much'"),
        ({"batch_norm": float("nan")}, "`batch_norm`"),
        ({"l1": 1.0, "rules": ["conv"]}, "kacc.Rule"),
    ],
)
def test_wrong_arguments(wrong, said):
    with pytest.raises(UsageError, match=said):
        Regularization(**wrong)


def test_a_model_without_such_weights():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    for options in ({"batch_norm": 1.0}, {"l1": 1.0, "rules": []}):
        if "l1" in options:
            continue
        with pytest.raises(UsageError, match="no scales of batch normalizations"):
            model.fit(
                X[:, 0, 0, [0, 1, 2, 0]], Y, callbacks=[Regularization(**options)]
            )
    norm = keras.Sequential([keras.Input((3,)), layers.BatchNormalization()])
    norm.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(UsageError, match="no kernels"):
        norm.fit(X[:, 0, 0], Y, callbacks=[Regularization(l1=1.0)])


def test_tables_are_penalized_and_unknown_layers_named():
    keras.utils.set_random_seed(0)
    hidden = [layers.Embedding(9, 6, name="table"), layers.LSTM(16, name="memory")]
    model = keras.Sequential([keras.Input((5,)), *hidden, layers.Dense(3, name="head")])
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    x, y = np.ones((8, 5)), np.ones(8)
    with pytest.warns(UserWarning, match="does not penalize: memory .*type LSTM"):
        history = model.fit(x, y, verbose=0, callbacks=[Regularization(l1=0.5)])
    known = [model.layers[0].embeddings, model.layers[-1].kernel]
    want = 0.5 * sum(float(l1(variable.value)) for variable in known)
    assert history.history["regularization"] == pytest.approx([want], rel=1e-6)
