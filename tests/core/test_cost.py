"""MACs, parameters and bytes."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kacc
from kacc.core.cost import cost, cost_called
from tests.core import models as small_models

# (layer, shapes of its inputs, MACs for one sample)
CASES = [
    (layers.Dense(5), [(7,)], 35),
    (layers.Dense(5), [(3, 7)], 105),
    (layers.Conv2D(4, 3, padding="same"), [(6, 6, 3)], 36 * 9 * 3 * 4),
    (layers.Conv2D(4, 3, strides=2), [(7, 7, 3)], 9 * 9 * 3 * 4),
    (layers.Conv2D(4, 3, groups=2), [(5, 5, 6)], 9 * 9 * 3 * 4),
    (layers.Conv1D(4, 3), [(10, 3)], 8 * 3 * 3 * 4),
    (layers.Conv3D(2, 2), [(3, 3, 3, 1)], 8 * 8 * 2),
    (layers.Conv2DTranspose(4, 3, strides=2), [(5, 5, 3)], 25 * 9 * 3 * 4),
    (layers.DepthwiseConv2D(3, depth_multiplier=2), [(5, 5, 3)], 9 * 9 * 3 * 2),
    (layers.SeparableConv2D(4, 3), [(5, 5, 3)], 9 * (9 * 3 + 3 * 4)),
    (layers.EinsumDense("abc,cd->abd", (None, 5)), [(3, 7)], 105),
    (layers.EinsumDense("abc,cde->abde", (None, 2, 5)), [(3, 7)], 210),
    (layers.EinsumDense("...c,cd->...d", 5), [(3, 2, 7)], 210),
    (layers.Embedding(10, 4), [(5,)], 0),
    (layers.BatchNormalization(), [(5, 5, 3)], 0),
    (layers.PReLU(), [(5, 5, 3)], 0),
    (layers.SimpleRNN(4), [(6, 3)], 6 * (3 * 4 + 4 * 4)),
    (layers.LSTM(4, return_sequences=True), [(6, 3)], 6 * 4 * (3 * 4 + 4 * 4)),
    (layers.GRU(4), [(6, 3)], 6 * 3 * (3 * 4 + 4 * 4)),
    (layers.Bidirectional(layers.LSTM(4)), [(6, 3)], 2 * 6 * 4 * (3 * 4 + 4 * 4)),
    (layers.TimeDistributed(layers.Dense(5)), [(6, 7)], 6 * 35),
    (layers.Add(), [(4,), (4,)], 0),
]


@pytest.mark.parametrize(
    ("layer", "shapes", "macs"), CASES, ids=lambda value: getattr(value, "name", None)
)
def test_macs_of_layers(layer, shapes, macs):
    dtype = "int32" if isinstance(layer, layers.Embedding) else "float32"
    inputs = [keras.Input(shape, dtype=dtype) for shape in shapes]
    model = keras.Model(inputs, layer(inputs if len(inputs) > 1 else inputs[0]))
    counted = cost(model)
    assert counted.macs == macs
    assert counted.params == model.count_params()
    assert counted.bytes == 4 * counted.params
    assert counted.unknown == ()


def test_macs_of_attention():
    """Projections of 10 and 6 positions, scores and weighted values of two heads."""
    query, value = keras.Input((10, 16)), keras.Input((6, 16))
    layer = layers.MultiHeadAttention(2, key_dim=8, value_dim=4)
    model = keras.Model([query, value], layer(query, value))
    projections = 10 * 16 * 16 + 6 * 16 * 16 + 6 * 16 * 8 + 10 * 8 * 16
    assert cost(model).macs == projections + 2 * 10 * 6 * (8 + 4)
    assert cost(model).params == model.count_params()


def test_macs_of_operators():
    x, y = keras.Input((4, 6)), keras.Input((6, 5))
    assert cost(keras.Model([x, y], ops.matmul(x, y))).macs == 4 * 6 * 5
    product = ops.einsum("bij,bjk->bik", x, y)
    assert cost(keras.Model([x, y], product)).macs == 4 * 6 * 5


def test_a_shared_layer_computes_twice_and_is_held_once():
    model = small_models.shared()
    conv = next(layer for layer in cost(model).layers if layer.path == "conv")
    assert conv.macs == 2 * 64 * 9 * 3 * 3
    assert conv.params == 9 * 3 * 3 + 3


@pytest.mark.parametrize("make", small_models.MODELS, ids=lambda make: make.__name__)
def test_every_parameter_of_every_kind_of_model_is_counted(make):
    model = make()
    assert cost(model).params == model.count_params()


def test_bytes_go_by_the_type():
    layer = layers.Dense(5, dtype="bfloat16")
    model = keras.Sequential([keras.Input((7,), dtype="bfloat16"), layer])
    assert cost(model).bytes == 2 * 40


class Foreign(layers.Layer):
    def build(self, shape):
        self.matrix = self.add_weight(shape=(shape[-1], 2), name="matrix")

    def call(self, x):
        return ops.matmul(x, self.matrix)


def test_what_is_not_known_is_named_and_can_be_taught():
    model = keras.Sequential([keras.Input((4,)), Foreign(name="foreign")])
    assert cost(model).unknown == ("foreign",)
    assert kacc.measure(model, np.ones((1, 4))).macs is None
    kacc.register_layer(kacc.LayerSpec(Foreign, weights=(kacc.Weight("matrix"),)))
    assert cost(model).macs == 8
    assert cost(model).unknown == ()


def test_costs_by_name():
    model = small_models.small()
    assert [cost_called(n)(model) for n in ("macs", "params", "bytes")] == [44, 51, 204]
    assert cost_called(len) is len
    with pytest.raises(kacc.UsageError, match="`cost` must be one of"):
        cost_called("watts")
