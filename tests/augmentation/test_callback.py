"""The callback: what a fit sees, and that nothing is left of it."""

import contextlib
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import kacc
from kacc import augmentation as aug
from kacc.callbacks import DataAugmentation

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (24, 8, 8, 3)).astype("float32")
Y = RNG.integers(0, 3, 24)


class Seen(keras.layers.Layer):
    """Keeps the sums of what it is called with in training, one for each image."""

    def __init__(self, **options):
        super().__init__(**options)
        self.sums = []

    def call(self, inputs, training=None):
        if training:
            tf.py_function(
                lambda x: self.sums.append(x.numpy()), [tf.cast(inputs, "float32")], []
            )
        return keras.ops.cast(inputs, "float32") / 255


def model_of(seen=None, **options):
    layers = [keras.Input((8, 8, 3)), *([seen] if seen else [])]
    layers += [keras.layers.Conv2D(4, 3), keras.layers.GlobalAveragePooling2D()]
    model = keras.Sequential([*layers, keras.layers.Dense(3, "softmax")])
    options = {"loss": "sparse_categorical_crossentropy", **options}
    model.compile("sgd", metrics=["accuracy"], **options)
    return model


def fit(model, *callbacks, x=X, y=Y, **options):
    options = {"batch_size": 8, "verbose": 0, "shuffle": False, **options}
    return model.fit(x, y, callbacks=list(callbacks), **options)


def weights(model):
    return [np.asarray(w) for w in model.get_weights()]


def equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_steps_see_changed_images_and_nothing_else_does():
    seen = Seen()
    model = model_of(seen)
    assert "train_step" not in vars(model)
    fit(model, DataAugmentation([aug.Flip(probability=1)]), validation_data=(X, Y))
    np.testing.assert_array_equal(np.concatenate(seen.sums), X[:, :, ::-1])
    assert not {"train_step", "make_train_function", "compute_loss"} & set(vars(model))
    seen.sums.clear()
    fit(model)
    np.testing.assert_array_equal(np.concatenate(seen.sums), X)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"run_eagerly": True},
        {"jit_compile": True},
        {"steps_per_execution": 3},
    ],
)
def test_ways_to_run_a_step_give_the_same(options):
    """The same images reach the step, so that the same weights come out."""
    policy = aug.Policy([aug.Flip(), aug.Rotation(20), aug.RandomCrop(2)], seed=3)
    keras.utils.set_random_seed(1)
    first = model_of()
    keras.utils.set_random_seed(1)
    other = model_of(**options)
    for model in (first, other):
        fit(model, DataAugmentation(policy), epochs=2)
    for a, b in zip(weights(first), weights(other), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4 * np.abs(a).max())
    keras.utils.set_random_seed(1)
    plain = model_of()
    fit(plain, epochs=2)
    assert not equal(weights(plain), weights(first))


def test_each_step_and_epoch_is_new_and_a_resumed_fit_goes_on():
    policy = aug.Policy([aug.Rotation(40)])
    seen, other = Seen(), Seen()
    fit(model_of(seen), DataAugmentation(policy), epochs=2)
    whole = np.concatenate(seen.sums)
    assert not np.array_equal(whole[:24], whole[24:])
    model = model_of(other)
    fit(model, DataAugmentation(policy))
    fit(model, DataAugmentation(policy), epochs=2, initial_epoch=1)
    np.testing.assert_array_equal(np.concatenate(other.sums), whole)


def test_after_an_error_the_next_fit_is_plain():
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    seen = Seen()
    model = model_of(seen)
    policy = [aug.Flip(probability=1)]
    with pytest.raises(KeyboardInterrupt):
        fit(model, DataAugmentation(policy), Stop())
    seen.sums.clear()
    fit(model)
    np.testing.assert_array_equal(np.concatenate(seen.sums), X)
    assert not {"train_step", "make_train_function"} & set(vars(model))
    with pytest.raises(KeyboardInterrupt):
        fit(model, DataAugmentation(policy), Stop())
    seen.sums.clear()
    fit(model, DataAugmentation(policy))
    np.testing.assert_array_equal(np.concatenate(seen.sums), X[:, :, ::-1])


