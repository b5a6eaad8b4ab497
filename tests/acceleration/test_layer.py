"""The fused layer is Keras's layer, except for the kernel of its training step."""

import copy
import inspect
import json
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from kacc.acceleration.layer import FusedBatchNormalization

Plain = keras.layers.BatchNormalization
SHAPE = (8, 8, 8, 16)


def pair(shape=SHAPE, **config):
    """The same layer twice, plain and fused."""
    plain, fused = (
        Plain(name="bn", **config),
        FusedBatchNormalization(name="bn", **config),
    )
    random = np.random.default_rng(0)
    for layer in (plain, fused):
        layer.build((None, *shape[1:]))
    weights = [random.uniform(0.5, 2, w.shape) for w in plain.get_weights()]
    for layer in (plain, fused):
        layer.set_weights(weights)
    return plain, fused


def batch(shape=SHAPE, seed=1, dtype="float32"):
    return tf.cast(np.random.default_rng(seed).normal(2.0, 3.0, shape), dtype)


def step(layer, x, **arguments):
    """Output and gradients of a call, and the moving statistics after it."""
    upstream = tf.cast(batch(x.shape, seed=2), layer.compute_dtype)
    variables = [v.value for v in layer.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, **arguments)
        loss = tf.reduce_sum(tf.cast(y, "float32") * tf.cast(upstream, "float32"))
    gradients = tape.gradient(loss, [x, *variables])
    return [y, *gradients, *(v.value for v in layer.non_trainable_variables)]


def kernels(layer, x, jit_compile=False, **arguments):
    """How many fused kernels the traced call has."""
    function = tf.function(lambda x: layer(x, **arguments), jit_compile=jit_compile)
    graph = function.get_concrete_function(tf.TensorSpec(x.shape, x.dtype)).graph
    return sum(op.type == "FusedBatchNormV3" for op in graph.get_operations())


def assert_same(got, wanted, tolerance=1e-5):
    for a, b in zip(got, wanted, strict=True):
        assert a.dtype == b.dtype
        a, b = np.asarray(tf.cast(a, "float64")), np.asarray(tf.cast(b, "float64"))
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"center": False},
        {"scale": False},
        {"center": False, "scale": False},
        {"axis": 3, "momentum": 0.5, "epsilon": 1e-7},
    ],
    ids=str,
)
def test_a_training_step_equals_keras(config):
    plain, fused = pair(**config)
    assert kernels(fused, batch(), training=True) == 1
    for seed in (1, 5):
        x = batch(seed=seed)
        assert_same(step(fused, x, training=True), step(plain, x, training=True))


@pytest.mark.parametrize("shape", [(6, 1500), (6, 70, 16), (4, 5, 6, 6, 7)], ids=str)
def test_other_ranks_equal_keras(shape):
    plain, fused = pair(shape)
    x = batch(shape)
    assert kernels(fused, x, training=True) == 1
    assert_same(step(fused, x, training=True), step(plain, x, training=True))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision_equals_keras(dtype):
    plain, fused = pair(dtype=f"mixed_{dtype}")
    x = batch(dtype=dtype)
    assert kernels(fused, x, training=True) == 1
    got, wanted = (step(layer, x, training=True) for layer in (fused, plain))
    # Outputs and their gradients end in one rounding to half precision, which may fall
    # to either side.
    last = np.finfo(np.float16).eps if dtype == "float16" else 2.0**-7
    assert_same(got[:2], wanted[:2], last)
    assert np.mean(got[0] == wanted[0]) > 0.99
    assert_same(got[2:], wanted[2:])


def test_is_as_near_to_the_truth_far_from_zero():
    # A hundred deviations from zero both lose digits, and differ by more than 1e-5.
    plain, fused = pair()
    x = batch() + 300.0
    upstream = batch(seed=2).numpy().astype("float64")
    exact = x.numpy().astype("float64")
    normal = (exact - exact.mean((0, 1, 2))) / np.sqrt(exact.var((0, 1, 2)) + 1e-3)
    truth = (upstream * normal).sum((0, 1, 2))
    errors = [
        np.abs(step(layer, x, training=True)[2] - truth).max()
        for layer in (fused, plain)
    ]
    assert errors[0] < 2 * errors[1]


