"""Acceleration and quantization-aware training on the same model, in either order."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kacc
from kacc.acceleration.layer import FusedBatchNormalization
from kacc.acceleration.model import accelerate
from kacc.core import attach

layers = keras.layers
SHAPE = (8, 8, 16)


def trained(*treatments):
    """The weights of a small model, treated in this order and then trained."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(16, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )
    model.compile(keras.optimizers.SGD(0.01), "mse")
    for treatment in treatments:
        treatment(model)
    random = np.random.default_rng(0)
    x, y = random.normal(size=(32, *SHAPE)), random.normal(size=(32, 3))
    model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    return model


def fused_kernels(model):
    step = tf.function(lambda x: model(x, training=True))
    graph = step.get_concrete_function(tf.TensorSpec((None, *SHAPE))).graph
    return sum(op.type == "FusedBatchNormV3" for op in graph.get_operations())


@pytest.mark.parametrize(
    "order", [(accelerate, kacc.quantize), (kacc.quantize, accelerate)]
)
def test_either_order_trains_like_the_plain_model(order):
    both, plain = trained(*order), trained(kacc.quantize)
    assert attach.base_class(both.layers[1]) is FusedBatchNormalization
    assert attach.transforms_of(both.layers[1])
    assert fused_kernels(both) == 1
    assert fused_kernels(plain) == 0
    assert [w.path for w in both.weights] == [w.path for w in plain.weights]
    for a, b in zip(both.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_stripping_leaves_the_fused_layer():
    model = kacc.strip(trained(accelerate, kacc.quantize))
    assert type(model.layers[1]) is FusedBatchNormalization
    assert not attach.is_attached(model)
