"""The arithmetic of the kernels, against exact integers and fractions in Python.

That it is the runtime's own, the conformance suite says; here each piece is what its
formula says, over values that a few models would not reach.
"""

import math
from fractions import Fraction

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from kacc.core.errors import UsageError
from kacc.quantization import fixed_point, integer, kernels
from kacc.quantization.integer import Grid, Quantized
from kacc.quantization.kernels import KERNELS

INT8 = st.integers(-128, 127)
SCALES = st.floats(2.0**-13, 10.0, width=32)
REALS = st.floats(1e-6, 100.0)
ACCUMULATORS = st.integers(-(2**24), 2**24)
ALL = np.arange(-128, 128)


def grid(scale, zero):
    return Grid(tf.constant(scale, tf.float64), tf.constant(float(zero)))


def tensor(values, scale, zero):
    return Quantized(tf.constant(values, tf.float32), grid(scale, zero))


def numbers(quantized):
    return quantized.integers.numpy().astype(int)


def clip(value):
    return max(-128, min(127, value))


def half_away(value: Fraction) -> int:
    return math.floor(abs(value) + Fraction(1, 2)) * (1 if value >= 0 else -1)


def half_up(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


def i64(value):
    return tf.constant(value, tf.int64)


class TestFixedPoint:
    @given(REALS)
    def test_a_multiplier_is_the_nearest_of_31_bits(self, real):
        quantized, shift = fixed_point.quantize_multiplier(tf.constant(real, "double"))
        quantized, shift = int(quantized), int(shift)
        assert 2**30 <= quantized < 2**31
        got = Fraction(quantized) * Fraction(2) ** (shift - 31)
        assert abs(got / Fraction(real) - 1) <= Fraction(1, 2**31)

    def test_a_multiplier_that_rounds_up_to_a_power_of_two(self):
        real = tf.constant(math.nextafter(1.0, 0.0), tf.float64)
        assert [int(x) for x in fixed_point.quantize_multiplier(real)] == [2**30, 1]

    @given(ACCUMULATORS, st.integers(0, 30))
    def test_rounding_shift(self, value, exponent):
        got = int(fixed_point.rounding_shift(i64(value), i64(exponent)))
        assert got == half_away(Fraction(value, 2**exponent))

    @given(st.integers(1, 2**31 - 1), st.sampled_from([0, 12, 31]))
    def test_reciprocal(self, value, integer_bits):
        mantissa, exponent = fixed_point.reciprocal(i64(value), integer_bits)
        assert int(mantissa) < 2**31
        real = Fraction(value, 2 ** (31 - integer_bits))
        got = Fraction(int(mantissa), 2**31) / Fraction(2) ** int(exponent)
        assert abs(got * real - 1) < Fraction(1, 2**27)

    @given(st.integers(-(2**31) + 2**24, 0))
    def test_exp_of_negative(self, value):
        got = int(fixed_point.exp_of_negative(i64(value))) / 2**31
        # The rest of a series of four terms: (1/8)^5 / 5!.
        assert abs(got - math.exp(value / 2**26)) < 2.6e-7

    @given(st.integers(-(2**31), 2**31 - 1), st.integers(2**30, 2**31 - 1))
    def test_doubling_high_product(self, a, b):
        got = int(fixed_point.doubling_high_product(i64(a), i64(b)))
        # Truncation after the nudge: halves of negative products go to zero.
        exact = Fraction(a * b, 2**31)
        assert got == half_away(exact) or abs(exact - got) == Fraction(1, 2)
        assert abs(got - exact) <= Fraction(1, 2)

    @given(ACCUMULATORS, st.integers(2**30, 2**31 - 1), st.integers(-20, 5))
    def test_the_three_products(self, value, multiplier, shift):
        exact = Fraction(value * multiplier) * Fraction(2) ** (shift - 31)
        args = (i64(value), i64(multiplier), i64(shift))
        once = int(fixed_point.multiply_once_rounded(*args))
        assert once == half_up(exact)
        high = int(
            fixed_point.doubling_high_product(
                i64(value * 2 ** max(shift, 0)), i64(multiplier)
            )
        )
        right = Fraction(high, 2 ** max(-shift, 0))
        assert int(fixed_point.multiply_twice_rounded(*args)) == half_away(right)
        assert int(fixed_point.multiply_halves_up(*args)) == half_up(right)

    @given(st.integers(-(2**15), 2**15), st.integers(0, 10))
    def test_saturating_left_shift(self, value, exponent):
        got = int(fixed_point.saturating_left_shift(i64(value), i64(exponent), 16))
        assert got == max(-(2**15), min(2**15 - 1, value * 2**exponent))


class TestGrids:
    @given(st.floats(-100, 0, width=32), st.floats(2.0**-7, 100, width=32))
    def test_the_grid_of_a_nudged_range(self, low, high):
        from kacc.quantization.functional import nudge

        low, high = nudge(tf.constant(low), tf.constant(high))
        got = integer.grid_of(low, high)
        assert float(got.scale) == pytest.approx((float(high) - float(low)) / 255)
        assert float(got.zero) == float(np.rint(got.zero))
        assert -128 <= float(got.zero) <= 127
        assert float(integer.quantize(tf.constant(0.0), got).integers) == got.zero

    def test_values_and_their_integers(self):
        q = tensor([-128.0, 3.0, 127.0], 0.5, 3)
        assert q.centered.numpy().tolist() == [-131.0, 0.0, 124.0]
        assert q.real.numpy().tolist() == [-65.5, 0.0, 62.0]
        back = integer.quantize(q.real, q.grid)
        assert numbers(back).tolist() == [-128, 3, 127]
        wide = integer.quantize(tf.constant([-1e6, 1e6, 0.25, 0.75]), q.grid)
        assert numbers(wide).tolist() == [-128, 127, 3, 5]  # halves to even


@given(SCALES, INT8, SCALES, INT8)
def test_requantize_of_xnnpack(scale, zero, out_scale, out_zero):
    x, out = tensor(ALL, scale, zero), grid(out_scale, out_zero)
    ratio = np.float32(np.float32(scale) / np.float32(out_scale))
    if ratio > 200:
        return  # beyond what XNNPACK takes
    multiplier = int(np.rint(np.float32(256) * ratio))
    want = [clip((((q - zero) * multiplier) + (out_zero << 8) + 128) >> 8) for q in ALL]
    assert numbers(KERNELS["xnnpack"].requantize(x, out)).tolist() == want


@pytest.mark.parametrize("sign", [1, -1])
def test_add_and_subtract_of_xnnpack(sign):
    """In int64; the products of the last bits are rare, so there are many."""
    rng = np.random.default_rng(1)
    for _ in range(100):
        qa, qb = rng.integers(-128, 128, (2, 2000))
        za, zb, zo = rng.integers(-128, 128, 3)
        sa, sb = (float(s) for s in np.exp(rng.uniform(-6, 0, 2)).astype("float32"))
        so = float(np.float32((sa + sb) * rng.uniform(0.8, 1.2)))
        ratios = [float(np.float32(s) / np.float32(so)) for s in (sa, sb)]
        shift = 20 - math.floor(math.log2(max(ratios)))
        first, second = (round(Fraction(r) * 2**shift) for r in ratios)
        total = first * (qa - za) + sign * second * (qb - zb)
        want = np.clip(((total + 2 ** (shift - 1)) >> shift) + zo, -128, 127)
        got = KERNELS["xnnpack"].add(
            tensor(qa, sa, za), tensor(qb, sb, zb), grid(so, zo), sign
        )
        np.testing.assert_array_equal(numbers(got), want)


@given(SCALES, INT8, SCALES, INT8, SCALES, INT8)
def test_multiply_of_xnnpack(sa, za, sb, zb, so, zo):
    qa, qb = np.meshgrid(ALL[::9], ALL[::7])
    scale = np.float32(np.float32(sa) * np.float32(sb)) / np.float32(so)
    product = ((qa - za) * (qb - zb)).astype(np.int64)
    want = np.clip(np.rint(product.astype("float32") * scale) + zo, -128, 127)
    got = KERNELS["xnnpack"].multiply(
        tensor(qa, sa, za), tensor(qb, sb, zb), grid(so, zo)
    )
    np.testing.assert_array_equal(numbers(got), want)


@pytest.mark.parametrize("name", KERNELS)
@given(SCALES, INT8, SCALES, INT8, st.integers(1, 9), st.integers(1, 20))
def test_mean_is_the_nearest_step_to_the_exact_mean(
    name, scale, zero, out_scale, out_zero, side, channels
):
    rng = np.random.default_rng(side * channels)
    q = rng.integers(-128, 128, (2, side, side, channels))
    for keepdims in (True, False):
        got = KERNELS[name].mean(
            tensor(q, scale, zero), (1, 2), keepdims, grid(out_scale, out_zero)
        )
        real = (q - zero).mean((1, 2), keepdims=keepdims)
        exact = real * (float(np.float32(scale)) / float(np.float32(out_scale)))
        distance = np.abs(numbers(got) - np.clip(exact + out_zero, -128, 127))
        # Two roundings, of which the first may be to halves, miss by three quarters;
        # the built-in kernel rounds the zero point's part by itself.
        fixed_point = {"reference": 0.76, "micro": 0.76}
        most = {"xnnpack": 0.51, "builtin": 0.76 + 0.5 * keepdims, **fixed_point}
        assert distance.max() <= most[name]


@given(st.lists(INT8, min_size=2, max_size=16))
def test_average_rounds_halves_away_from_zero(values):
    x = tensor([float(v) for v in values], 0.1, 5)
    mean = Fraction(sum(values), len(values))
    pooled = tf.constant([float(mean)], tf.float64)
    for name in KERNELS:
        got = KERNELS[name].average(x, pooled)
        assert numbers(got).tolist() == [half_away(mean)]
        assert got.grid is x.grid


@given(SCALES, INT8, SCALES)
def test_relu_is_the_nearest_step_and_never_below_zero(scale, zero, out_scale):
    got = numbers(
        KERNELS["xnnpack"].relu(tensor(ALL, scale, zero), grid(out_scale, -128))
    )
    ratio = float(np.float32(scale)) / float(np.float32(out_scale))
    exact = np.clip(np.maximum(ALL - zero, 0) * ratio - 128, -128, 127)
    assert np.abs(got - exact).max() <= 0.76  # as of the mean
    assert (got[zero + 128 :: -1] == -128).all()


@pytest.mark.parametrize("name", KERNELS)
@given(SCALES, st.lists(INT8, min_size=2, max_size=30))
def test_softmax_gives_shares_of_one(name, scale, values):
    unit = grid(1 / 256, -128)
    got = numbers(KERNELS[name].softmax(tensor([values], scale, 0), unit))[0] + 128
    exact = np.exp((np.array(values) - max(values)) * float(np.float32(scale)))
    exact = np.minimum(256 * exact / exact.sum(), 255)
    assert np.abs(got - exact).max() <= 0.51


@pytest.mark.parametrize("kind", ["conv", "grouped", "depthwise", "dense", "transpose"])
@pytest.mark.parametrize("name", KERNELS)
@given(st.floats(1e-5, 1e-2), st.lists(ACCUMULATORS, min_size=1, max_size=20))
def test_accumulators_are_rescaled_to_the_nearest_step(name, kind, real, values):
    scales = (tf.constant(1.0), tf.constant(real, tf.float32))
    out = grid(1.0, 7)
    acc = tf.constant(values, tf.float64)
    got = numbers(KERNELS[name].linear(acc, scales, out, kind))
    exact = np.clip(np.array(values) * float(np.float32(real)) + 7, -128, 127)
    assert np.abs(got - exact).max() <= 0.51


def test_products_that_float32_cannot_sum_are_summed_in_parts():
    from kacc.core.registry import Weight
    from kacc.quantization.operators import exact_product

    x = tensor(np.full((1, 4000), 127), 1.0, -128)
    kernel = tf.fill((4000, 2), 127.0) - tf.constant([0.0, 1.0])
    naive = tf.matmul(x.centered, kernel).numpy()[0]
    exact = exact_product(x, kernel, Weight("kernel"), tf.matmul).numpy()[0]
    want = [4000 * 255 * 127, 4000 * 255 * 126]
    assert exact.astype(np.int64).tolist() == want
    assert len(want) == len(naive)


def test_unknown_kernels():
    with pytest.raises(UsageError, match="`kernels` must be one of xnnpack, builtin"):
        kernels.kernels_named("cuda")


@pytest.mark.parametrize("name", KERNELS)
@given(SCALES, INT8, SCALES, INT8)
def test_square_root_is_cut_off(name, scale, zero, out_scale, out_zero):
    x, out = tensor(ALL[zero <= ALL], scale, zero), grid(out_scale, out_zero)
    got = numbers(KERNELS[name].sqrt(x, out))
    real = np.sqrt((ALL[zero <= ALL] - zero) * float(np.float32(scale)))
    exact = np.clip(real / float(np.float32(out_scale)) + out_zero, -128, 127)
    assert (got <= exact + 1e-4).all()
    assert (got > exact - 1 - 1e-4).all()


@pytest.mark.parametrize("name", KERNELS)
@given(st.floats(2.0**-20, 10.0, width=32), INT8, SCALES)
def test_reciprocal_root_is_the_nearest_step_and_of_zero_the_largest(
    name, scale, zero, out_scale
):
    q = ALL[zero <= ALL]
    got = numbers(KERNELS[name].rsqrt(tensor(q, scale, zero), grid(out_scale, -128)))
    assert got[0] == 127
    real = 1 / np.sqrt((q[1:] - zero) * float(np.float32(scale)))
    exact = np.clip(real / float(np.float32(out_scale)) - 128, -128, 127)
    assert np.abs(got[1:] - exact).max(initial=0) <= 0.76  # as of the mean


@pytest.mark.parametrize("name", KERNELS)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 17), st.integers(1, 17))
def test_bilinear_resizing_is_near_that_of_floats(name, height, width, rows, columns):
    q = np.random.default_rng(height).integers(-128, 128, (2, height, width, 3))
    got = KERNELS[name].resize_bilinear(tensor(q, 0.1, 3), (rows, columns))
    exact = tf.image.resize(q.astype("float32"), (rows, columns)).numpy()
    # Ten bits of position: up to 17 * 2^-11 pixels of 255 steps, on each axis.
    most = {"xnnpack": 0.75}.get(name, 0.5 + 2 * 255 * 17 / 2**11)
    assert np.abs(numbers(got) - exact).max() <= most
    assert got.grid.scale == np.float64(0.1)


