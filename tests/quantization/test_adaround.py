"""Adaptive rounding: its functions, and fits with a known best."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kacc.core.errors import UsageError
from kacc.quantization import AdaRound
from kacc.quantization.adaround import (
    annealed,
    fitted_integers,
    free_parameter,
    integers,
    rectified_sigmoid,
    regularizer,
)

SHARES = arrays(np.float32, 9, elements=st.floats(0, 1, width=32))
VALUES = arrays(
    np.float32, 9, elements=st.floats(-20, 20, width=32, allow_subnormal=False)
)


class TestFunctions:
    @given(SHARES)
    def test_the_free_parameter_is_the_inverse_of_the_sigmoid(self, shares):
        found = rectified_sigmoid(free_parameter(tf.constant(shares)))
        np.testing.assert_allclose(found, shares, atol=1e-5)

    @given(VALUES, SHARES, st.sampled_from([2, 4, 8]))
    def test_integers_are_the_floor_or_one_more(self, weight, up, bits):
        largest = 2 ** (bits - 1) - 1
        step = tf.constant(0.3)
        down = integers(tf.constant(weight), step, tf.zeros(9), bits).numpy()
        above = integers(tf.constant(weight), step, tf.ones(9), bits).numpy()
        floor = np.floor(weight / np.float32(0.3))
        np.testing.assert_array_equal(down, np.clip(floor, -largest, largest))
        np.testing.assert_array_equal(above, np.clip(floor + 1, -largest, largest))
        between = integers(tf.constant(weight), step, tf.constant(up), bits).numpy()
        assert (down <= between).all()
        assert (between <= above).all()

    @given(SHARES, st.sampled_from([20.0, 8.0, 2.0]))
    def test_the_regularizer_is_zero_at_the_ends_only(self, up, beta):
        found = float(regularizer(tf.constant(up), beta))
        assert 0 <= found <= 9
        whole = np.round(up)
        assert float(regularizer(tf.constant(whole), beta)) == 0
        assert found >= float(np.sum(np.abs(up - whole) > 0.4) * 0.2) * 0.2**beta

    def test_the_exponent_falls(self):
        found = [annealed(done, (20.0, 2.0)) for done in np.linspace(0, 1, 20)]
        assert found == sorted(found, reverse=True)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"steps": 0}, "`steps` of AdaRound must be above 0"),
            ({"rate": -1.0}, "`rate` of AdaRound"),
            ({"batch": 0}, "`batch` of AdaRound"),
            ({"warm_up": 1.0}, "`warm_up` of AdaRound must be a share"),
        ],
    )
    def test_numbers_out_of_bounds(self, options, message):
        with pytest.raises(UsageError, match=message):
            AdaRound(**options)


def product(values, weights):
    return tf.matmul(values[0], weights[0])


class TestFit:
    def test_it_finds_the_best_of_all_roundings(self):
        """Inputs that go together: nearest rounds all down, and errors add up."""
        rng = np.random.default_rng(0)
        common = rng.normal(size=(256, 1)).astype("float32")
        x = tf.constant(common + 0.1 * rng.normal(size=(256, 6)).astype("float32"))
        weight = tf.constant(rng.uniform(0.1, 0.4, (6, 1)).astype("float32") + 3)
        step = tf.ones((1, 1))
        wanted = product([x], [weight])

        def error(whole):
            return float(tf.reduce_mean(tf.square(product([x], [whole]) - wanted)))

        floor = np.floor(weight.numpy())
        choices = [np.array([(n >> i) & 1 for i in range(6)]) for n in range(64)]
        best = min(error(floor + c[:, None].astype("float32")) for c in choices)
        settings = AdaRound(steps=400)
        (found,) = fitted_integers([weight], [step], 8, [x], wanted, product, settings)
        assert set(np.unique(found - floor)) <= {0.0, 1.0}
        assert error(tf.round(weight)) > 5 * error(found)
        assert error(found) <= 1.5 * best

    def test_exact_zeros_stay_where_others_cannot_make_up_for_an_error(self):
        """A pruned weight has no rounding to fit, whatever the outputs ask for."""
        rng = np.random.default_rng(2)
        x = tf.constant(rng.uniform(1, 2, size=(64, 8)).astype("float32"))
        weight = rng.normal(size=(8, 4)) * rng.integers(0, 2, (8, 4))
        weight = tf.constant(weight.astype("float32"))
        wanted = product([x], [weight]) + 5.0
        call = [weight], [tf.constant(0.3)], 4, [x], wanted, product
        (found,) = fitted_integers(*call, AdaRound(steps=200))
        assert (found.numpy()[weight.numpy() == 0] == 0).all()

    def test_the_same_data_give_the_same_integers(self):
        rng = np.random.default_rng(1)
        x = tf.constant(rng.normal(size=(64, 5)).astype("float32"))
        weight = tf.constant(rng.normal(size=(5, 3)).astype("float32"))
        step = tf.constant([[0.3, 0.2, 0.4]])
        call = [weight], [step], 4, [x], product([x], [weight]), product
        first, second = (fitted_integers(*call, AdaRound(steps=30)) for _ in range(2))
        np.testing.assert_array_equal(first[0], second[0])
