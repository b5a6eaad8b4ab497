"""Schedules: their formulas, their ends, and tfmot's beside them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kacc.core.errors import UsageError
from kacc.schedules import Constant, Cosine, PolynomialDecay

SPANS = st.tuples(st.integers(0, 50), st.integers(1, 500)).map(
    lambda pair: (pair[0], pair[0] + pair[1])
)
VALUES = st.floats(0, 1)


@given(VALUES, VALUES, SPANS, st.integers(0, 1000), st.sampled_from([1, 2, 3.5]))
def test_polynomials_are_those_of_tfmot(initial, final, span, step, power):
    import tensorflow as tf
    from tensorflow_model_optimization.sparsity import keras as tfmot

    initial, final = min(initial, 0.99), min(final, 0.99)
    theirs = tfmot.PolynomialDecay(initial, final, *span, power=power)
    got = PolynomialDecay(initial, final, *span, power=power)(step)
    np.testing.assert_allclose(got, theirs(tf.constant(step))[1], atol=1e-5)


@pytest.mark.parametrize("kind", [PolynomialDecay, Cosine])
@given(initial=VALUES, final=VALUES, span=SPANS)
def test_ends_are_exact_and_the_way_is_monotone(kind, initial, final, span):
    schedule = kind(initial, final, *span)
    begin, end = span
    for step in (0, begin):
        assert schedule(step) == pytest.approx(initial, abs=1e-15)
    for step in (end, end + 1, 10 * end):
        assert schedule(step) == final
    values = np.array([schedule(step) for step in range(begin, end + 1)])
    steps = np.diff(values) * np.sign(final - initial)
    assert (steps >= -1e-12).all()


def test_a_cosine_is_half_way_in_the_middle():
    assert Cosine(0.2, 0.6, 10, 30)(20) == pytest.approx(0.4)
    assert Cosine(0.0, 1.0, 0, 4)(1) == pytest.approx((1 - np.sqrt(0.5)) / 2)


def test_a_constant_begins_at_its_step():
    assert [Constant(0.5, 3)(step) for step in (0, 2, 3, 100)] == [0, 0, 0.5, 0.5]


@pytest.mark.parametrize("span", [(-1, 5), (5, 5), (6, 5)])
def test_steps_out_of_order(span):
    for kind in (PolynomialDecay, Cosine):
        with pytest.raises(UsageError, match="must begin at step 0 or later"):
            kind(0.0, 0.5, *span)
    with pytest.raises(UsageError, match="must begin at step 0 or later"):
        Constant(0.5, -1)
