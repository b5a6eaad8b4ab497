"""Adaptive rounding: its functions, fits with a known best, whole files."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from keras import layers

import kacc
from kacc.converters.convert import convert
from kacc.converters.parity import parity
from kacc.core.errors import UsageError
from kacc.quantization import AdaRound, calibrate
from kacc.quantization.adaround import (
    annealed,
    fitted_integers,
    free_parameter,
    integers,
    rectified_sigmoid,
    regularizer,
)
from kacc.quantization.copies import quantized_copy
from kacc.quantization.rounding import fit_roundings
from kacc.quantization.transform import quantize_of
from tests.core import models

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

    def test_the_same_data_give_the_same_integers(self):
        rng = np.random.default_rng(1)
        x = tf.constant(rng.normal(size=(64, 5)).astype("float32"))
        weight = tf.constant(rng.normal(size=(5, 3)).astype("float32"))
        step = tf.constant([[0.3, 0.2, 0.4]])
        call = [weight], [step], 4, [x], product([x], [weight]), product
        first, second = (fitted_integers(*call, AdaRound(steps=30)) for _ in range(2))
        np.testing.assert_array_equal(first[0], second[0])


@pytest.mark.parametrize("build", [models.nested, models.shared, models.subclassed])
@pytest.mark.parametrize("scheme", ["int8", "w4a8"])
def test_files_of_fitted_copies_equal_them(build, scheme, tmp_path):
    model, x = build(), models.images(48)
    rules = [kacc.Rule(".*", bits=4)] if scheme == "w4a8" else []
    copy = quantized_copy(model, scheme, rules, learned_steps=True)
    calibrate(copy, [x])
    before = models.variables(model)
    fit_roundings(copy, [x], AdaRound(steps=20))
    artifact = convert(copy, tmp_path / "m.tflite", f"tflite-{scheme}")
    assert parity(copy, artifact, x).equal == 1
    for path, value in models.variables(model).items():
        np.testing.assert_array_equal(value, before[path])


def test_weights_are_a_step_from_where_they_were():
    model, x = models.functional(), models.images(32)
    copy = quantized_copy(model, "w4a8", [kacc.Rule(".*", bits=4)], True)
    calibrate(copy, [x])
    fit_roundings(copy, [x], AdaRound(steps=20))
    moved = 0
    for double in copy.operations:
        transform = quantize_of(double)
        if transform is None or not hasattr(double, "kernel"):
            continue
        old = model.get_layer(double.name).kernel.numpy()
        step = transform.weight_step("kernel", tf.constant(old)).numpy()
        whole = double.kernel.numpy() / step
        np.testing.assert_allclose(whole, np.round(whole), atol=1e-4)
        inside = np.abs(old) <= 7 * step
        assert (np.abs(double.kernel.numpy() - old) <= 1.001 * step)[inside].all()
        moved += int((np.round(whole) != np.clip(np.round(old / step), -7, 7)).sum())
    assert moved > 0


@pytest.fixture(scope="module")
def trained():
    """A model of correlated inputs, which nearest rounding to 4 bits harms."""
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(2)
    x = rng.normal(size=(400, 1, 1, 3)) + 0.3 * rng.normal(size=(400, 8, 8, 3))
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(8, 3, activation="relu", name="first"),
            layers.SeparableConv2D(8, 3, activation="relu", name="second"),
            layers.Conv2D(8, 3, use_bias=False, name="third"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.Flatten(name="flat"),
            layers.Dense(4, name="head"),
        ]
    )
    return model, x.astype("float32")


@pytest.mark.parametrize("target", ["tflite-w4a8", "tflite-int8"])
def test_outputs_come_nearer(trained, tmp_path, target):
    model, x = trained
    want = np.asarray(model(x[200:]))
    errors, options = {}, {}
    for rounding in ("nearest", AdaRound(steps=150)):
        artifact = convert(
            model,
            tmp_path / "m.tflite",
            target,
            x[:200],
            rounding=rounding,
            backend="kacc",
            ranges="mse",
        )
        errors[rounding] = np.square(artifact.predict(x[200:]) - want).mean()
        options[rounding] = artifact.manifest.options.get("rounding")
    nearest, fitted = errors.values()
    assert fitted < (0.7 if target == "tflite-w4a8" else 1.1) * nearest
    assert options["nearest"] is None
    assert list(options.values())[1]["method"] == "adaround"
    assert list(options.values())[1]["steps"] == 150
