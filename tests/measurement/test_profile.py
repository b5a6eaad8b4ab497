"""Profiles name what a step waits for."""

import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import kacc
from kacc.core.errors import UsageError
from kacc.measurement import profile

layers = keras.layers


def model_of(*parts, optimizer="sgd", shape=(16, 16, 8), **options):
    model = keras.Sequential([keras.Input(shape), *parts])
    model.compile(optimizer, "mse", **options)
    return model


def data_of(model, size=32):
    x = np.ones((size, *model.input_shape[1:]), "float32")
    return x, np.zeros((size, *model.output_shape[1:]), "float32")


def convolutional():
    return model_of(
        layers.Conv2D(32, 5, padding="same", name="large"),
        layers.BatchNormalization(name="bn"),
        layers.Conv2D(4, 1, name="small"),
        layers.GlobalAveragePooling2D(),
    )


def test_the_slow_layer_is_named():
    model = model_of(
        layers.Conv2D(32, 9, padding="same", name="large"),
        layers.Conv2D(2, 1, name="small"),
        layers.GlobalAveragePooling2D(),
    )
    before = model.get_weights()
    # On a busy machine both wait for others, so only the order is sure.
    result = profile(model, data_of(model), steps=10)
    assert result.bottleneck.endswith("large")
    assert "large" in result.advice
    parts = {part.name.split("/")[-1]: part for part in result.parts}
    assert parts["large"].kind == "Conv2D"
    assert parts["large"].backward_ms > 0
    assert parts["large"].share > parts["small"].share
    assert sum(part.share for part in result.parts) == pytest.approx(1)
    total = sum(p.forward_ms + p.backward_ms for p in result.parts)
    waits = parts["input pipeline"].forward_ms
    assert total - waits == pytest.approx(result.operations_ms)
    assert 0 < result.operations_ms < 20 * result.step_ms
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert "call" not in vars(model.get_layer("large"))
    assert "apply" not in vars(model.optimizer)


@pytest.mark.parametrize("batches", [32, 2])
def test_the_slow_pipeline_is_named(batches):
    """One that ends before enough batches were timed begins again."""
    model = model_of(layers.GlobalAveragePooling2D())
    x, y = data_of(model, 8 * batches)

    def slow(a, b):
        def wait(v):
            time.sleep(0.05)
            return v

        kept = tf.numpy_function(wait, [a], tf.float32)
        return tf.ensure_shape(kept, a.shape), b

    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8).map(slow)
    result = profile(model, data, steps=3)
    assert result.bottleneck == "input pipeline"
    assert "prefetch" in result.advice
    assert result.batch_ms >= 50


def test_the_optimizer_is_named():
    model = model_of(
        layers.Dense(1500, name="wide"),
        layers.Dense(1500),
        optimizer="adam",
        shape=(1500,),
    )
    result = profile(model, data_of(model, 1), batch_size=1, steps=3)
    assert result.bottleneck == "optimizer"
    assert "choose_optimizer" in result.advice


def test_unfused_normalizations_are_named():
    model = convolutional()
    assert "kacc.accelerate" in profile(model, data_of(model), steps=3).advice
    kacc.accelerate(model)
    result = profile(model, data_of(model), steps=3)
    assert "fuses" not in result.advice
    assert {part.kind for part in result.parts} >= {"BatchNormalization", "Conv2D"}


@pytest.mark.parametrize(
    "treatment",
    [
        kacc.quantize,
        kacc.acceleration.rematerialize,
        kacc.acceleration.mixed_precision,
        kacc.acceleration.compile_step,
    ],
)
def test_models_that_were_changed(treatment):
    model = convolutional()
    treatment(model)
    jit, calls = model.jit_compile, [vars(x).get("call") for x in model.layers]
    result = profile(model, data_of(model), steps=2)
    names = {part.name.split("/")[-1] for part in result.parts}
    assert {"large", "bn", "small", "optimizer"} <= names
    assert model.jit_compile == jit
    assert [vars(x).get("call") for x in model.layers] == calls
    model.fit(*data_of(model), verbose=0)


class Block(layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.inner = layers.Dense(8, name="inner")

    def call(self, x):
        return self.inner(x) * keras.ops.exp(x)


def test_layers_made_of_others():
    """Those of Keras are one part; those of one's own say what they have alone."""
    inputs = keras.Input((16, 8))
    attention = layers.MultiHeadAttention(2, 8, dropout=0.1, name="attention")
    x = Block(name="block")(attention(inputs, inputs))
    model = keras.Model(inputs, x)
    model.compile("sgd", "mse")
    result = profile(model, data_of(model), steps=2)
    kinds = {part.name.split("/")[-1]: part.kind for part in result.parts if part.kind}
    named = {n: k for n, k in kinds.items() if n in ("attention", "block", "inner")}
    assert named == {
        "attention": "MultiHeadAttention",
        "block": "Block (own operations)",
        "inner": "Dense",
    }
    assert not {"EinsumDense", "Softmax", "Dropout"} & set(kinds.values())
    assert (
        next(p for p in result.parts if p.kind == "MultiHeadAttention").backward_ms > 0
    )


def test_a_profile_is_printed():
    model = convolutional()
    text = str(profile(model, data_of(model), steps=2))
    assert "bottleneck" in text
    assert "By kind: " in text
    assert "large" in text


def test_wrong_calls():
    model = convolutional()
    with pytest.raises(UsageError, match=r"tf\.data\.Dataset"):
        profile(model, 3)
    with pytest.raises(UsageError, match="`steps`"):
        profile(model, data_of(model), steps=0)
    model.compile("sgd", "mse", run_eagerly=True)
    with pytest.raises(UsageError, match="eagerly"):
        profile(model, data_of(model))
    with pytest.raises(UsageError, match="built and compiled"):
        profile(keras.Sequential([layers.Dense(1)]), (np.ones(1), np.ones(1)))