def test_evaluate_with_the_callback_leaves_nothing():
    model = model_of()
    model.evaluate(X, Y, verbose=0, callbacks=[DataAugmentation("light")])
    assert "train_step" not in vars(model)


def test_two_in_one_fit_are_refused():
    model = model_of()
    with pytest.raises(kacc.UsageError, match="one policy"):
        fit(model, DataAugmentation("light"), DataAugmentation("light"))


def test_uint8_images_stay_so():
    seen = Seen()
    x = X.astype("uint8")
    data = tf.data.Dataset.from_tensor_slices((x, Y)).batch(8)
    model = model_of(seen)
    model.fit(data, verbose=0, callbacks=[DataAugmentation("randaugment")])
    values = np.concatenate(seen.sums)
    assert not np.array_equal(values, x)
    np.testing.assert_array_equal(values, np.round(values))


def test_a_model_with_several_inputs():
    inputs = {"a": keras.Input((8, 8, 3), name="a"), "b": keras.Input((2,), name="b")}
    seen = Seen()
    pooled = keras.layers.GlobalAveragePooling2D()(seen(inputs["a"]))
    joined = keras.layers.Concatenate()([pooled, inputs["b"]])
    model = keras.Model(inputs, keras.layers.Dense(3, "softmax")(joined))
    model.compile("sgd", "sparse_categorical_crossentropy")
    flip = [aug.Flip(probability=1)]
    data = {"a": X, "b": np.ones((24, 2), "float32")}
    for key in (None, "a"):
        seen.sums.clear()
        fit(model, DataAugmentation(flip, key=key), x=data)
        np.testing.assert_array_equal(np.concatenate(seen.sums), X[:, :, ::-1])
    with pytest.raises(kacc.UsageError, match="Pass `key` as one of"):
        fit(model, DataAugmentation(flip, key="c"), x=data)


