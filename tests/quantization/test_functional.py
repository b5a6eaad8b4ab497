"""The pure functions of quantization, against their definitions."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kacc.quantization import functional

BITS = st.sampled_from([4, 8])
ENDS = st.floats(-1e4, 1e4, width=32)
VALUES = arrays.arrays(
    "float32", st.integers(1, 40), elements=st.floats(-1e4, 1e4, width=32)
)
KERNELS = arrays.arrays(
    # Whole 1024ths: the scale of weights near the smallest float is no float any more.
    "float32",
    (3, 2, 4),
    elements=st.integers(-102400, 102400).map(lambda n: n / 1024),
)


def nudged(low, high, bits=8):
    low, high = functional.nudge(tf.constant(low), tf.constant(high), bits)
    return float(low), float(high)


class TestNudge:
    @given(ENDS, ENDS, BITS)
    def test_zero_is_a_step_of_every_range(self, low, high, bits):
        low, high = nudged(min(low, high), max(low, high), bits)
        steps = 2**bits - 1
        zero_point = -low / ((high - low) / steps)
        assert low <= 0 <= high
        assert high > low
        assert abs(zero_point - round(zero_point)) < 1e-4 * steps
        assert 0 <= round(zero_point) <= steps

    @given(ENDS, ENDS, BITS)
    def test_the_range_keeps_its_width_and_moves_half_a_step_at_most(
        self, low, high, bits
    ):
        low, high = min(low, high, 0.0), max(low, high, 0.0)
        new_low, new_high = nudged(low, high, bits)
        width = max(high - low, functional.SMALLEST_SPAN)
        step = width / (2**bits - 1)
        assert new_high - new_low == pytest.approx(width, rel=1e-5)
        slack = 1e-5 * width
        assert abs(new_low - low) <= step / 2 + slack
        widened = width - (high - low)  # of a range that is narrower than allowed
        assert abs(new_high - high) <= step / 2 + widened + slack

    @given(ENDS, ENDS)
    def test_nudging_twice_changes_nothing_more(self, low, high):
        once = nudged(min(low, high), max(low, high))
        assert nudged(*once) == pytest.approx(once, rel=1e-5, abs=1e-12)

    @pytest.mark.parametrize("value", [0.0, 1e-9, -1e-9, 1e-30])
    def test_constant_tensors_get_a_range_with_a_finite_scale(self, value):
        low, high = nudged(min(value, 0.0), max(value, 0.0))
        assert high - low == pytest.approx(functional.SMALLEST_SPAN)

    @given(ENDS, ENDS)
    def test_the_mirror_image_mirrors_the_range(self, low, high):
        low, high = min(low, high, 0.0), max(low, high, 1e-3)
        low_of, high_of = nudged(low, high)
        mirrored = nudged(-high, -low)
        step = (high_of - low_of) / 255
        assert mirrored == pytest.approx((-high_of, -low_of), abs=1.01 * step)


class TestFakeQuantize:
    @given(VALUES, ENDS, ENDS, BITS)
    def test_values_go_to_the_nearest_step_or_the_end(self, values, a, b, bits):
        low, high = nudged(min(a, b), max(a, b), bits)
        got = functional.fake_quantize(values, low, high, bits).numpy()
        step = (high - low) / (2**bits - 1)
        inside = np.clip(values, low, high)
        tolerance = 1e-4 * (high - low)
        assert (np.abs(got - inside) <= step / 2 + tolerance).all()
        counted = (got - low) / step
        np.testing.assert_allclose(counted, np.rint(counted), atol=2e-2)

    @given(ENDS, ENDS)
    def test_zero_stays_zero(self, a, b):
        low, high = nudged(min(a, b), max(a, b))
        assert (
            functional.fake_quantize(tf.zeros(3), low, high).numpy().tolist()
            == [0.0] * 3
        )

    def test_eager_and_xla_agree_on_nudged_ranges(self):
        """They do not on others: tensorflow#117962."""
        rng = np.random.default_rng(1)
        compiled = tf.function(functional.fake_quantize, jit_compile=True)
        for _ in range(20):
            ends = np.sort(rng.normal(size=2) * 10).astype("float32")
            low, high = functional.nudge(*ends)
            values = rng.uniform(low - 1, high + 1, 2000).astype("float32")
            eager = functional.fake_quantize(values, low, high).numpy()
            xla = compiled(tf.constant(values), low, high).numpy()
            step = (float(high) - float(low)) / 255
            assert np.rint((eager - xla) / step).any() == np.False_

    def test_the_gradient_passes_inside_and_stops_outside(self):
        values = tf.constant([-2.0, -0.5, 0.0, 0.5, 2.0])
        low, high = functional.nudge(-1.0, 1.0)
        with tf.GradientTape() as tape:
            tape.watch(values)
            total = tf.reduce_sum(functional.fake_quantize(values, low, high))
        assert tape.gradient(total, values).numpy().tolist() == [0, 1, 1, 1, 0]


