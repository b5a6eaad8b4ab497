"""Symmetric grids of 16 bits: scales that a range of 8 bits can tell the converter."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from kacc.core.registry import RangeSpec
from kacc.quantization import functional
from kacc.quantization.calibration import Histogram, mse_range
from kacc.quantization.integer import grid_of, quantize

sizes = st.floats(2**-19, 1e6, width=32)


@given(sizes)
def test_the_scale_is_near_and_of_17_bits(size):
    scale = functional.symmetric_scale(tf.constant(size, tf.float32)).numpy()
    assert scale == pytest.approx(size / 32767, rel=2**-17)
    wide = np.float64(scale)
    assert np.float32(127 * wide) == 127 * wide  # exact in float32
    span = np.float64(np.float32(127 * scale)) - np.float64(np.float32(-128 * scale))
    assert span / 255 == wide


@given(sizes, sizes)
def test_nudging_a_nudged_range_keeps_it(low, high):
    once = functional.nudge(-np.float32(low), np.float32(high), 16, True)
    twice = functional.nudge(*once, 16, True)
    assert [float(x) for x in once] == [float(x) for x in twice]
    assert float(once[0]) == -float(once[1])
    grid = grid_of(*once, 16, True)
    assert float(grid.zero) == 0.0
    # The converter widens ranges of 8 bits whose span is below 1e-6, and moves zero.
    want = max(max(low, high) / 32767, 1e-6 / 254)
    assert float(grid.scale) == pytest.approx(want, rel=2**-17, abs=0)
    assert 255 * float(grid.scale) >= 1e-6
    assert float(grid.scale) == float(functional.symmetric_scale(once[1]))


@given(sizes, st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=20))
def test_fake_quantization_lies_on_the_grid(size, shares):
    low, high = functional.nudge(np.float32(0), np.float32(size), 16, True)
    values = np.float32(shares) * np.float32(size)
    got = functional.fake_quantize(values, low, high, 16, symmetric=True).numpy()
    want = quantize(np.clip(values, low, high), grid_of(low, high, 16, True))
    steps = np.abs(got - want.real.numpy()) / want.grid.scale32.numpy()
    # In float32 a value half-way between two steps may go to either.
    assert steps.max() <= 1.01
    assert np.abs(got - np.clip(values, low, high)).max() <= 0.51 * want.grid.scale32


def test_fixed_ranges_become_symmetric():
    assert RangeSpec(fixed=(0.0, 6.0)).prescribed(False) == (0.0, 6.0)
    assert RangeSpec(fixed=(0.0, 6.0)).prescribed(True) == (-6.0, 6.0)
    unit = RangeSpec(fixed=(0.0, 1.0), symmetric=(-0.5, 0.5))
    assert unit.prescribed(True) == (-0.5, 0.5)
    assert RangeSpec().prescribed(True) is None


def test_the_least_squared_error_of_a_symmetric_grid():
    seen = Histogram()
    seen.add(np.append(np.linspace(-1, 1, 100_000), 100.0))
    low, high = mse_range(seen, bits=8, symmetric=True)
    assert 50 < max(-low, high) < 90
