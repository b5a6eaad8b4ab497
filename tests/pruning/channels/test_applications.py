"""Models of keras.applications at half of their MACs."""

import keras
import numpy as np
import pytest

import kacc
from kacc.core.cost import cost
from kacc.pruning.channels.pruner import plan_channels

LARGE = pytest.param("NASNetMobile", marks=pytest.mark.slow)


@pytest.mark.parametrize("name", ["MobileNetV2", "EfficientNetB0", LARGE])
def test_half_of_the_macs(name):
    size = 32
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=10
    )
    x = np.random.default_rng(0).uniform(-1, 1, (2, size, size, 3)).astype("float32")
    wanted = np.asarray(model(x, training=False))
    plan = plan_channels(model, macs=0.5)
    assert plan.report == ""
    smaller = plan.build()
    assert 0.485 <= cost(smaller).macs / cost(model).macs <= 0.5
    assert np.asarray(smaller(x, training=False)).shape == (2, 10)
    copy = kacc.prune_channels(model, macs=1.0)
    np.testing.assert_allclose(copy(x, training=False), wanted, atol=1e-5)
    np.testing.assert_array_equal(model(x, training=False), wanted)
