import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from kacc.acceleration.functional import batch_normalize, is_compiled_by_xla

shapes = st.lists(st.integers(1, 6), min_size=2, max_size=5).filter(
    lambda shape: np.prod(shape[:-1]) > 1
)


def reference(x, gamma, beta, epsilon, upstream):
    """Outputs, statistics and gradients in float64, by the formulas of the paper."""
    axes = tuple(range(x.ndim - 1))
    mean, variance = x.mean(axes), x.var(axes)
    inverse = 1 / np.sqrt(variance + epsilon)
    normal = (x - mean) * inverse
    d_beta, d_gamma = upstream.sum(axes), (upstream * normal).sum(axes)
    n = x.size // x.shape[-1]
    d_x = gamma * inverse * (upstream - d_beta / n - normal * d_gamma / n)
    return normal * gamma + beta, mean, variance, d_x, d_gamma, d_beta


@settings(max_examples=40, deadline=None)
@given(
    shapes,
    st.floats(-20, 20),
    st.sampled_from([1e-2, 1e-3, 1e-7]),
    st.integers(0, 2**32 - 1),
)
def test_equals_the_formulas(shape, center, epsilon, seed):
    random = np.random.default_rng(seed)
    x, upstream = random.normal(size=(2, *shape)) + np.array([center, 0]).reshape(
        2, *[1] * len(shape)
    )
    gamma, beta = random.normal(size=(2, shape[-1]))
    # Deviations of 1, lest the rounding of x itself be all that is compared.
    axes = tuple(range(len(shape) - 1))
    x = center + (x - x.mean(axes)) / x.std(axes)
    as_float32 = [tf.constant(v, tf.float32) for v in (x, gamma, beta)]
    with tf.GradientTape() as tape:
        tape.watch(as_float32)
        y, mean, variance = batch_normalize(*as_float32, epsilon)
        loss = tf.reduce_sum(y * tf.constant(upstream, tf.float32))
    got = [y, mean, variance, *tape.gradient(loss, as_float32)]
    wanted = reference(x, gamma, beta, epsilon, upstream)
    for a, b in zip(got, wanted, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * max(1, abs(center)))


def test_a_small_epsilon_is_not_raised():
    x = tf.constant([[-1e-4], [1e-4]])
    y, _, variance = batch_normalize(x, tf.ones(1), tf.zeros(1), 1e-9)
    np.testing.assert_allclose(variance, [1e-8], rtol=1e-5)
    np.testing.assert_allclose(y[1], 1e-4 / np.sqrt(1e-8 + 1e-9), rtol=1e-5)


def test_an_unknown_batch_size_counts_the_examples_that_come():
    function = tf.function(
        lambda x: batch_normalize(x, tf.ones(2), tf.zeros(2), 1e-3)[2],
        input_signature=[tf.TensorSpec((None, 3, None, 2))],
    )
    for size in (1, 5):
        x = np.random.default_rng(0).normal(size=(size, 3, 4, 2)).astype("float32")
        np.testing.assert_allclose(function(x), x.var((0, 1, 2)), rtol=1e-5)


@pytest.mark.parametrize("compiled", [False, True])
def test_tells_when_xla_compiles(compiled):
    seen = []

    @tf.function
    def inner(x):
        seen.append(is_compiled_by_xla())
        return x

    tf.function(lambda x: inner(x), jit_compile=compiled)(tf.ones(1))
    assert seen == [compiled]
    assert not is_compiled_by_xla()


def test_tells_when_everything_is_compiled():
    tf.config.optimizer.set_jit("autoclustering")
    try:
        assert is_compiled_by_xla()
    finally:
        tf.config.optimizer.set_jit(False)
    assert not is_compiled_by_xla()