@pytest.mark.parametrize(
    ("shape", "config", "arguments"),
    [
        (SHAPE, {}, {"training": False}),
        (SHAPE, {}, {}),
        (SHAPE, {"trainable": False}, {"training": True}),
        (SHAPE, {"axis": 1}, {"training": True}),
        (SHAPE, {"synchronized": True}, {"training": True}),
        (SHAPE, {"renorm": True}, {"training": True}),
        (SHAPE, {"dtype": "float64"}, {"training": True}),
        ((8, 2, 2, 16), {}, {"training": True}),
        (
            (4, 30, 40),
            {},
            {"training": True, "mask": np.arange(120).reshape(4, 30) < 70},
        ),
    ],
    ids=str,
)
def test_other_calls_are_those_of_keras(shape, config, arguments):
    plain, fused = pair(shape, **config)
    x = batch(shape, dtype=plain.compute_dtype)
    assert kernels(fused, x, **arguments) == 0
    got, wanted = (step(layer, x, **arguments) for layer in (fused, plain))
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def test_integers_are_those_of_keras():
    plain, fused = pair()
    x = np.random.default_rng(0).integers(0, 255, SHAPE)
    np.testing.assert_array_equal(fused(x, training=True), plain(x, training=True))


def test_xla_keeps_the_call_of_keras():
    # The fused kernel's variance under XLA loses all digits at this mean.
    plain, fused = pair()
    x = batch() + 1000.0
    assert kernels(fused, x, jit_compile=True, training=True) == 0
    got, wanted = (
        tf.function(step, jit_compile=True)(layer, x, training=True)
        for layer in (fused, plain)
    )
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def test_second_derivatives_equal_keras():
    def second(layer, x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(layer(x, training=True) ** 3)
            penalty = tf.reduce_sum(tape.gradient(loss, x) ** 2)
        return [outer.gradient(penalty, x)]

    plain, fused = pair()
    assert_same(second(fused, batch()), second(plain, batch()), 1e-4)


def test_stateless_call_returns_the_new_statistics():
    plain, fused = pair()
    before = fused.get_weights()
    results = [
        layer.stateless_call(
            [v.value for v in layer.trainable_variables],
            [v.value for v in layer.non_trainable_variables],
            batch(),
            training=True,
        )
        for layer in (fused, plain)
    ]
    assert_same(*(tf.nest.flatten(result) for result in results))
    for a, b in zip(before, fused.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def model(layer):
    inputs = keras.Input(SHAPE[1:], name="input")
    return keras.Model(inputs, layer(inputs), name="model")


def test_the_saved_file_is_that_of_the_plain_model(tmp_path):
    contents = []
    for layer in pair():
        path = tmp_path / "model.keras"
        model(layer).save(path)
        with zipfile.ZipFile(path) as archive:
            contents.append(json.loads(archive.read("config.json")))
        loaded = keras.models.load_model(path)
        assert type(loaded.layers[1]) is Plain
        np.testing.assert_array_equal(
            loaded.predict(batch(), verbose=0), model(layer).predict(batch(), verbose=0)
        )
    assert contents[0] == contents[1]


@pytest.mark.parametrize("name", ["m.weights.h5", "m.h5"])
def test_weight_files_are_exchanged(tmp_path, name):
    plain, fused = pair()
    for source, target in ((plain, fused), (fused, plain)):
        source, target = model(source), model(target)
        source.set_weights([w + 1 for w in source.get_weights()])
        if name == "m.h5":
            source.save(tmp_path / name)
        else:
            source.save_weights(tmp_path / name)
        target.load_weights(tmp_path / name)
        for a, b in zip(source.get_weights(), target.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_clones_and_copies_work():
    _, fused = pair()
    original = model(fused)
    for other in (keras.models.clone_model(original), copy.deepcopy(original)):
        other.set_weights(original.get_weights())
        assert_same(
            step(other.layers[1], batch(), training=True),
            step(original.layers[1], batch(), training=True),
        )


def test_the_signature_is_that_of_keras():
    ours = inspect.signature(FusedBatchNormalization.call).parameters
    theirs = inspect.signature(Plain.call).parameters
    assert [(p.name, p.default) for p in ours.values()] == [
        (p.name, p.default) for p in theirs.values()
    ]