class Detector(keras.Model):
    """Keeps the inputs and labels of its steps."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)
        self.data = []

    def call(self, x):
        return self.dense(x)

    def train_step(self, data):
        self.data.append(keras.tree.map_structure(np.asarray, data))
        return {"loss": tf.zeros(())}


@pytest.mark.parametrize("form", ["dictionary", "labels"])
def test_boxes_and_masks_move_with_the_images(form):
    boxes = np.tile(np.array([[[1, 2, 4, 3]]], "float32"), (24, 1, 1))
    boxes = {"boxes": boxes, "labels": np.ones((24, 1), "int32")}
    data = {"images": X, "bounding_boxes": boxes, "segmentation_masks": X[..., :1]}
    data = data if form == "dictionary" else (X, boxes)
    model = Detector()
    model.compile("sgd", run_eagerly=True)
    flip = [aug.Flip(probability=1)]
    fit(
        model,
        DataAugmentation(flip, bounding_box_format="xyxy"),
        x=tf.data.Dataset.from_tensor_slices(data).batch(24),
        y=None,
        batch_size=None,
    )
    (seen,) = model.data
    if form == "dictionary":
        mask = seen["segmentation_masks"]
        np.testing.assert_array_equal(mask, X[:, :, ::-1, :1])
        seen = seen["images"], seen["bounding_boxes"]
    np.testing.assert_array_equal(seen[0], X[:, :, ::-1])
    np.testing.assert_array_equal(seen[1]["boxes"][:, 0], [[4, 2, 7, 3]] * 24)


def test_a_segmentation_learns_masks_that_moved():
    """Classes are the colours of pixels, so that each pixel has its right label."""
    y = RNG.integers(0, 3, (24, 8, 8))
    x = np.eye(3, dtype="float32")[y]
    losses = []
    for policy in ([aug.Flip(probability=1)], None):
        keras.utils.set_random_seed(1)
        layers = [keras.Input((8, 8, 3)), keras.layers.Conv2D(3, 1)]
        model = keras.Sequential([*layers, keras.layers.Softmax()])
        model.compile("sgd", "sparse_categorical_crossentropy")
        callbacks = [DataAugmentation(policy)] if policy else []
        losses.append(fit(model, *callbacks, x=x, y=y).history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-5)


class Own(keras.Model):
    """A step of one's own, that asks for the loss as Keras's does, or does not."""

    def __init__(self, asks=True):
        super().__init__()
        self.dense = keras.layers.Dense(3, "softmax")
        self.asks = asks
        self.xs = []

    def call(self, x):
        return self.dense(keras.ops.mean(x, (1, 2)))

    def train_step(self, data):
        x, y = data
        tf.py_function(lambda x: self.xs.append(x.numpy()), [x], [])
        with tf.GradientTape() as tape:
            predicted = self(x, training=True)
            if self.asks:
                loss = self.compute_loss(x, y, predicted)
            else:
                losses = keras.losses.sparse_categorical_crossentropy(y, predicted)
                loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


def test_a_train_step_of_ones_own():
    model = Own()
    model.compile("sgd", "sparse_categorical_crossentropy")
    fit(model, DataAugmentation([aug.Flip(probability=1)]))
    np.testing.assert_array_equal(np.concatenate(model.xs), X[:, :, ::-1])


@pytest.mark.sampled(3)
@pytest.mark.parametrize("transform", [aug.MixUp(1.0), aug.CutMix(1.0)])
@pytest.mark.parametrize("weighted", [False, True])
def test_numbers_of_classes_are_mixed_like_one_hot_labels(transform, weighted):
    """In the loss; the weights after training are the same."""
    # Equal ones: one-hot labels have weights of their own mixed, a little different.
    sample_weight = np.full(24, 2.0, "float32") if weighted else None
    results = []
    for loss, y in (
        ("sparse_categorical_crossentropy", Y),
        ("categorical_crossentropy", np.eye(3, dtype="float32")[Y]),
    ):
        keras.utils.set_random_seed(1)
        model = model_of(loss=loss)
        kernel = next(layer.kernel for layer in model.layers if layer.weights)
        kernel.regularizer = keras.regularizers.L2(0.1)
        assert model.losses
        options = {"sample_weight": sample_weight} if weighted else {}
        fit(model, DataAugmentation([transform]), y=y, x=X / 255, epochs=2, **options)
        results.append(weights(model))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_losses_of_several_outputs_are_those_of_one_hot_labels():
    inputs = keras.Input((8, 8, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    histories = []
    for name, y in (
        ("sparse_categorical_crossentropy", Y),
        ("categorical_crossentropy", np.eye(3, dtype="float32")[Y]),
    ):
        keras.utils.set_random_seed(1)
        heads = [keras.layers.Dense(3, "softmax", name=n)(pooled) for n in "ab"]
        model = keras.Model(inputs, heads)
        model.compile("sgd", [name, name])
        mixing = DataAugmentation([aug.MixUp(1.0)])
        histories.append(fit(model, mixing, x=X / 255, y=[y, y]).history)
    assert set(histories[0]) >= {"loss", "a_loss", "b_loss"}
    for key, values in histories[0].items():
        np.testing.assert_allclose(values, histories[1][key], rtol=1e-5)


@pytest.mark.parametrize(
    ("technique", "first"), [("distillation", True), ("regularization", False)]
)
def test_mixed_labels_go_with_what_others_add_to_the_loss(technique, first):
    """Whatever stands first; the weights are those of mixed one-hot labels."""
    results = []
    for loss, y in (
        ("sparse_categorical_crossentropy", Y),
        ("categorical_crossentropy", np.eye(3, dtype="float32")[Y]),
    ):
        keras.utils.set_random_seed(1)
        model, teacher = model_of(loss=loss), model_of()
        mixing = DataAugmentation([aug.MixUp(1.0)])
        other = (
            kacc.callbacks.Distillation(teacher)
            if technique == "distillation"
            else kacc.callbacks.Regularization(l2=0.1)
        )
        callbacks = [mixing, other] if first else [other, mixing]
        fit(model, *callbacks, x=X / 255, y=y)
        assert not {"compute_loss", "train_step"} & set(vars(model))
        results.append(weights(model))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_classes_are_mixed_only_where_the_loss_is_asked_for():
    mixing = DataAugmentation([aug.MixUp(1.0)])
    for asks in (True, False):
        model = Own(asks)
        model.compile("sgd", "sparse_categorical_crossentropy")
        if asks:
            fit(model, mixing)
            continue
        with pytest.raises(kacc.UsageError, match="one-hot"):
            fit(model, mixing)


def test_with_the_other_callbacks(tmp_path):
    qat = kacc.callbacks.QuantizationAwareTraining("int8", start_epoch=1)
    pruning = kacc.callbacks.Pruning(0.5, keep_ends=False)
    for order in (1, -1):
        model = model_of()
        ours = DataAugmentation([aug.Flip(probability=1)])
        fit(model, *[qat, pruning, ours][::order], epochs=3)
        assert kacc.pruning.sparsity(model) == pytest.approx(0.5, abs=0.05)
        path = tmp_path / "model.keras"
        model.save(path)
        loaded = keras.models.load_model(path)
        np.testing.assert_array_equal(
            model.predict(X, verbose=0), loaded.predict(X, verbose=0)
        )
    channels = kacc.callbacks.ChannelPruning(macs=0.5, end_step=4, frequency=2)
    fit(model_of(), channels, DataAugmentation("light"))


def test_a_model_saved_during_the_fit_is_a_plain_one(tmp_path):
    path = tmp_path / "best.keras"
    model = model_of()
    saving = keras.callbacks.ModelCheckpoint(path)
    mixing = DataAugmentation([aug.Flip(), aug.MixUp()])
    fit(model, mixing, saving)
    loaded = keras.models.load_model(path)
    assert equal(weights(model), weights(loaded))
    assert "ugmentation" not in json.dumps(loaded.get_config())
    fit(loaded)


def test_a_fit_that_was_killed_resumes_with_the_same_images(tmp_path):
    policy = [aug.Rotation(30)]

    def run(folder, stop_at=None):
        keras.utils.set_random_seed(2)
        seen = Seen()
        model = model_of(seen)
        backup = keras.callbacks.BackupAndRestore(tmp_path / folder)
        stop = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: (
                (_ for _ in ()).throw(RuntimeError("killed"))
                if epoch == stop_at
                else None
            )
        )
        with contextlib.suppress(RuntimeError):
            fit(model, DataAugmentation(policy), backup, stop, epochs=3)
        return model, np.concatenate(seen.sums)

    whole, images = run("whole")
    _, first = run("parts", stop_at=1)
    resumed, rest = run("parts")
    np.testing.assert_array_equal(np.concatenate([first, rest]), images)
    for a, b in zip(weights(whole), weights(resumed), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


REPLICAS = """
import os
import numpy as np, keras, tensorflow as tf, kacc
from kacc import augmentation as aug
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2
)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
seen = []

