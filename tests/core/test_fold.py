"""Batch normalizations folded into kernels of every layout."""

import keras
import numpy as np
import pytest
from keras import layers

import kacc
import kacc.support  # fills the registry
from kacc.core import registry
from kacc.core.fold import batch_norm_affine, fold_into_kernel
from tests.pruning.channels import graphs

KINDS = {
    "dense": lambda n: layers.Dense(n, use_bias=False),
    "conv": lambda n: layers.Conv2D(n, 3, use_bias=False),
    "depthwise": lambda n: layers.DepthwiseConv2D(
        3, depth_multiplier=n, use_bias=False
    ),
    "transposed": lambda n: layers.Conv2DTranspose(n, 3, use_bias=False),
}


@pytest.mark.parametrize("count", [4, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_the_folded_kernel_and_the_offset_are_the_normalization(kind, count):
    """With as many outputs as inputs too, where a wrong axis would fit."""
    layer, norm = KINDS[kind](count), layers.BatchNormalization()
    model = keras.Sequential([keras.Input((6, 6, 4)), layer, norm])
    graphs.randomize(model)
    x = np.random.default_rng(0).normal(size=(3, 6, 6, 4)).astype("float32")
    wanted = model(x)
    factor, offset = batch_norm_affine(norm)
    channels = registry.find(layer).weights[0].channels
    layer.kernel.assign(fold_into_kernel(layer.kernel, channels, factor))
    np.testing.assert_allclose(layer(x) + offset, wanted, atol=1e-4)


@pytest.mark.parametrize("count", [4, 6])
def test_a_transposed_convolution_with_a_normalization_quantizes(count, tmp_path):
    model = keras.Sequential(
        [
            keras.Input((6, 6, 4)),
            layers.Conv2DTranspose(count, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
        ]
    )
    graphs.randomize(model)
    x = np.random.default_rng(0).normal(size=(16, 6, 6, 4)).astype("float32")
    model.compile("sgd", "mse")
    qat = kacc.callbacks.QuantizationAwareTraining("int8")
    model.fit(x, model.predict(x, verbose=0), verbose=0, callbacks=[qat])
    file = kacc.convert(model, tmp_path / "a.tflite", "tflite-int8")
    assert kacc.parity(model, file, x).equal == 1.0
