"""Histograms and the ranges chosen from them, against brute force on all values."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from keras import layers

import kacc
from kacc.core.errors import UsageError
from kacc.quantization import Ranges, calibrate
from kacc.quantization.calibration import (
    Histogram,
    expected_error,
    mse_range,
    percentile_range,
)
from kacc.quantization.transform import quantize_of

VALUES = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)
BATCHES = st.lists(arrays(np.float32, st.integers(1, 30), elements=VALUES), min_size=1)


def seen(*batches, bins=2048):
    histogram = Histogram(bins)
    for batch in batches:
        histogram.add(batch)
    return histogram


def squared_error(values, low, high, bits=8):
    """The mean on the values themselves, rounded as LiteRT does."""
    scale = (high - low) / (2**bits - 1)
    zero = np.round(-low / scale)
    integers = np.clip(np.round(values / scale) + zero, 0, 2**bits - 1)
    return float(np.mean(np.square(values - (integers - zero) * scale)))


class TestHistogram:
    @given(BATCHES, st.sampled_from([2, 7, 64]))
    def test_counts_are_those_of_all_values_at_once(self, batches, bins):
        one = seen(np.concatenate(batches), bins=bins)
        for order in (batches, batches[::-1]):
            many = seen(*order, bins=bins)
            np.testing.assert_array_equal(many.counts, one.counts)
            np.testing.assert_array_equal(many.edges, one.edges)
            assert (many.zeros, many.ends) == (one.zeros, one.ends)

    @given(BATCHES, st.sampled_from([2, 7, 64]))
    def test_each_value_is_in_its_bin(self, batches, bins):
        values = np.concatenate(batches)
        histogram = seen(*batches, bins=bins)
        assert len(histogram.counts) <= bins
        assert histogram.zeros == (values == 0).sum()
        assert histogram.edges[0] == values.min()
        assert histogram.edges[-1] == values.max()
        inner = histogram.edges[1:-1]
        numbers = np.searchsorted(inner, values[values != 0], side="right")
        wanted = np.bincount(numbers, minlength=len(histogram.counts))
        np.testing.assert_array_equal(histogram.counts, wanted)

    def test_the_bins_are_used(self):
        """At least half of them, or the width could be half as large."""
        histogram = seen(np.random.default_rng(0).normal(size=1000))
        assert 1024 < len(histogram.counts) <= 2048

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_values_that_are_not_finite(self, bad):
        assert not seen(np.array([1.0, bad]), np.ones(3)).finite
        assert not seen(np.ones(3), np.array([bad, 1.0])).finite
        assert not Histogram().finite

    def test_extremes_alone(self):
        histogram = seen(np.array([-2.0, 3.0]), np.array([5.0]), bins=0)
        assert histogram.ends == (-2, 5)
        assert not len(histogram.counts)


class TestPercentile:
    @given(
        arrays(np.float32, st.integers(1, 200), elements=VALUES),
        st.sampled_from([75.0, 99.0, 100.0]),
    )
    def test_it_is_that_of_the_values_to_the_width_of_a_bin(self, values, percentile):
        histogram = seen(values)
        width = np.diff(histogram.edges).max(initial=0)
        low, high = percentile_range(histogram, percentile)
        # Between two values any number is a percentile.
        tails = [100 - percentile, percentile]
        least = np.percentile(values, tails, method="lower") - width
        most = np.percentile(values, tails, method="higher") + width
        assert least[0] <= low <= most[0]
        assert least[1] <= high <= most[1]

    def test_all_of_it_is_the_extremes(self):
        values = np.array([-1.5, 0.0, 0.0, 7.25])
        assert percentile_range(seen(values), 100) == (-1.5, 7.25)

    def test_zeros_count_as_values(self):
        """What a relu sends to zero belongs to the distribution of its output."""
        values = np.concatenate([np.zeros(900), np.linspace(1, 2, 100)])
        low, high = percentile_range(seen(values), 95)
        assert low == 0
        assert high == pytest.approx(1.5, abs=0.02)


class TestLeastSquaredError:
    @pytest.mark.parametrize("bits", [4, 8])
    @pytest.mark.parametrize(
        ("low", "high"), [(-3.0, 4.0), (0.0, 1.5), (-0.4, 0.3), (-10.0, 20.0)]
    )
    def test_the_expected_error_is_that_of_the_values(self, low, high, bits):
        values = np.random.default_rng(1).normal(size=200_000)
        got = expected_error(seen(values), low, high, bits)[()] / values.size
        assert got == pytest.approx(squared_error(values, low, high, bits), rel=0.02)

    @settings(max_examples=25)
    @given(
        st.integers(0, 2**32 - 1),
        st.sampled_from(["normal", "laplace", "uniform", "standard_cauchy"]),
        st.sampled_from([4, 8]),
        st.booleans(),
    )
    def test_no_range_of_a_dense_lattice_is_better(self, seed, law, bits, nonnegative):
        values = getattr(np.random.default_rng(seed), law)(size=3000)
        values = values.astype("float32").clip(-1e4, 1e4)
        if nonnegative:
            values = np.maximum(values, 0)
        found = squared_error(values, *mse_range(seen(values), bits, nonnegative), bits)
        least = values.min() * np.geomspace(0.002, 1, 20)
        most = values.max() * np.geomspace(0.002, 1, 20)
        best = min(
            squared_error(values, low, high, bits)
            for low in ([0.0] if nonnegative else least)
            for high in most
        )
        # Of 3,000 values few lie in a bin, over which they count as spread evenly.
        assert found <= 1.1 * best

    def test_a_bounded_tensor_keeps_its_extremes(self):
        values = np.random.default_rng(2).uniform(-1, 3, 100_000)
        low, high = mse_range(seen(values))
        assert low == pytest.approx(-1, abs=0.02)
        assert high == pytest.approx(3, abs=0.02)

    def test_an_outlier_is_cut_off(self):
        values = np.append(np.random.default_rng(3).normal(size=1_000_000), 40.0)
        low, high = mse_range(seen(values))
        assert -6 < low < -2
        assert 4 < high < 30

    @pytest.mark.parametrize("most", [1024.0, 1024.001, 1023.999])
    def test_the_largest_value_counts_where_it_is_a_bin_of_its_own(self, most):
        values = np.append(np.linspace(0, 1000, 5000), most)
        error = expected_error(seen(values), 0.0, 500.0) / values.size
        assert error == pytest.approx(squared_error(values, 0, 500), rel=0.01)

    @pytest.mark.parametrize("value", [0.0, 2.5, -3.0])
    def test_a_constant_is_held_exactly(self, value):
        values = np.full(5, value)
        low, high = mse_range(seen(values))
        assert (low, high) == (min(value, 0), max(value, 0))


@pytest.fixture(scope="module")
def images():
    """Values in -1..1, but for one of 6,144, which is 50."""
    x = np.random.default_rng(4).uniform(-1, 1, (32, 8, 8, 3)).astype("float32")
    x[0, 0, 0, 0] = 50
    return x


def model_with(ranges, images, size=32):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(2, 1, name="conv", activation="relu"),
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dense(2, activation="softmax", name="head"),
        ]
    )
    keras.utils.set_random_seed(1)
    for variable in model.weights:
        variable.assign(np.random.default_rng(5).normal(size=variable.shape))
    kacc.quantize(model)
    calibrate(
        model, [images[i : i + size] for i in range(0, len(images), size)], ranges
    )
    return model


class TestCalibrate:
    def test_extremes_by_default(self, images):
        transform = quantize_of(model_with("minmax", images).get_layer("conv"))
        low, high = transform.ends("input_0")
        assert high == pytest.approx(50, abs=0.2)
        assert low == pytest.approx(-1, abs=0.2)

    @pytest.mark.parametrize(
        ("ranges", "most"), [("mse", 49.9), (Ranges("percentile", 99.9), 1.1)]
    )
    def test_what_is_beyond_the_range_is_cut_off(self, images, ranges, most):
        transform = quantize_of(model_with(ranges, images).get_layer("conv"))
        low, high = transform.ends("input_0")
        assert 0.9 < high < most
        assert -1.2 < low < -0.8

    @pytest.mark.parametrize("ranges", ["minmax", "percentile", "mse"])
    def test_nonnegative_ranges_begin_at_zero_and_fixed_ones_stay(self, images, ranges):
        model = model_with(ranges, images)
        assert quantize_of(model.get_layer("conv")).ends("output")[0] == 0
        assert quantize_of(model.get_layer("head")).fixed["output"] == (
            0.0,
            pytest.approx(255 / 256),
        )

    def test_batches_make_no_difference(self, images):
        whole = model_with("mse", images)
        parts = model_with("mse", images, size=8)
        for got, want in zip(parts.weights, whole.weights, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5)

    def test_a_range_that_was_seen_stays(self, images):
        model = model_with("minmax", images)
        before = model.get_weights()
        calibrate(model, [images / 3], "mse")
        for got, want in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(got, want)

    def test_values_that_are_not_finite_are_refused(self, images):
        model = kacc.quantize(keras.Sequential([keras.Input((4,)), layers.Dense(2)]))
        with pytest.raises(UsageError, match=r"must be finite.*input_0"):
            calibrate(model, [np.full((2, 4), np.nan, "float32")], "mse")

    def test_an_unknown_method(self, images):
        model = kacc.quantize(keras.Sequential([keras.Input((4,)), layers.Dense(2)]))
        with pytest.raises(UsageError, match=r"must be one of minmax.*'entropy'"):
            calibrate(model, [np.ones((2, 4))], "entropy")
        with pytest.raises(UsageError, match=r"`percentile` must be.*Received: 30"):
            Ranges("percentile", 30)