class Seen(keras.layers.Layer):
    def call(self, x, training=None):
        if training:
            tf.print(tf.reduce_sum(tf.abs(x[0] - x[1])), output_stream="file://" + PATH)
        return x

with strategy.scope():
    layers = [keras.Input((8, 8, 3)), Seen(), keras.layers.GlobalAveragePooling2D()]
    model = keras.Sequential([*layers, keras.layers.Dense(3, "softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
image = np.random.default_rng(0).uniform(size=(1, 8, 8, 3)).astype("float32")
x, y = np.repeat(image, 8, 0), np.zeros(8, "int32")
policy = [aug.Translation(0.4), aug.MixUp()]
for _ in range(2):
    model.fit(x, y, batch_size=4, epochs=2, verbose=0,
              callbacks=[kacc.callbacks.DataAugmentation(policy)])
print("iterations", int(model.optimizer.iterations.numpy()))
"""


def test_replicas_of_a_strategy_draw_their_own(tmp_path):
    path = tmp_path / "seen"
    code = REPLICAS.replace("PATH", repr(str(path)))
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr[-2000:]
    assert "iterations 8" in process.stdout
    # Of the same image; in each of 8 steps on 2 replicas.
    differences = [float(line) for line in path.read_text().split()]
    assert len(set(differences)) == len(differences) == 16


def test_wrong_policies_are_refused():
    for policy, text in (
        ([aug.Rescale(1 / 255)], "keras.layers.Rescaling"),
        ("unknown", "`name` must be one of"),
        (None, "A policy must be"),
    ):
        with pytest.raises(kacc.UsageError, match=text):
            DataAugmentation(policy)
    with pytest.raises(kacc.UsageError, match="value_range="):
        fit(model_of(), DataAugmentation("strong"))
    fit(model_of(), DataAugmentation("strong", value_range=(0, 255)))
