"""Learned steps as pure functions: their gradients are those of the paper."""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from kacc.quantization import learned

seeds = st.integers(0, 2**16)


def gradient(function, *values):
    """The gradients of the sum of the results, weighted by 1, 2, 3 ..."""
    variables = [tf.Variable(value, dtype="float32") for value in values]
    with tf.GradientTape() as tape:
        result = function(*variables)
        weights = np.arange(1.0, result.shape.num_elements() + 1, dtype="float32")
        total = tf.reduce_sum(tf.reshape(result, [-1]) * weights)
    return [g.numpy() for g in tape.gradient(total, variables)]


@hypothesis.given(seed=seeds, bits=st.sampled_from([4, 8]))
@hypothesis.settings(max_examples=20)
def test_the_gradients_of_weights_are_those_of_lsq(seed, bits):
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(5, 3)).astype("float32")
    s = rng.uniform(0.01, 0.3, (1, 3)).astype("float32")
    dw, ds = gradient(lambda w, s: learned.quantize_by_step(w, s, bits), w, s)
    upstream = np.arange(1.0, 16.0).reshape(5, 3)
    last, ratio = 2 ** (bits - 1) - 1, w / s
    inside = np.abs(ratio) <= last
    np.testing.assert_allclose(dw, upstream * inside, rtol=1e-5)
    # Equation 3 of the paper.
    by_step = np.where(inside, np.rint(ratio) - ratio, np.sign(ratio) * last)
    want = (upstream * by_step).sum(0, keepdims=True)
    np.testing.assert_allclose(ds, want, rtol=1e-3, atol=1e-2)


@hypothesis.given(seed=seeds)
@hypothesis.settings(max_examples=20)
def test_the_gradients_of_the_ends_of_a_range_move_its_step(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(8, 25)).astype("float32")  # so few examples all count
    low, high = np.float32(-51 / 100), np.float32(204 / 100)  # a step of 1/100
    dx, dlow, dhigh = gradient(learned.quantize_to_ends, x, low, high)
    upstream, step = np.arange(1.0, 201.0).reshape(8, 25), 0.01
    inside = (x >= low) & (x <= high)
    np.testing.assert_allclose(dx, upstream * inside)
    rounding = (upstream * inside * (np.rint(x / step) - x / step)).sum() / 255
    np.testing.assert_allclose(dhigh, upstream[x > high].sum() + rounding, atol=0.2)
    np.testing.assert_allclose(dlow, upstream[x < low].sum() - rounding, atol=0.2)


@pytest.mark.parametrize("count", [1, 8, 9, 40, 41])
def test_the_gradient_of_a_range_is_estimated_from_a_part_of_a_large_batch(count):
    example = np.random.default_rng(0).uniform(-1.0, 1.0, (1, 500)).astype("float32")
    ends = [tf.Variable(-0.51), tf.Variable(2.04)]
    with tf.GradientTape() as tape:
        result = learned.quantize_to_ends(np.repeat(example, count, 0), *ends)
        total = tf.reduce_sum(result)
    step, inside = 0.01, example >= -0.51
    rounding = (inside * (np.rint(example / step) - example / step)).sum() / 255
    want = [(~inside).sum() - rounding, rounding]
    got = [g.numpy() / count for g in tape.gradient(total, ends)]
    np.testing.assert_allclose(got, want, atol=1e-3)


def test_the_gradient_of_a_range_for_no_examples_is_zero():
    high = tf.Variable(2.55)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(learned.quantize_to_ends(tf.zeros([0, 3]), 0.0, high))
    assert tape.gradient(total, high).numpy() == 0


def test_a_gain_moves_by_the_share_of_the_step():
    base, gain = tf.constant([0.5, 2.0]), tf.Variable([0.0, 0.0])
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(learned.lsq_gain(base, gain, 100, 7) * [3.0, 4.0])
    want = np.array([3.0, 4.0]) / np.sqrt(100 * 7) / [0.5, 2.0]
    np.testing.assert_allclose(tape.gradient(total, gain).numpy(), want, rtol=1e-6)


def test_a_range_grows_at_the_end_where_growing_helps():
    ends, gain = tf.constant([-1.0, 3.0]), tf.Variable([0.0, 0.0])
    with tf.GradientTape() as tape:
        low, high = tf.unstack(learned.lsq_range(ends, gain, 64, 8))
        loss = low - high  # falls as the range grows
    assert (tape.gradient(loss, gain).numpy() < 0).all()


def test_an_end_at_zero_stays_there():
    ends, gain = tf.constant([0.0, 3.0]), tf.Variable([0.0, 0.0])
    with tf.GradientTape() as tape:
        low, high = tf.unstack(learned.lsq_range(ends, gain, 64, 8))
        loss = low + high
    assert tape.gradient(loss, gain).numpy()[0] == 0


@hypothesis.given(seed=seeds, bits=st.sampled_from([4, 8]))
@hypothesis.settings(max_examples=20)
def test_the_first_steps_are_no_worse_than_the_widest(seed, bits):
    rng = np.random.default_rng(seed)
    w = tf.constant(rng.standard_t(3, size=(40, 4)).astype("float32"))

    def error(step):
        rounded = learned.integers_by_step(w, step, bits) * step
        return tf.reduce_sum(tf.square(rounded - w), 0).numpy()

    best = learned.least_error_step(w, [-1], bits)
    widest = learned.weight_scale(w, [-1], bits)
    assert (error(best) <= error(widest)).all()
    if bits == 4:
        assert error(best).sum() < error(widest).sum()


def test_a_channel_of_zeros_has_a_step():
    step = learned.least_error_step(tf.zeros((4, 2)), [-1], 4)
    assert (step.numpy() == 1).all()


def test_idle_variables_get_gradients_of_zero():
    value, idle = tf.Variable(3.0), tf.Variable([1.0, 2.0])
    with tf.GradientTape() as tape:
        result = learned.with_idle(value, [idle]) * 2
    got = tape.gradient(result, [value, idle])
    assert float(got[0]) == 2
    assert got[1].numpy().tolist() == [0, 0]
