"""The kernels of 16 bit activations: exact sums, and tables near what they stand for.

That they equal LiteRT's to the bit is what the conformance suite demands.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import kacc
from kacc.core.registry import Weight
from kacc.quantization.integer import Grid, Quantized, symmetric_grid
from kacc.quantization.kernels import (
    KERNELS,
    Wide,
    WideMicro,
    WideReference,
    kernels_of_width,
)
from kacc.quantization.operators import exact_product

ALL = np.arange(-32768, 32768)
UNIT = Grid(tf.constant(1 / 32768, tf.float64), tf.constant(0.0), 16)
scales = st.floats(2**-14, 2**-6, width=32)


def tensor(integers, grid):
    return Quantized(tf.constant(integers, tf.float32), grid)


def on(scale):
    return Grid(tf.constant(scale, tf.float64), tf.constant(0.0), 16)


@given(st.integers(1, 1500), st.integers(0, 2**32 - 1), st.booleans())
def test_sums_of_products_are_exact(depth, seed, extreme):
    rng = np.random.default_rng(seed)
    shape = (3, depth)
    values = rng.integers(-32768, 32768, shape)
    kernel = rng.integers(-127, 128, (depth, 2))
    if extreme:  # the largest sum there is
        values, kernel = np.full(shape, -32768), np.full((depth, 2), -127)
    x = tensor(values, on(1.0))
    got = exact_product(x, tf.constant(kernel, tf.float32), Weight("w"), tf.matmul)
    assert got.dtype == tf.float64
    np.testing.assert_array_equal(got.numpy().astype(np.int64), values @ kernel)


@given(scales)
def test_the_sigmoid_is_near(scale):
    x = tensor(ALL, on(scale))
    got = Wide().table(x, keras.ops.sigmoid, UNIT).integers.numpy()
    want = 32768 / (1 + np.exp(-ALL * np.float64(np.float32(scale))))
    assert np.abs(got - want).max() <= 2.6
    assert (np.diff(got) >= -1).all()


@given(scales)
def test_the_hyperbolic_tangent_is_near(scale):
    x = tensor(ALL, on(scale))
    got = Wide().table(x, keras.ops.tanh, UNIT).integers.numpy()
    want = 32768 * np.tanh(ALL * np.float64(np.float32(scale)))
    assert np.abs(got - want).max() <= 5.2


@given(st.floats(2**-14, 2**-11, width=32))
def test_other_functions_lie_near_their_table(scale):
    grid = symmetric_grid(tf.constant(float(np.exp(32768 * scale)), tf.float32))
    x = tensor(ALL, on(scale))
    got = Wide().table(x, keras.ops.exp, grid).integers.numpy()
    want = np.exp(ALL * np.float64(np.float32(scale))) / grid.scale.numpy()
    # A line over 128 steps misses by their square times the curvature over 16, since
    # half of it is taken back. Nodes are 65535 / 512 steps apart: the last is one off.
    missed = (128 * scale) ** 2 / 16 * 32767 + scale * 32767
    assert np.abs(got - want).max() <= missed + 2.5


@given(
    st.lists(st.integers(-32768, 32767), min_size=1, max_size=12),
    st.floats(2**-15, 2**-11, width=32),
)
def test_shares_are_near(values, scale):
    got = Wide().softmax(tensor([values], on(scale)), UNIT).integers.numpy()[0]
    powers = np.exp((np.array(values) - max(values)) * scale)
    # Each exponential is exp(-10) at least, and all are rounded.
    allowed = len(values) * (np.exp(-10) + 2 / 32768)
    np.testing.assert_allclose(got / 32768, powers / powers.sum(), atol=allowed)


@pytest.mark.parametrize("name", KERNELS)
def test_each_set_has_its_wide_kernels(name):
    known = {"reference": WideReference, "micro": WideMicro}
    assert type(kernels_of_width(KERNELS[name], 16)) is known.get(name, Wide)
    assert kernels_of_width(KERNELS[name], 8) is KERNELS[name]


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_the_ends_of_the_table_are_those_of_the_file(activation, tmp_path):
    """Beyond the last node, x = 255/24 or half of that, the kernels are constant."""
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(64, kernel_initializer="identity", name="same"),
            keras.layers.Activation(activation, name="end"),
        ]
    )
    x = np.linspace(-13, 13, 64 * 256, dtype="float32").reshape(256, 64)
    kacc.quantize(model, "int16x8")
    kacc.quantization.calibrate(model, [x])
    artifact = kacc.convert(model, tmp_path / "m.tflite", "tflite-int16x8")
    for kernels in ("xnnpack", "builtin", "reference"):
        assert kacc.parity(model, artifact, x, kernels).equal == 1
