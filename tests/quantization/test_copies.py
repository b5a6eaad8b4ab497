"""Quantized copies: the plain model stays as it is, the copy equals its file."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import kacc
from kacc.converters.convert import convert
from kacc.converters.parity import parity
from kacc.core import attach
from kacc.core.errors import UsageError
from kacc.core.transform import SPARSIFY, Transform
from kacc.quantization import calibrate, scheme_of, simulate, unseen_ranges
from kacc.quantization.copies import double, quantized_copy, set_weight
from tests.core import models


def state_of(model):
    """Everything that a copy could have changed, by identity where it can be."""
    found = []
    for layer in model._flatten_layers():
        for part in (layer, *getattr(layer, "operations", ())):
            nodes = len(part._inbound_nodes), len(part._outbound_nodes)
            values = {name: id(value) for name, value in vars(part).items()}
            found.append((id(part), type(part), nodes, values))
            if isinstance(part, keras.Layer):
                found.append([id(v) for v in (*part.variables, *part._layers)])
    return found


@pytest.mark.sampled(3)
@pytest.mark.parametrize("build", models.MODELS, ids=lambda b: b.__name__)
def test_the_copy_equals_its_file_and_the_model_is_untouched(build, tmp_path):
    model, x = build(), models.inputs_for(build(), 32)
    model.compile("adam", "mse")
    model.predict(x, verbose=0)
    before, weights = state_of(model), models.variables(model)
    optimizer = [v.numpy() for v in model.optimizer.variables]
    copy = quantized_copy(model)
    calibrate(copy, [x])
    artifact = convert(copy, tmp_path / "m.tflite", "tflite-int8")
    found = parity(copy, artifact, x)
    assert found.equal == 1
    assert found.first_difference is None
    assert scheme_of(copy) == "int8"
    assert scheme_of(model) is None
    assert not attach.is_attached(model)
    assert state_of(model) == before
    assert [v.numpy() for v in model.optimizer.variables] == optimizer
    for path, value in models.variables(model).items():
        np.testing.assert_array_equal(value, weights[path])


def test_operators_in_a_call_keep_their_ranges():
    """They live for one call of the model, but as long as the copy."""
    model = models.subclassed()
    attached = kacc.quantize(models.subclassed())
    copy = quantized_copy(model)
    assert len(unseen_ranges(copy)) == len(unseen_ranges(attached))
    assert [n for n in unseen_ranges(copy) if "add" in n or "relu" in n]
    assert not [n for n in unseen_ranges(attached) if "add" in n or "relu" in n]


def test_random_state_and_losses_are_untouched():
    keras.utils.set_random_seed(5)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(4, kernel_regularizer="l2", activity_regularizer="l1"),
            layers.Dropout(0.5),
            layers.Dense(2),
        ]
    )
    seeds = [s.state.numpy().tolist() for s in model.layers[1]._seed_generators]
    state = tf.random.get_global_generator().state.numpy().tolist()
    losses = len(model.losses)
    copy = quantized_copy(model)
    calibrate(copy, [models.vectors()])
    copy(models.vectors())
    simulate(copy).predict(models.vectors(), verbose=0)
    assert len(model.losses) == losses
    generators = model.layers[1]._seed_generators
    assert [s.state.numpy().tolist() for s in generators] == seeds
    assert tf.random.get_global_generator().state.numpy().tolist() == state


def test_the_copy_follows_the_weights_of_the_model():
    model, x = models.sequential(), models.images()
    copy = quantized_copy(model)
    calibrate(copy, [x])
    before = np.asarray(copy(x))
    model.get_layer("head").bias.assign([5.0, 0.0, 0.0])
    assert np.abs(np.asarray(copy(x)) - before).max() > 0.3


class Halved(Transform):
    """A transform that stands for a mask."""

    stage = SPARSIFY

    def weight(self, attribute, value):
        return value * 0.5


def test_what_is_attached_is_made_permanent():
    """A model that was pruned without quantization is plain to the converter."""
    model, x = models.small(), models.vectors()
    hidden = model.get_layer("hidden")
    transform = Halved()
    attach.attach(hidden, [transform], owner=model)
    copy = quantized_copy(model)
    twin = next(o for o in copy.operations if o.name == "hidden")
    np.testing.assert_array_equal(twin.kernel.numpy(), hidden.kernel.numpy() * 0.5)
    assert attach.transforms_of(hidden) == (transform,)
    calibrate(copy, [x])
    want = np.asarray(model(x))
    np.testing.assert_allclose(np.asarray(copy(x)), want, atol=0.1)


def test_a_double_may_have_weights_of_its_own():
    layer = layers.Dense(2)
    layer.build((None, 3))
    before = layer.kernel.numpy()
    twin = double(layer)
    assert twin.kernel is layer.kernel
    set_weight(twin, "kernel", np.ones((3, 2), "float32"))
    assert twin(np.ones((1, 3))).numpy().tolist() == [[3.0, 3.0]]
    assert twin.bias is layer.bias
    np.testing.assert_array_equal(layer.kernel.numpy(), before)


def test_half_precision_models(tmp_path):
    """The file computes in float32 and integers; so does calibration."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, activation="relu", dtype="mixed_bfloat16"),
            layers.Flatten(dtype="mixed_bfloat16"),
            layers.Dense(2, dtype="mixed_bfloat16"),
        ]
    )
    x = models.images(32)
    artifact = convert(model, tmp_path / "m.tflite", "tflite-int8", x, backend="kacc")
    assert [layer.dtype_policy.name for layer in model.layers] == ["mixed_bfloat16"] * 3
    want = np.asarray(tf.cast(model(x), "float32"))
    np.testing.assert_allclose(artifact.predict(x), want, atol=0.1)


def test_rules_and_their_errors():
    model = models.small()
    copy = quantized_copy(model, rules=[kacc.Rule("head", skip=True)])
    assert unseen_ranges(copy) == ["hidden:input_0", "hidden:output"]
    with pytest.raises(UsageError, match=r"A rule must match.*'heads'"):
        quantized_copy(model, rules=[kacc.Rule("heads", skip=True)])
    with pytest.raises(UsageError, match="must have a layer that kacc can quantize"):
        quantized_copy(keras.Sequential([keras.Input((3,)), layers.ReLU()]))
    with pytest.raises(UsageError, match="must be built"):
        quantized_copy(keras.Sequential([layers.Dense(2)]))
