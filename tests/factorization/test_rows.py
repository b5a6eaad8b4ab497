"""Layers of every kind: factored at full rank they compute what they did."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import kacc
from kacc.core import cost
from kacc.factorization import plan
from tests.core import models as small_models
from tests.factorization.kernels import convolutions, of_layer

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def _images(model, samples=3):
    shape = model.input_shape[1:]
    return np.random.default_rng(0).normal(size=(samples, *shape)).astype("float32")


def _parts(model):
    return [layer for layer in model.layers if layer.weights]


@given(
    convolutions(),
    st.sampled_from(("channel", "spatial", "tucker", "auto")),
    st.booleans(),
)
@settings(max_examples=30)
def test_convolutions(drawn, method, with_data):
    layer, shape = drawn
    model = of_layer(layer, shape)
    x = _images(model)
    data = x if with_data else None
    full = kacc.factorize(model, ranks=1.0, method=method, calibration=data)
    assert len(_parts(full)) > 1
    wanted = np.asarray(model(x))
    np.testing.assert_allclose(np.asarray(full(x)), wanted, **CLOSE)


@given(convolutions(), st.sampled_from(("channel", "spatial", "tucker")))
@settings(max_examples=15)
def test_costs_of_convolutions_are_those_of_the_new_layers(drawn, method):
    layer, shape = drawn
    model = of_layer(layer, shape)
    found = plan(model, ranks=0.5, method=method)
    small = found.build()
    (row,) = found.layers
    assert row.macs == (cost.macs(model), cost.macs(small))
    assert row.params == (cost.params(model), cost.params(small))


EINSUMS = [
    ("ab,bc->ac", (7,), 5, "c"),
    ("abc,cd->abd", (None, 4), (None, 6), "d"),
    ("abc,cde->abde", (3, 4), (3, 2, 5), "de"),
    ("abc,cde->abde", (3, 4), (3, 2, 5), "d"),
    ("abde,dec->abc", (3, 2, 5), (3, 6), "c"),
    ("abde,dec->abc", (3, 2, 5), (3, 6), None),
    ("abc,dc->abd", (3, 4), (3, 6), "d"),
    ("abc,bd->adc", (3, 4), (6, 4), "d"),
    ("abc,bd->adc", (3, 4), (6, 4), "dc"),
    ("...x,xy->...y", (3, 4), 6, "y"),
    ("abc,cde->aebd", (3, 4), (5, 3, 2), "ed"),
]


def _layers():
    conv1d = layers.Conv1D
    yield layers.Dense(5, activation="relu"), (7,)
    yield layers.Dense(9, use_bias=False), (3, 7)
    yield conv1d(6, 3, padding="causal", dilation_rate=2), (9, 4)
    yield conv1d(6, 4, strides=2, padding="same"), (9, 4)
    yield conv1d(6, 1, strides=2), (9, 4)
    yield layers.Conv2D(6, 1, strides=2, padding="same"), (9, 8, 4)
    for equation, shape, outputs, axes in EINSUMS:
        yield (
            layers.EinsumDense(
                equation, outputs, bias_axes=axes, activation="tanh", name="einsum"
            ),
            shape,
        )


@pytest.mark.parametrize("with_data", [False, True])
@pytest.mark.parametrize(
    ("layer", "shape"), list(_layers()), ids=lambda x: getattr(x, "equation", None)
)
def test_other_layers(layer, shape, with_data, tmp_path):
    model = of_layer(type(layer).from_config(layer.get_config()), shape)
    fixed = tuple(5 if n is None else n for n in shape)
    x = np.random.default_rng(0).normal(size=(40, *fixed)).astype("float32")
    data = x if with_data else None
    full = kacc.factorize(model, ranks=1.0, calibration=data)
    wanted = np.asarray(model(x))
    assert len(_parts(full)) == 2
    np.testing.assert_allclose(np.asarray(full(x)), wanted, **CLOSE)
    found = plan(model, ranks=1, calibration=data)
    small = found.build()
    assert found.layers[0].macs == (cost.macs(model), cost.macs(small))
    assert found.layers[0].params == (cost.params(model), cost.params(small))
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(np.asarray(loaded(x)), np.asarray(small(x)))


@pytest.mark.parametrize("with_data", [False, True])
def test_an_embedding_keeps_its_mask(with_data):
    words = keras.Input((6,), dtype="int32")
    x = layers.Embedding(50, 12, mask_zero=True, name="table")(words)
    model = keras.Model(words, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))
    x = np.random.default_rng(0).integers(0, 50, (8, 6)).astype("int32")
    x[:, 3:] = 0
    data = x if with_data else None
    full = kacc.factorize(model, ranks={"table": 1.0}, calibration=data)
    np.testing.assert_allclose(np.asarray(full(x)), np.asarray(model(x)), **CLOSE)
    found = plan(model, params=0.6, calibration=data)
    small = found.build()
    names = [layer.name for layer in small.layers]
    assert names[1:3] == ["table_reduce", "table"]
    assert isinstance(small.get_layer("table"), layers.Dense)
    assert found.layers[0].macs == (0, cost.cost(small).layers[1].macs)
    assert found.layers[0].macs[1] > 0


def test_words_that_occur_are_kept_better():
    model = of_layer(layers.Embedding(40, 8), (None,), "int32")
    often = np.arange(200).reshape(40, 5) % 4
    small = kacc.factorize(model, ranks=4, calibration=often)
    table = np.asarray(model(np.arange(40)[None]))[0]
    error = np.linalg.norm(np.asarray(small(np.arange(40)[None]))[0] - table, axis=-1)
    assert error[:4].max() < 0.3 * error[4:].mean()


def test_regularizers_activations_names_and_freezing_go_with_the_parts():
    layer = layers.Conv2D(
        8,
        3,
        activation="relu",
        kernel_regularizer="l2",
        bias_regularizer="l1",
        activity_regularizer="l2",
        name="conv",
    )
    model = of_layer(layer, (8, 8, 4))
    layer.trainable = False
    parts = _parts(kacc.factorize(model, ranks=(2, 3)))
    assert [part.name for part in parts] == ["conv_reduce", "conv_core", "conv"]
    assert [part.activation.__name__ for part in parts] == ["linear", "linear", "relu"]
    assert [part.use_bias for part in parts] == [False, False, True]
    assert all(part.kernel_regularizer is not None for part in parts)
    assert [part.activity_regularizer is None for part in parts] == [True, True, False]
    assert not any(part.trainable for part in parts)


def test_mixed_precision_stays():
    model = of_layer(layers.Dense(8, dtype="mixed_bfloat16", name="d"), (8,))
    small = kacc.factorize(model, ranks=3, calibration=small_models.vectors())
    assert {part.dtype_policy.name for part in _parts(small)} == {"mixed_bfloat16"}
    assert {v.dtype for v in small.variables} == {"float32"}


class OwnDense(layers.Dense):
    """Does something else with its kernel."""

    def call(self, x):
        return super().call(x) * 2.0


def _quantized():
    model = of_layer(layers.Dense(8, name="d"), (8,))
    model.get_layer("d").quantize("int8")
    return model


def _lora():
    model = of_layer(layers.Dense(8, name="d"), (8,))
    model.get_layer("d").enable_lora(2)
    return model


LEFT = [
    (lambda: of_layer(layers.DepthwiseConv2D(3), (8, 8, 4)), "DepthwiseConv2D is not"),
    (lambda: of_layer(layers.SeparableConv2D(4, 3), (8, 8, 4)), "SeparableConv2D is"),
    (lambda: of_layer(layers.Conv2DTranspose(4, 3), (8, 8, 4)), "Conv2DTranspose is"),
    (lambda: of_layer(layers.Conv2D(4, 3, groups=2), (8, 8, 4)), "it is grouped"),
    (lambda: of_layer(layers.LSTM(4), (8, 4)), "LSTM is not factored"),
    (lambda: of_layer(OwnDense(4), (4,)), "OwnDense is not factored"),
    (
        lambda: of_layer(layers.Dense(4, kernel_constraint="max_norm"), (4,)),
        "constraint of its kernel",
    ),
    (
        lambda: of_layer(
            layers.Embedding(9, 4, embeddings_constraint="max_norm"), (4,)
        ),
        "constraint of its kernel",
    ),
    (
        lambda: of_layer(layers.EinsumDense("abc,bcd->abd", (3, 5)), (3, 4)),
        "an axis that inputs and outputs share",
    ),
    (_quantized, "quantized by Keras"),
    (_lora, "LoRA"),
]


@pytest.mark.parametrize(("make", "reason"), LEFT)
def test_what_is_left_alone_is_said(make, reason):
    model = make()
    found = plan(model, ranks=1)
    (row,) = found.layers
    assert row.method is None
    assert reason in row.reason
    assert row.macs[0] == row.macs[1] == cost.macs(model)
    assert len(found.build().layers) == len(model.layers)


def test_channels_first_is_left_alone():
    layer = layers.Conv2D(4, 3, data_format="channels_first")
    layer.build((None, 4, 8, 8))
    inputs = keras.Input((4, 8, 8))
    found = plan(keras.Model(inputs, layer(inputs)), ranks=1)
    assert found.layers[0].reason == "its channels come first"