def test_xnnpack_declines_to_add_what_is_very_small():
    small, large = tensor(ALL, 1e-5, 3), tensor(ALL[::-1].copy(), 0.1, -7)
    out = grid(0.1, 2)
    got = {name: numbers(KERNELS[name].add(large, small, out)) for name in KERNELS}
    np.testing.assert_array_equal(got["xnnpack"], got["builtin"])


def test_vector_instructions_round_halves_up_and_the_last_channels_away():
    acc = tf.constant([[-6.0] * 10], tf.float64)  # -1.5 steps
    scales = (tf.constant(1.0), tf.constant(0.25, tf.float32))
    got = numbers(KERNELS["builtin"].linear(acc, scales, grid(1.0, 0), "depthwise"))
    assert got.tolist() == [[-1] * 8 + [-2] * 2]


def test_vector_instructions_go_over_a_whole_batch_in_quantize():
    halves = np.full((3, 7), -6.0)  # -1.5 steps; 21 values, of which they take 16
    x, out = tensor(halves, 0.25, 0), grid(1.0, 0)
    got = numbers(KERNELS["builtin"].requantize(x, out)).ravel().tolist()
    assert got == [-1] * 16 + [-2] * 5
    assert (numbers(KERNELS["reference"].requantize(x, out)) == -2).all()


