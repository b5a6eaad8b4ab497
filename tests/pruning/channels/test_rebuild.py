"""The smaller model: its kind, its parts, and that it is saved and quantized."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kacc
from kacc.core.channels.graph import dependencies
from kacc.pruning.channels.rebuild import Rebuild
from tests.core import models as small_models


def _halved(model, rules=()):
    found = dependencies(model, rules)
    remaining = found.everything()
    for group in found.groups:
        remaining[group.classes[len(group.classes) // 2 :]] = False
    return Rebuild(found, remaining).model()


@pytest.mark.parametrize("make", small_models.MODELS, ids=lambda make: make.__name__)
def test_every_kind_of_model_is_copied_saved_and_loaded(make, tmp_path):
    model = make()
    x = small_models.inputs_for(model)
    before = small_models.variables(model)
    copy = Rebuild(dependencies(model), dependencies(model).everything()).model()
    for wanted, got in zip(
        small_models.outputs(model, x), small_models.outputs(copy, x), strict=True
    ):
        np.testing.assert_allclose(got, wanted, atol=1e-6)
    smaller = _halved(model)
    smaller.save(tmp_path / "smaller.keras")
    loaded = keras.models.load_model(tmp_path / "smaller.keras")
    for wanted, got in zip(
        small_models.outputs(smaller, x), small_models.outputs(loaded, x), strict=True
    ):
        np.testing.assert_array_equal(got, wanted)
    after = small_models.variables(model)
    assert before.keys() == after.keys()
    assert all((before[path] == after[path]).all() for path in before)


@pytest.mark.parametrize("make", small_models.MODELS, ids=lambda make: make.__name__)
def test_the_graph_of_the_old_model_is_left_alone(make):
    model = make()
    nodes = {
        id(layer): (len(layer._inbound_nodes), len(layer._outbound_nodes))
        for layer in model._flatten_layers()
    }
    _halved(model)
    assert nodes == {
        id(layer): (len(layer._inbound_nodes), len(layer._outbound_nodes))
        for layer in model._flatten_layers()
    }


def test_sequential_and_nested_models_stay_what_they_are():
    assert isinstance(_halved(small_models.sequential()), keras.Sequential)
    smaller = _halved(small_models.nested())
    body = smaller.get_layer("body")
    assert isinstance(body.get_layer("stem"), keras.Sequential)
    assert [layer.name for layer in body.layers] == [
        layer.name for layer in small_models.nested().get_layer("body").layers
    ]


def test_names_and_structures_of_inputs_and_outputs_stay():
    model = small_models.several()
    smaller = _halved(model)
    assert set(smaller.output) == {"kind", "amount"}
    assert set(smaller.input) == {"image", "extra"}
    assert [x.name for x in smaller.inputs] == [x.name for x in model.inputs]


def test_a_subclassed_part_stays_where_nothing_in_it_is_cut():
    image = keras.Input((8, 8, 3))
    x = small_models.Residual(name="block")(image)
    x = layers.Conv2D(8, 3, name="conv")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, layers.Dense(2)(x))
    smaller = _halved(model, [kacc.Rule("block/.*", skip=True)])
    assert isinstance(smaller.get_layer("block"), small_models.Residual)
    assert smaller.get_layer("conv").filters == 4
    block, old = smaller.get_layer("block"), model.get_layer("block")
    for wanted, got in zip(old.variables, block.variables, strict=True):
        np.testing.assert_array_equal(got.numpy(), wanted.numpy())


def test_a_nested_model_called_twice_stays_one():
    inner = keras.Input((8, 8, 4))
    y = layers.Conv2D(8, 3, padding="same", name="wide")(inner)
    block = keras.Model(inner, layers.Conv2D(4, 1, name="narrow")(y), name="block")
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", name="stem")(image)
    x = block(block(x))
    model = keras.Model(image, layers.Dense(2)(layers.GlobalMaxPooling2D()(x)))
    smaller = _halved(model)
    assert [layer.name for layer in smaller.layers].count("block") == 1
    assert smaller.get_layer("block").get_layer("wide").filters == 4
    assert smaller.get_layer("block").get_layer("narrow").filters == 2


def test_a_lambda_and_an_accelerated_model_are_copied():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, use_bias=False)(image)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Lambda(lambda t: t * 2.0)(x)
    x = layers.Dense(2)(layers.Flatten()(x))
    model = kacc.accelerate(keras.Model(image, x))
    smaller = _halved(model)
    assert smaller.layers[1].filters == 4
    assert smaller(small_models.images()).shape == (16, 2)


def test_what_normalization_was_adapted_to_is_kept():
    norm = layers.Normalization(name="norm")
    image = keras.Input((8, 8, 3))
    x = layers.Flatten()(layers.Conv2D(8, 3)(norm(image)))
    model = keras.Model(image, layers.Dense(2)(x))
    norm.adapt(small_models.images() * 3.0 + 2.0)
    copy = kacc.prune_channels(model, macs=1.0)
    x = small_models.images()
    np.testing.assert_allclose(copy(x), model(x), atol=1e-5)


class NoConfig(layers.Layer):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def call(self, x):
        return x * self.factor


def test_a_layer_that_cannot_be_made_again_is_named():
    image = keras.Input((8, 8, 3))
    x = NoConfig(2.0)(layers.Conv2D(8, 3)(image))
    model = keras.Model(image, layers.Dense(2)(layers.Flatten()(x)))
    with pytest.raises(kacc.UsageError, match=r"its config can make again.*no_config"):
        kacc.prune_channels(model, macs=0.5, round_to=1)


def test_mixed_precision_and_frozen_layers_stay():
    image = keras.Input((8, 8, 3))
    conv = layers.Conv2D(8, 3, dtype="mixed_bfloat16", name="conv")
    x = layers.Flatten()(conv(image))
    model = keras.Model(image, layers.Dense(2, name="head")(x))
    conv.trainable = False
    smaller = _halved(model)
    assert smaller.get_layer("conv").dtype_policy.name == "mixed_bfloat16"
    assert not smaller.get_layer("conv").trainable
    assert smaller.get_layer("head").trainable


def test_the_smaller_model_trains_quantizes_and_converts(tmp_path):
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3, padding="same", name="a")(image)
    y = layers.DepthwiseConv2D(3, padding="same")(layers.ReLU()(x))
    x = ops.relu(x + layers.Conv2D(16, 1, name="b")(y))
    model = keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    smaller = kacc.prune_channels(model, macs=0.6)
    assert smaller.get_layer("a").filters == 8
    images, labels = small_models.images(32), np.arange(32) % 3
    smaller.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))
    smaller.fit(images, labels, verbose=0)
    file = kacc.convert(smaller, tmp_path / "a.tflite", "tflite-int8", images)
    assert file.manifest.inputs[0].dtype == "int8"
    qat = kacc.callbacks.QuantizationAwareTraining("int8")
    smaller.fit(images, labels, verbose=0, callbacks=[qat])
    trained = kacc.convert(smaller, tmp_path / "b.tflite", "tflite-int8")
    assert kacc.parity(smaller, trained, images).equal == 1.0
