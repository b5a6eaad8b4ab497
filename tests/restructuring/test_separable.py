"""Depthwise-separable convolutions from standard ones."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import kacc
from kacc.restructuring import SeparableConvolutions, functional, plan
from tests.pruning.channels import graphs
from tests.restructuring import models


@st.composite
def convolutions(draw):
    """A convolution with any strides, padding, dilation, kernel, bias, activation."""
    keras.backend.clear_session()
    rank = draw(st.sampled_from((1, 2)))
    step = draw(st.integers(1, 3))
    dilation = draw(st.integers(1, 3)) if step == 1 else 1
    cls = layers.Conv1D if rank == 1 else layers.Conv2D
    size = draw(
        st.sampled_from(((2,), (3,)) if rank == 1 else ((3, 3), (2, 3), (1, 3)))
    )
    conv = cls(
        draw(st.integers(1, 12)),
        size,
        strides=step,
        dilation_rate=dilation,
        padding=draw(st.sampled_from(("same", "valid"))),
        use_bias=draw(st.booleans()),
        activation=draw(st.sampled_from((None, "relu", "tanh"))),
        name="conv",
    )
    shape = (*(9, 8)[:rank], draw(st.integers(1, 4)))
    model = keras.Sequential([keras.Input(shape), conv])
    graphs.randomize(model, draw(st.integers(0, 5)))
    return model


@settings(max_examples=12, deadline=None)
@given(convolutions(), st.booleans())
def test_at_full_rank_the_outputs_are_equal(model, as_one_layer):
    (conv,) = model.layers
    full = int(np.prod(conv.kernel_size))
    option = SeparableConvolutions(
        full, only_if_smaller=False, as_one_layer=as_one_layer
    )
    new = kacc.restructure(model, option)
    assert len(new.layers) == (1 if as_one_layer else 2)
    assert new.layers[-1].name == "conv"
    x = np.random.default_rng(0).normal(size=(3, *model.input_shape[1:]))
    models.require_equal(model, new, x.astype("float32"))


@settings(max_examples=20, deadline=None)
@given(
    st.integers(2, 9),
    st.integers(1, 4),
    st.integers(2, 8),
    st.integers(1, 3),
    st.integers(0, 99),
)
def test_no_other_kernels_are_nearer(taps, inputs, outputs, multiplier, seed):
    """Least squares: steps away from the solution in any direction lose."""
    random = np.random.default_rng(seed)
    kernel = random.normal(size=(taps, inputs, outputs))
    depthwise, pointwise, kept = functional.separable(kernel, multiplier)
    identity = np.eye(taps * inputs)
    best = functional.error(kernel, depthwise, pointwise, identity)
    share = 1 - best / (kernel**2).sum()
    assert share == pytest.approx(kept[min(multiplier, len(kept)) - 1], abs=1e-9)
    for _ in range(5):
        other = (
            depthwise + 0.05 * random.normal(size=depthwise.shape),
            pointwise + 0.05 * random.normal(size=pointwise.shape),
        )
        assert functional.error(kernel, *other, identity) >= best - 1e-9


def _correlated(samples=256, channels=6):
    """Smooth maps, mixed into more channels, as those of hidden layers are."""
    random = np.random.default_rng(0)
    maps = random.normal(size=(samples, 8, 8, 2)).cumsum(axis=1).cumsum(axis=2) / 4
    noise = 0.05 * random.normal(size=(samples, 8, 8, channels))
    x = maps @ random.normal(size=(2, channels))
    return (x + noise + 0.5).astype("float32")


@pytest.mark.parametrize("as_one_layer", [True, False])
def test_with_calibration_outputs_are_nearer_on_other_samples_too(as_one_layer):
    model = keras.Sequential(
        [keras.Input((8, 8, 6)), layers.Conv2D(16, 3, name="conv")]
    )
    graphs.randomize(model)
    x = _correlated()
    option = SeparableConvolutions(as_one_layer=as_one_layer)
    plain = kacc.restructure(model, option)
    aware = plan(model, option, calibration=x[:128])
    wanted = model(x[128:])
    errors = [
        float(np.mean((new(x[128:]) - wanted) ** 2)) for new in (plain, aware.build())
    ]
    assert errors[1] < 0.2 * errors[0]
    power = float(np.var(wanted - np.mean(wanted, (0, 1, 2))))
    kept = float(aware.layers[0].done.split(", ")[2].split("%")[0]) / 100
    assert 1 - errors[1] / power == pytest.approx(kept, abs=0.1)


def test_each_round_of_the_fit_only_gets_better():
    random = np.random.default_rng(0)
    kernel = random.normal(size=(9, 5, 8))
    x = random.normal(size=(400, 6)) @ random.normal(size=(6, 45))
    moments = x.T @ x / 400 + 1e-3 * np.eye(45)
    first = functional.separable(kernel, 1)[:2]
    errors = [functional.error(kernel, *first, moments)]
    for rounds in (1, 2, 4, 8):
        fitted = functional.refined(kernel, *first, moments, rounds)
        errors.append(functional.error(kernel, *fitted, moments))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0]


def test_of_large_depthwise_kernels_only_the_pointwise_part_is_fitted(monkeypatch):
    monkeypatch.setattr(functional, "LARGEST", 10)
    random = np.random.default_rng(0)
    kernel = random.normal(size=(9, 5, 8))
    x = random.normal(size=(400, 45)) * np.linspace(0.1, 2, 45)
    first = functional.separable(kernel, 1)[:2]
    fitted = functional.refined(kernel, *first, x.T @ x)
    np.testing.assert_array_equal(fitted[0], first[0])
    before, after = (functional.error(kernel, *k, x.T @ x) for k in (first, fitted))
    assert after < before


def test_dead_channels_give_finite_kernels():
    kernel = np.random.default_rng(0).normal(size=(9, 4, 8))
    kernel[:, 1] = 0
    moments = np.zeros((36, 36))
    first = functional.separable(kernel, 2)[:2]
    for fitted in (first, functional.refined(kernel, *first, moments)):
        assert all(np.isfinite(part).all() for part in fitted)


def test_the_least_multiplier_that_keeps_the_energy_is_taken():
    model = keras.Sequential(
        [keras.Input((8, 8, 4)), layers.Conv2D(64, 3, name="conv")]
    )
    graphs.randomize(model)
    kernel = model.layers[0].kernel.numpy().reshape(9, 4, 64)
    kept = functional.separable(kernel, 1)[2]
    option = SeparableConvolutions(energy=float(kept[2]) - 1e-6)
    assert kacc.restructure(model, option).layers[0].depth_multiplier == 3


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (lambda: layers.Conv2D(8, 3, groups=2), "it is grouped"),
        (lambda: layers.Conv2D(8, 1), "it has one tap"),
        (lambda: layers.Conv2D(8, 3, strides=(1, 2)), "equal strides"),
        (lambda: layers.Conv2D(8, 3, dilation_rate=(1, 2)), "equal dilation_rate"),
        (lambda: layers.Conv2D(8, 3, kernel_constraint="max_norm"), "constraint"),
        (lambda: layers.Conv2D(1, 3), "would save nothing"),
        (lambda: type("Own", (layers.Conv2D,), {})(8, 3), "may do anything"),
    ],
)
def test_what_cannot_be_separated_is_left_alone_with_a_reason(layer, reason):
    model = keras.Sequential([keras.Input((8, 8, 4)), layer()])
    (row,) = plan(model, "separable_convolutions").layers
    assert not row.done
    assert reason in row.reason
    assert row.macs[0] == row.macs[1]


def test_causal_and_channels_first_convolutions_are_left_alone():
    model = keras.Sequential(
        [keras.Input((8, 4)), layers.Conv1D(8, 3, padding="causal")]
    )
    assert "causal" in plan(model, "separable_convolutions").layers[0].reason
    image = keras.Input((4, 8, 8))
    conv = layers.Conv2D(8, 3, data_format="channels_first")
    found = plan(keras.Model(image, conv(image)), "separable_convolutions")
    assert "channels come first" in found.layers[0].reason


def test_regularizers_go_with_the_kernel_that_has_the_outputs():
    conv = layers.Conv2D(8, 3, kernel_regularizer="l2", bias_initializer="ones")
    model = keras.Sequential([keras.Input((8, 8, 4)), conv])
    two = kacc.restructure(model, SeparableConvolutions())
    assert two.layers[0].depthwise_regularizer is None
    assert two.layers[1].kernel_regularizer is not None
    one = kacc.restructure(model, SeparableConvolutions(as_one_layer=True))
    assert one.layers[0].pointwise_regularizer is not None
