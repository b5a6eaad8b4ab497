"""Every way in which `fit` can run: the ranges come out the same."""

import keras
import numpy as np
import pytest

from kacc.callbacks import QuantizationAwareTraining
from kacc.quantization import unseen_ranges
from tests.core import models
from tests.core.processes import run_python


def fitted(compile_options, dtype="float32", epochs=1):
    keras.utils.set_random_seed(2)
    keras.config.set_dtype_policy(dtype)
    try:
        model = models.small()
    finally:
        keras.config.set_dtype_policy("float32")
    model.compile(keras.optimizers.SGD(0.1), "mse", **compile_options)
    x, y = models.vectors(32), np.ones((32, 3), "float32")
    model.fit(
        x,
        y,
        batch_size=4,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[QuantizationAwareTraining()],
    )
    return model


@pytest.fixture(scope="module")
def usual():
    return fitted({"jit_compile": False})


@pytest.mark.parametrize(
    "options",
    [
        {"jit_compile": True},
        {"jit_compile": False, "steps_per_execution": 3},
        {"run_eagerly": True},
    ],
    ids=["jit_compile", "steps_per_execution", "run_eagerly"],
)
def test_ranges_and_weights_do_not_depend_on_how_fit_runs(options, usual):
    model = fitted(options)
    assert unseen_ranges(model) == []
    for got, want in zip(model.variables, usual.variables, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5, err_msg=got.path)
    x = models.vectors(seed=5)
    np.testing.assert_allclose(
        model.predict(x, verbose=0), models.outputs(model, x)[0], rtol=1e-6
    )


def test_bfloat16_models_keep_their_ranges_in_float32(usual):
    model = fitted({"jit_compile": False}, "mixed_bfloat16")
    assert model.layers[0].compute_dtype == "bfloat16"
    for got, want in zip(model.variables, usual.variables, strict=True):
        assert got.dtype == "float32"
        if not got.path.endswith("_clipped"):
            np.testing.assert_allclose(got, want, rtol=0.05, atol=0.01)


def test_a_second_fit_goes_on_with_the_ranges():
    model = fitted({"jit_compile": False})
    before = models.variables(model)
    x, y = 100 * models.vectors(4), np.ones((4, 3), "float32")
    callback = QuantizationAwareTraining()
    model.fit(x, y, verbose=0, callbacks=[callback])
    after = models.variables(model)
    assert list(after) == list(before)
    (key,) = [k for k in after if k.endswith("input_0_range")]
    ends = np.array([x.min(), x.max()])
    np.testing.assert_allclose(after[key], 0.99 * before[key] + 0.01 * ends, rtol=1e-4)


def test_ranges_learn_on_without_the_callback():
    """Attached is attached: `fit` needs the callback only to attach and to log."""
    model = fitted({"jit_compile": False})
    before = models.variables(model)
    model.fit(10 * models.vectors(4), np.ones((4, 3), "float32"), verbose=0)
    after = models.variables(model)
    moved = [k for k in after if k.endswith("_range")]
    assert moved
    assert all(not np.array_equal(before[k], after[k]) for k in moved)


def test_replicas_have_the_same_ranges():
    """Under MirroredStrategy, where the wrong aggregation lets them drift apart."""
    run_python(
        """
        import numpy as np
        import tensorflow as tf
        cpus = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(
            cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2
        )
        import keras
        import kacc
        from kacc.quantization import unseen_ranges
        from tests.core import models

        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        with strategy.scope():
            model = models.small()
            model.compile("sgd", "mse", jit_compile=False)
        x = models.vectors(8)
        x[4:] *= 10  # the second replica's half
        model.fit(
            x, np.ones((8, 3), "float32"), batch_size=8, shuffle=False, verbose=0,
            callbacks=[kacc.callbacks.QuantizationAwareTraining()],
        )
        assert unseen_ranges(model) == []
        ranges = [v for v in model.variables if v.name.endswith("_range")]
        assert len(ranges) == 3
        for variable in ranges:
            parts = strategy.experimental_local_results(variable.value)
            assert len(parts) == 2, parts
            np.testing.assert_array_equal(*[p.numpy() for p in parts])
        ends = np.mean([[h.min(), h.max()] for h in (x[:4], x[4:])], axis=0)
        first = [v for v in ranges if v.name.startswith("input_0")][0]
        np.testing.assert_allclose(first.numpy(), ends, rtol=1e-5)
        assert np.isfinite(model.predict(x, verbose=0)).all()
        model.evaluate(x, np.ones((8, 3)), verbose=0)
        """
    )