@pytest.mark.parametrize(("name", "want"), [("builtin", 53), ("xnnpack", 52)])
def test_ties_of_a_table_are_rounded_as_by_the_runtime(name, want):
    """256 sigmoid is 180.5 there in float32; LiteRT 2.3 gives these two integers."""
    scale = np.float64(np.float32(0.008804021403193474))
    read = Grid(tf.constant(scale, tf.float64), tf.constant(-64.0))
    made = Grid(tf.constant(1 / 256, tf.float64), tf.constant(-128.0))
    x = Quantized(tf.constant([35.0]), read)
    result = KERNELS[name].table(x, keras.ops.sigmoid, made)
    assert result.integers.numpy() == [want]


@pytest.mark.parametrize(
    ("name", "want"), [("builtin", -80), ("reference", -80), ("micro", -81)]
)
def test_the_multiplier_of_a_product_is_a_float32(name, want):
    """Seen in LiteRT 2.3; in float64, as TFLM has it, this is less than a half."""
    a = tensor([26.0 + 6.0], 0.016479866579174995, 6.0)
    b = tensor([45.0 + 2.0], 0.005311295390129089, 2.0)
    out = grid(0.004554694052785635, -103.0)
    assert numbers(KERNELS[name].multiply(a, b, out)) == [want]


def test_the_multiplier_of_a_quotient_is_a_float32():
    """Seen in LiteRT 2.3; in float64 this is less than a half."""
    a = tensor([88.0], 0.0003921568568330258, 0.0)
    b = tensor([240.0 - 128.0], 0.004313725512474775, -128.0)
    out = grid(0.0003565062361303717, -128.0)
    assert numbers(KERNELS["builtin"].divide(a, b, out)) == [-34]
