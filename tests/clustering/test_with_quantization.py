"""Clusters and quantization: integers as few as clusters, in the file too."""

import keras
import numpy as np
import pytest
from keras import layers

import kacc
from kacc.converters.stored import stored_weights

X = np.random.default_rng(0).normal(size=(48, 8, 8, 3)).astype("float32")
Y = np.random.default_rng(1).integers(0, 4, 48)


def network():
    keras.utils.set_random_seed(6)
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, use_bias=False, padding="same", name="stem")(image)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    y = layers.Conv2D(8, 3, padding="same", name="one")(x)
    x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.SeparableConv2D(8, 3, activation="relu", name="separable")(x)
    x = layers.Conv2DTranspose(6, 2, strides=2, name="transposed")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, layers.Dense(4, activation="softmax", name="head")(x))
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    return model


def fit(model):
    model.fit(X, Y, batch_size=16, epochs=2, verbose=0)


def counts(artifact):
    stored = stored_weights(artifact.read())
    return {
        weight.operator: [
            len(np.unique(w.values))
            for w in stored
            if w.operator == weight.operator and w.values is not None
        ]
        for weight in stored
    }


@pytest.mark.sampled(3)
@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("scheme", ["int8", "int16x8"])
def test_integers_are_as_few_as_clusters_and_the_file_is_the_model(
    scheme, order, tmp_path
):
    model = network()
    techniques = [
        lambda: kacc.cluster(model, 6),
        lambda: kacc.quantize(model, scheme),
    ]
    for technique in techniques[::order]:
        technique()
    fit(model)
    artifact = kacc.convert(model, tmp_path / "m.tflite", f"tflite-{scheme}")
    found = counts(artifact)
    assert found["DEPTHWISE_CONV_2D"][0] > 6  # left alone
    for operator in ("CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"):
        assert max(found[operator]) <= 6, found
    assert kacc.parity(model, artifact, X).equal == 1.0


def test_scales_are_shared_by_channels_only_where_clusters_are(tmp_path):
    model = kacc.quantize(kacc.cluster(network(), 6, per="channel"))
    fit(model)
    artifact = kacc.convert(model, tmp_path / "m.tflite", "tflite-int8")
    assert kacc.parity(model, artifact, X).equal == 1.0
    for weight in stored_weights(artifact.read()):
        if weight.operator == "CONV_2D":
            rows = weight.values.reshape(weight.shape[0], -1)
            assert max(len(np.unique(row)) for row in rows) <= 6
            assert len(np.unique(rows)) > 6


def test_learned_steps_of_four_bits(tmp_path):
    model = kacc.quantize(kacc.cluster(network(), 8), "w4a8")
    fit(model)
    artifact = kacc.convert(model, tmp_path / "m.tflite", "tflite-w4a8")
    assert kacc.parity(model, artifact, X).equal == 1.0


def test_after_training_without_quantization(tmp_path):
    model = kacc.cluster(network(), 6)
    fit(model)
    artifact = kacc.convert(
        model, tmp_path / "m.tflite", "tflite-int8", calibration=X[:16]
    )
    assert max(counts(artifact)["CONV_2D"]) <= 6


def test_zeros_clusters_and_integers(tmp_path):
    model = kacc.prune(network(), 0.5, keep_ends=False)
    kacc.quantize(kacc.cluster(model, 6))
    fit(model)
    artifact = kacc.convert(model, tmp_path / "m.tflite", "tflite-int8")
    stored = [
        w for w in stored_weights(artifact.read()) if w.operator != "DEPTHWISE_CONV_2D"
    ]
    assert sum(w.zeros for w in stored) >= 0.5 * sum(w.size for w in stored)
    assert max(len(np.unique(w.values)) for w in stored) <= 6
    assert kacc.parity(model, artifact, X).equal == 1.0


def test_what_the_model_says_follows_what_is_attached():
    """Also where it has answered in integers before."""
    keras.utils.set_random_seed(0)
    dense = layers.Dense(8, name="dense")
    model = kacc.quantize(keras.Sequential([keras.Input((8, 3)), dense]))
    x = X[:, 0]
    kacc.quantization.calibrate(model, [x])
    model.predict(x, verbose=0)
    kacc.cluster(model, 3)
    expected = kacc.simulate(model).predict(x, verbose=0)
    np.testing.assert_array_equal(model.predict(x, verbose=0), expected)


def test_a_model_that_has_predicted_answers_anew_once_it_is_clustered():
    """The simulation of before, of all weights, is not kept."""
    model = network()
    kacc.quantize(model)
    fit(model)
    clustering = kacc.callbacks.WeightClustering(2, start_epoch=1)
    clustering.set_model(model)
    before = model.predict(X, verbose=0)
    clustering.on_epoch_begin(1)
    after = model.predict(X, verbose=0)
    assert not np.array_equal(after, before)
    np.testing.assert_array_equal(after, kacc.simulate(model, "xnnpack")(X))
