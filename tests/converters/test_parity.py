"""Parity: its figures against figures counted here, and the layer that it names."""

import io

import keras
import numpy as np
import pytest
from rich.console import Console

from kacc.converters.convert import convert
from kacc.converters.parity import parity
from kacc.converters.parity_text import share
from kacc.converters.runtime import KERNELS, host, to_grid
from kacc.core.errors import UsageError


@pytest.fixture(scope="module")
def int8_parity(model, int8_file, images):
    return parity(model, int8_file, images)


def shown(parity):
    console = Console(width=120, file=io.StringIO())
    console.print(parity)
    return console.file.getvalue()


def changed_copy(model, layer):
    """The model with other weights in one layer."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    kernel = copy.get_layer(layer).kernel
    kernel.assign(kernel * 1.5)
    return copy


def test_a_float_file_differs_by_rounding_only(model, float_file, images):
    found = parity(model, float_file, images)
    assert found.max_abs < 1e-5
    assert found.max_rel < 1e-5
    assert found.argmax_agreement == 1
    assert found.largest_lsb is None
    assert found.within_one is None
    assert found.first_difference is None
    assert "No layer differs" in str(found)


@pytest.mark.parametrize("target", ["tflite-float16", "tflite-dynamic"])
def test_rounded_weights_are_no_difference_and_others_are(
    model, images, tmp_path, target
):
    artifact = convert(model, tmp_path / "m.tflite", target)
    assert parity(model, artifact, images).first_difference is None
    found = parity(changed_copy(model, "conv_1"), artifact, images)
    assert found.first_difference.layer == "conv_1"


def test_figures_of_an_integer_file(model, int8_file, images, int8_parity):
    (classes,) = int8_file.manifest.outputs
    (image,) = int8_file.manifest.inputs
    raw = int8_file.predict(to_grid(images, image), raw=True).astype(int)
    want = model.predict(images, verbose=0)
    distance = np.abs(to_grid(want, classes).astype(int) - raw)
    assert int8_parity.equal == (distance == 0).mean()
    assert int8_parity.within_one == (distance <= 1).mean()
    assert int8_parity.largest_lsb == distance.max()
    assert int8_parity.argmax_agreement == (want.argmax(1) == raw.argmax(1)).mean()
    assert int8_parity.samples == len(images)
    assert 0 < int8_parity.equal < 1


def test_outputs_apart_and_together(two_by_two, two_file, images, extras):
    found = parity(two_by_two, two_file, {"image": images, "extra": extras})
    amount, probability = found.outputs
    assert (amount.name, probability.name) == ("amount", "probability")
    assert (amount.count, probability.count) == (80, 240)
    assert found.equal == pytest.approx((amount.equal + 3 * probability.equal) / 4)
    assert found.largest_lsb == max(amount.largest_lsb, probability.largest_lsb)
    assert amount.argmax_agreement is None
    assert found.argmax_agreement == probability.argmax_agreement


@pytest.mark.parametrize("layer", ["conv", "conv_1", "logits"])
def test_the_first_layer_that_differs_is_named(model, float_file, images, layer):
    found = parity(changed_copy(model, layer), float_file, images)
    assert found.first_difference.layer == layer
    assert f"First layer that differs: {layer} (" in str(found)


def test_a_layer_inside_another_is_named_by_its_path(model, float_file, images):
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    gamma = copy.get_layer("block").get_layer("norm").gamma
    gamma.assign(gamma * 2)
    found = parity(copy, float_file, images)
    # Convolution, normalization and ReLU are one operator of the file.
    assert found.first_difference.layer.startswith("block/")


@pytest.mark.parametrize("backend", ["tflite", "ai-edge", "kacc"])
def test_every_layer_of_the_file_is_in_the_table(model, images, tmp_path, backend):
    """Backends name tensors in their own ways."""
    path = tmp_path / "m.tflite"
    artifact = convert(model, path, "tflite-int8", images, backend=backend)
    found = [layer.layer for layer in parity(model, artifact, images).layers]
    assert found[0].startswith("block/")
    assert found[1:] == ["conv", "conv_1", "Flat", "logits", "classes"]


def test_the_table_of_a_fixed_batch_size(model, images, tmp_path, int8_parity):
    artifact = convert(model, tmp_path / "m.tflite", "tflite-int8", images, batch=3)
    found = parity(model, artifact, images)
    assert [x.layer for x in found.layers] == [x.layer for x in int8_parity.layers]


@pytest.mark.parametrize("kernels", sorted(KERNELS))
def test_kernels_and_host_are_named(model, int8_file, images, kernels):
    found = parity(model, int8_file, images, kernels=kernels)
    assert found.kernels == kernels
    assert f"{kernels} kernels, {host()}" in str(found)
    assert len(found.layers) == 6


def test_a_rich_console_shows_outputs_and_layers(int8_parity):
    text = shown(int8_parity)
    for word in ("tflite-int8", "80 samples", "within 1 LSB", "same class", "conv_1"):
        assert word in text
    assert share(int8_parity.equal) in text


def test_data_may_be_batches_with_labels(model, int8_file, images, int8_parity):
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((images, np.zeros(80))).batch(32)
    assert parity(model, int8_file, data).outputs == int8_parity.outputs


def test_a_file_of_another_model(two_by_two, model, int8_file, images, tmp_path):
    with pytest.raises(UsageError, match=r"inputs \['image'\].*\['image', 'extra'\]"):
        parity(two_by_two, int8_file, images)
    other = keras.Model(model.inputs, [model.outputs[0], model.layers[2].output])
    with pytest.raises(UsageError, match=r"it has 1\. Received: 'a model with 2'"):
        parity(other, int8_file, images)
