import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kacc.acceleration.functional import batch_normalize, is_compiled_by_xla

shapes = st.lists(st.integers(1, 6), min_size=2, max_size=5).filter(
    lambda shape: np.prod(shape[:-1]) > 1
)


# Half the distance of float32 numbers at 1: the relative error of one operation.
ROUNDING = 2.0**-24
# A sum of n rounded terms is wrong by at most this times sqrt(n) roundings of the sum
# of their sizes, but for one sum in 3e7 (Higham and Mary 2019,
# doi:10.1137/18M1226312).
DEVIATIONS = 6


def reference(x, gamma, beta, epsilon, upstream):
    """Outputs, statistics and gradients in float64, by the formulas of the paper.

    Each comes with a bound of what float32 makes of it, by error analysis: the errors
    of what went in (x and upstream are rounded too), and those of its own operations.
    """
    axes = tuple(range(x.ndim - 1))
    n, u = x.size // x.shape[-1], ROUNDING

    def total(terms):
        """The sum, and the error of summing terms that are right."""
        return terms.sum(axes), (DEVIATIONS * n**0.5 + 2) * u * abs(terms).sum(axes)

    def mean_of(errors):
        return errors.sum(axes) / n

    (mean, mean_error), variance = (v / n for v in total(x)), x.var(axes)
    centered, centered_error = x - mean, u * abs(x) + u * abs(x - mean)
    # The mean's own error leaves the sum of squares alone but for its square.
    variance_error = (
        total(centered**2)[1] / n
        + mean_of(2 * abs(centered) * centered_error)
        + mean_error**2
    )
    inverse = 1 / np.sqrt(variance + epsilon)
    inverse_error = inverse * (variance_error * inverse**2 / 2 + 4 * u)
    normal = centered * inverse
    normal_error = (
        inverse * (centered_error + mean_error)
        + abs(centered) * inverse_error
        + u * abs(normal)
    )
    y = normal * gamma + beta
    y_error = abs(gamma) * normal_error + 3 * u * (abs(normal * gamma) + abs(beta))
    d_beta, d_beta_error = total(upstream)
    d_gamma, d_gamma_error = total(upstream * normal)
    d_gamma_error = d_gamma_error + (abs(upstream) * normal_error).sum(axes)
    direct = upstream - d_beta / n - normal * d_gamma / n
    direct_error = (
        d_beta_error / n
        + abs(normal) * d_gamma_error / n
        + normal_error * abs(d_gamma) / n
        + 4 * u * (abs(upstream) + abs(d_beta) / n + abs(normal * d_gamma) / n)
    )
    d_x = gamma * inverse * direct
    d_x_error = abs(gamma) * (inverse * direct_error + inverse_error * abs(direct))
    d_x_error = d_x_error + 3 * u * abs(d_x)
    return [
        (y, y_error),
        (mean, mean_error),
        (variance, variance_error + 4 * u * variance),
        (d_x, d_x_error),
        (d_gamma, d_gamma_error),
        (d_beta, d_beta_error),
    ]


@settings(max_examples=40, deadline=None)
@given(
    shapes,
    st.floats(-20, 20),
    st.sampled_from([1e-2, 1e-3, 1e-7]),
    st.integers(0, 2**32 - 1),
)
@example([5, 5, 5, 5, 4], 4.0, 1e-3, 0)  # sums of hundreds of terms
@example([2, 1], 0.0, 1e-7, 0)
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
    for a, (b, error) in zip(got, wanted, strict=True):
        assert a.shape == b.shape
        assert (abs(a.numpy() - b) <= error).all()


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