class TestRectifyQuantized:
    @given(VALUES, st.floats(2.0**-10, 1e4, width=32))
    def test_it_is_a_relu_and_fake_quantization(self, values, high):
        _, high = functional.nudge(0.0, high)
        want = functional.fake_quantize(np.maximum(values, 0), 0.0, high)
        np.testing.assert_array_equal(functional.rectify_quantized(values, high), want)

    def test_its_gradient_is_that_of_the_relu(self):
        values = tf.constant([-2.0, -0.1, 0.1, 0.9, 3.0])
        with tf.GradientTape() as tape:
            tape.watch(values)
            total = tf.reduce_sum(2 * functional.rectify_quantized(values, 1.0))
        assert tape.gradient(total, values).numpy().tolist() == [0, 0, 2, 2, 2]

    @given(VALUES, st.sampled_from(["bfloat16", "float16"]))
    def test_halves_are_rounded_in_float32(self, values, dtype):
        values = tf.cast(values, dtype)
        full = functional.rectify_quantized(tf.cast(values, tf.float32), 3.1)
        with tf.GradientTape() as tape:
            tape.watch(values)
            half = functional.rectify_quantized(values, 3.1)
        assert half.dtype == values.dtype
        np.testing.assert_array_equal(half, tf.cast(full, dtype))
        gradient = tape.gradient(half, values)
        assert gradient.dtype == values.dtype
        np.testing.assert_array_equal(gradient, tf.cast(values > 0, dtype))


class TestWeights:
    @given(KERNELS, BITS, st.sampled_from([(-1,), (-2, -1), (0,)]))
    def test_the_largest_weight_of_a_channel_is_the_largest_integer(
        self, kernel, bits, channels
    ):
        scale = functional.weight_scale(kernel, channels, bits).numpy()
        kept = {axis % 3 for axis in channels}
        assert scale.shape == tuple(
            n if axis in kept else 1 for axis, n in enumerate(kernel.shape)
        )
        axes = tuple(axis for axis in range(3) if axis not in kept)
        largest = np.abs(kernel).max(axis=axes, keepdims=True)
        limit = 2 ** (bits - 1) - 1
        full = np.abs(np.rint(kernel / scale)).max(axis=axes, keepdims=True)
        np.testing.assert_array_equal(full, np.where(largest > 0, limit, 0))
        assert (scale[largest == 0] == 1).all()

    @given(KERNELS, BITS)
    def test_weights_are_integer_multiples_half_a_step_away_at_most(self, kernel, bits):
        scale = functional.weight_scale(kernel, (-1,), bits).numpy()
        got = functional.fake_quantize_weight(kernel, (-1,), bits).numpy()
        integers = np.rint(kernel / scale)
        np.testing.assert_allclose(got, integers * scale, rtol=1e-6, atol=1e-30)
        assert (np.abs(got - kernel) <= scale * 0.5001).all()

    @given(KERNELS)
    def test_the_sign_makes_no_difference(self, kernel):
        got = functional.fake_quantize_weight(kernel, (-1,)).numpy()
        mirrored = functional.fake_quantize_weight(-kernel, (-1,)).numpy()
        np.testing.assert_array_equal(mirrored, -got)

    @given(KERNELS)
    def test_channels_do_not_know_of_each_other(self, kernel):
        whole = functional.fake_quantize_weight(kernel, (-1,)).numpy()
        alone = functional.fake_quantize_weight(kernel[..., :1], (-1,)).numpy()
        np.testing.assert_array_equal(whole[..., :1], alone)

    def test_a_channel_of_zeros_stays_and_has_a_gradient(self):
        kernel = tf.constant([[0.0, 3.0], [0.0, -1.0]])
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            got = functional.fake_quantize_weight(kernel, (-1,))
            total = tf.reduce_sum(5 * got)
        assert got.numpy()[:, 0].tolist() == [0.0, 0.0]
        assert tape.gradient(total, kernel).numpy().tolist() == [[5, 5], [5, 5]]


@given(VALUES, ENDS, ENDS)
def test_clipped_share(values, a, b):
    low, high = min(a, b), max(a, b)
    share = float(functional.clipped_share(values, low, high))
    outside = ((values < np.float32(low)) | (values > np.float32(high))).mean()
    assert share == pytest.approx(outside, abs=1e-6)
