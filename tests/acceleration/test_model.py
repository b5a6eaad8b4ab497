"""Fusing whole models, however they are made, compiled and trained."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest

from kacc.acceleration.fusion import fuse_batch_normalization
from kacc.acceleration.layer import FusedBatchNormalization
from kacc.acceleration.model import accelerate
from kacc.core.errors import UsageError

Plain = keras.layers.BatchNormalization
layers = keras.layers
SHAPE = (8, 8, 16)


def block(x):
    x = layers.Conv2D(16, 3, padding="same", use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization()(x))


def sequential():
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(16, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )


def nested():
    inner_in = keras.Input(SHAPE)
    inner = keras.Model(inner_in, block(block(inner_in)), name="inner")
    inputs = keras.Input(SHAPE)
    x = layers.GlobalAveragePooling2D()(inner(inputs) + inputs)
    return keras.Model(inputs, layers.Dense(3)(x))


def shared():
    one = layers.BatchNormalization()
    a, b = keras.Input(SHAPE), keras.Input(SHAPE)
    x = layers.Concatenate()([one(a), one(b * 2.0)])
    return keras.Model([a, b], layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


@keras.saving.register_keras_serializable("kacc_tests_acceleration")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [
            (layers.Conv2D(16, 3, padding="same", use_bias=False), Plain())
            for _ in range(2)
        ]
        self.head = keras.Sequential([layers.GlobalAveragePooling2D(), layers.Dense(3)])

    def call(self, x, training=None):
        for conv, bn in self.blocks:
            x = keras.ops.relu(bn(conv(x), training=training))
        return self.head(x)


def subclassed():
    model = Subclassed()
    model(np.zeros((1, *SHAPE)))
    return model


MODELS = [sequential, nested, shared, subclassed]


def data(model, size=24):
    random = np.random.default_rng(0)
    count = len(getattr(model, "inputs", [0]))
    x = [random.normal(1, 2, (size, *SHAPE)).astype("float32") for _ in range(count)]
    y = random.normal(size=(size, 3)).astype("float32")
    return (x if count > 1 else x[0]), y


def twins(make, **compile_arguments):
    """The same compiled model twice."""
    keras.utils.set_random_seed(0)
    plain, fused = make(), make()
    fused.set_weights(plain.get_weights())
    for model in (plain, fused):
        # Not Adam: it makes steps of full size of gradients that are rounding noise.
        model.compile(
            keras.optimizers.SGD(0.01, momentum=0.9), "mse", **compile_arguments
        )
    return plain, fused


def assert_same_weights(got, wanted, tolerance=1e-5):
    for a, b in zip(got.get_weights(), wanted.get_weights(), strict=True):
        np.testing.assert_allclose(
            a, b, rtol=0, atol=tolerance * max(1, np.abs(b).max())
        )


def normalizations(model):
    return [layer for layer in model._flatten_layers() if isinstance(layer, Plain)]


@pytest.mark.parametrize(
    ("make", "options"),
    [
        *((make, {}) for make in MODELS),
        (nested, {"jit_compile": True}),
        (shared, {"run_eagerly": True}),
        (subclassed, {"steps_per_execution": 2}),
    ],
)
def test_training_equals_the_plain_model(make, options):
    plain, fused = twins(make, **options)
    assert accelerate(fused) is fused
    x, y = data(plain)
    losses = [
        model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0).history[
            "loss"
        ]
        for model in (fused, plain)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert_same_weights(fused, plain)
    got, wanted = (model.predict(x, verbose=0) for model in (fused, plain))
    np.testing.assert_allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize("make", MODELS)
def test_all_normalizations_are_fused(make):
    model = make()
    fusion = fuse_batch_normalization(model)
    found = normalizations(model)
    assert len(fusion.fused) == len(found) > 0
    assert not fusion.skipped
    assert all(type(layer) is FusedBatchNormalization for layer in found)
    assert fuse_batch_normalization(model) == fusion


def test_paths_name_nested_layers():
    fusion = fuse_batch_normalization(nested())
    assert all("batch_normalization" in path for path in fusion.fused)
    assert len(set(fusion.fused)) == 2


class Noisy(Plain):
    def call(self, inputs, training=None, mask=None):
        return super().call(inputs + 1, training=training, mask=mask)


def test_what_is_not_fused_is_said():
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            Noisy(name="custom"),
            layers.BatchNormalization(axis=1, name="first_axis"),
            layers.BatchNormalization(synchronized=True, name="synchronized"),
            layers.BatchNormalization(renorm=True, name="renorm"),
            layers.BatchNormalization(dtype="float64", name="double"),
        ]
    )
    fusion = fuse_batch_normalization(model)
    assert fusion.fused == ()
    assert {path.split("/")[-1]: why for path, why in fusion.skipped.items()} == {
        "custom": "its class Noisy is not Keras's own",
        "first_axis": "its channels are not the last axis",
        "synchronized": "it is synchronized between replicas",
        "renorm": "it renormalizes",
        "double": "it computes in float64",
    }
    assert [type(layer) for layer in normalizations(model)] == [Noisy, *[Plain] * 4]


def test_compiled_functions_are_made_anew():
    _, model = twins(sequential)
    x, y = data(model)
    model.fit(x, y, validation_data=(x, y), verbose=0)
    model.predict(x, verbose=0)
    before = model.train_function, model.test_function, model.predict_function
    accelerate(model)
    after = model.train_function, model.test_function, model.predict_function
    assert all(a is not b for a, b in zip(before, after, strict=True))
    assert _fused_kernels(model, x, y) == 1


def _fused_kernels(model, x, y):
    """Fused kernels in the graph of the training step."""
    import tensorflow as tf

    step = tf.function(lambda: model.train_step((x, y))).get_concrete_function()
    functions = [step.graph, *(f.graph for f in step.graph._functions.values())]
    return sum(
        op.type == "FusedBatchNormV3" for g in functions for op in g.get_operations()
    )


def test_frozen_layers_stay_in_inference():
    plain, fused = twins(sequential)
    accelerate(fused)
    for model in (plain, fused):
        model.layers[1].trainable = False
        model.compile(keras.optimizers.SGD(0.01), "mse")
        model.fit(*data(model), batch_size=8, shuffle=False, verbose=0)
    assert_same_weights(fused, plain)
    np.testing.assert_array_equal(fused.layers[1].moving_mean, np.zeros(16))


def test_a_model_that_is_not_built_yet():
    model = keras.Sequential([layers.Conv2D(16, 3), layers.BatchNormalization()])
    assert fuse_batch_normalization(model).fused == (model.layers[1].name,)
    model.compile("sgd", "mse")
    model.fit(np.ones((8, 10, 10, 3)), np.ones((8, 8, 8, 16)), verbose=0)
    assert model.layers[1].built


@pytest.mark.parametrize("make", MODELS)
def test_saved_models_are_plain_and_train_on(make, tmp_path):
    _, fused = twins(make)
    accelerate(fused)
    x, y = data(fused)
    fused.fit(x, y, batch_size=8, verbose=0)
    fused.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert {type(layer) for layer in normalizations(loaded)} == {Plain}
    assert_same_weights(loaded, fused, 0)
    for model in (fused, loaded):
        model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    assert_same_weights(fused, loaded)


@pytest.mark.parametrize("bad", [None, "model", keras.layers.Dense(1)])
def test_only_models_are_accelerated(bad):
    with pytest.raises(UsageError, match="Only a Keras 3 model") as error:
        accelerate(bad)
    assert "\n" not in str(error.value)


def run(code, *arguments):
    """Runs code in a fresh process; what it prints last is JSON."""
    path = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_process_without_kacc_loads_the_file(tmp_path):
    _, fused = twins(sequential)
    accelerate(fused)
    x, _ = data(fused)
    fused.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", x)
    code = """
        import json, sys, keras, numpy as np
        model = keras.models.load_model(sys.argv[1] + "/model.keras")
        outputs = model.predict(np.load(sys.argv[1] + "/x.npy"), verbose=0)
        kacc = [name for name in sys.modules if name.startswith("kacc")]
        print(json.dumps([kacc, type(model.layers[1]).__module__, outputs.tolist()]))
    """
    kacc, module, outputs = run(code, tmp_path)
    assert (kacc, module.split(".")[0]) == ([], "keras")
    np.testing.assert_allclose(outputs, fused.predict(x, verbose=0), atol=1e-6)


def test_replicas_train_as_plain_ones():
    code = """
        import json, keras, numpy as np, tensorflow as tf
        from kacc.acceleration.fusion import fuse_batch_normalization
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        random = np.random.default_rng(0)
        x = random.normal(1, 2, (32, 8, 8, 16)).astype("float32")
        y = random.normal(size=(32, 3)).astype("float32")
        weights, start = [], None
        for fuse in (False, True):
            strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
            with strategy.scope():
                model = keras.Sequential([
                    keras.Input((8, 8, 16)),
                    keras.layers.Conv2D(16, 3, padding="same", use_bias=False),
                    keras.layers.BatchNormalization(),
                    keras.layers.GlobalAveragePooling2D(),
                    keras.layers.Dense(3)])
                start = start or model.get_weights()
                model.set_weights(start)
                model.compile(keras.optimizers.SGD(0.01), "mse")
            if fuse:
                assert len(fuse_batch_normalization(model).fused) == 1
            model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
            weights.append([w.tolist() for w in model.get_weights()])
        print(json.dumps([strategy.num_replicas_in_sync, start[2].tolist(), weights]))
    """
    replicas, start, (plain, fused) = run(code)
    assert replicas == 2
    for a, b in zip(fused, plain, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert not np.allclose(fused[2], start)
