import keras
import numpy as np
import pytest

import kacc
from kacc.clustering import clusters
from kacc.core.errors import UsageError

X = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
Y = X[:, :2] * 3


def mlp():
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Dense(12, activation="relu", name="one"),
        keras.layers.Dense(2, name="two"),
    ]
    model = keras.Sequential([keras.Input((6,)), *layers])
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


def fit(model, *callbacks, **options):
    return model.fit(
        X, Y, verbose=0, shuffle=False, callbacks=list(callbacks), **options
    ).history


def test_until_it_starts_the_model_trains_as_without_it():
    plain, model = mlp(), mlp()
    fit(plain, epochs=2)
    history = fit(model, kacc.callbacks.WeightClustering(4, start_epoch=2), epochs=2)
    for a, b in zip(plain.get_weights(), kacc.strip(model).get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert "clusters" not in history


def test_it_starts_in_the_middle():
    model = mlp()
    history = fit(model, kacc.callbacks.WeightClustering(4, start_epoch=1), epochs=3)
    assert history["clusters"] == [4, 4]
    assert clusters(model) == {"one": 4, "two": 4}


def test_resumed_it_goes_on_from_the_centroids(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def callbacks():
        return [
            keras.callbacks.BackupAndRestore(tmp_path / "backup"),
            kacc.callbacks.WeightClustering(4),
        ]

    whole, first, second = mlp(), mlp(), mlp()
    fit(whole, kacc.callbacks.WeightClustering(4), epochs=4)
    with pytest.raises(KeyboardInterrupt):
        fit(first, *callbacks(), Stop(), epochs=4)
    fit(second, *callbacks(), epochs=4)
    for a, b in zip(whole.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_with_pruning_and_quantization_in_one_fit(tmp_path):
    model = mlp()
    callbacks = [
        kacc.callbacks.WeightClustering(8, start_epoch=2),
        kacc.callbacks.Pruning(0.5, keep_ends=False, end_step=1),
        kacc.callbacks.QuantizationAwareTraining("int8", start_epoch=3),
    ]
    fit(model, *callbacks, epochs=6)
    assert max(clusters(model).values()) <= 8
    assert kacc.pruning.sparsity(model) == pytest.approx(0.5, abs=0.01)
    artifact = kacc.convert(model, tmp_path / "m.tflite", "tflite-int8")
    assert kacc.parity(model, artifact, X).equal == 1.0


@pytest.mark.parametrize("start_epoch", [-1, 1.5, True])
def test_wrong_epochs(start_epoch):
    with pytest.raises(UsageError, match="start_epoch"):
        kacc.callbacks.WeightClustering(start_epoch=start_epoch)


def test_mixed_precision_and_compiled_steps():
    keras.utils.set_random_seed(0)
    layer = keras.layers.Dense(8, dtype="mixed_bfloat16")
    model = keras.Sequential([keras.Input((6,)), layer, keras.layers.Dense(2)])
    model.compile("adam", "mse", jit_compile=True)
    fit(model, kacc.callbacks.WeightClustering(4), epochs=2)
    assert max(clusters(model).values()) == 4


@pytest.mark.parametrize("start_epoch", [0, 1])
def test_a_fit_with_another_number_goes_on_from_the_weights(start_epoch):
    model = mlp()
    model.optimizer.learning_rate = 1e-6
    fit(model, kacc.callbacks.WeightClustering(16))
    before = model.predict(X, verbose=0)
    fit(model, kacc.callbacks.WeightClustering(12, start_epoch=start_epoch))
    assert clusters(model) == {"one": 12, "two": 12}
    after = model.predict(X, verbose=0)
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.95
