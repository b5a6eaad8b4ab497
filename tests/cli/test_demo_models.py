import keras
import numpy as np
import pytest

import kacc
from kacc.cli.demo.models import load_classifier, small_cnn
from kacc.cli.demo.training import split
from kacc.cli.images import Dataset
from kacc.core.attach import is_attached


@pytest.mark.parametrize("side", [1, 8, 28, 96])
def test_small_cnn_takes_images_of_any_size(side):
    model = small_cnn((side, side, 3), 5, steps=10)
    assert model(np.zeros((2, side, side, 3))).shape == (2, 5)


@pytest.mark.parametrize(
    ("activation", "logits"), [("softmax", False), ("linear", True)]
)
def test_classifier_without_a_loss_gets_the_fitting_one(tmp_path, activation, logits):
    layers = [keras.Input((4, 4, 1)), keras.layers.Flatten()]
    layers.append(keras.layers.Dense(3, activation=activation))
    keras.Sequential(layers).save(tmp_path / "a.keras")
    model = load_classifier(tmp_path / "a.keras")
    scores = keras.ops.convert_to_tensor([[0.2, 0.3, 0.5]])
    label = keras.ops.convert_to_tensor([2])
    expected = keras.losses.sparse_categorical_crossentropy(label, scores, logits)
    found = model.compute_loss(y=label, y_pred=scores)
    np.testing.assert_allclose(float(found), float(expected[0]), rtol=1e-6)


def test_classifier_keeps_its_own_settings(tmp_path):
    layers = [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.125), loss)
    model.save(tmp_path / "a.keras")
    loaded = load_classifier(tmp_path / "a.keras")
    assert float(loaded.optimizer.learning_rate) == 0.125


def test_split_keeps_each_class_and_loses_nothing():
    y = np.repeat(np.arange(3), [2, 40, 9])
    x = np.arange(len(y), dtype=np.uint8).reshape(-1, 1, 1, 1)
    data = split(Dataset(x, y, ("a", "b", "c"), "test"), "0..255")
    assert np.bincount(data.y_validation).tolist() == [1, 10, 2]
    together = np.concatenate([data.x, data.x_validation]).ravel()
    assert sorted(together) == list(range(len(y)))
    labels = np.concatenate([data.y, data.y_validation])
    np.testing.assert_array_equal(y[together.astype(int)], labels)


def test_quantized_classifier_becomes_plain_and_can_be_trained(tmp_path):
    model = kacc.quantize(small_cnn((8, 8, 1), 3, steps=10))
    model.save(tmp_path / "a.keras")
    loaded = load_classifier(tmp_path / "a.keras")
    assert not is_attached(loaded)
    loaded.fit(np.zeros((4, 8, 8, 1)), np.zeros(4), verbose=0)
