"""Every layer that Keras exports is quantized, or reported with a reason."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers

import kacc
from kacc.core import attach, registry
from kacc.quantization import calibrate
from kacc.support import floats

# Of these come other layers; by themselves they compute nothing.
BASES = {layers.Layer, layers.Wrapper, layers.InputLayer}

LAYERS = {
    cls
    for cls in vars(layers).values()
    if isinstance(cls, type) and issubclass(cls, layers.Layer)
}

IMAGE, SEQUENCE, VOLUME = (8, 8, 3), (6, 4), (5, 5, 5, 2)


def attended(layer):
    return lambda x: layer([x, x])


# Layers in float that a model of floats can have: the input's shape, and a call.
IN_FLOAT = {
    "Conv3D": (VOLUME, lambda: layers.Conv3D(2, 2)),
    "Conv3DTranspose": (VOLUME, lambda: layers.Conv3DTranspose(2, 2)),
    "MaxPooling3D": (VOLUME, layers.MaxPooling3D),
    "AveragePooling3D": (VOLUME, lambda: layers.AveragePooling3D(2)),
    "AdaptiveMaxPooling1D": (SEQUENCE, lambda: layers.AdaptiveMaxPooling1D(4)),
    "AdaptiveMaxPooling2D": (IMAGE, lambda: layers.AdaptiveMaxPooling2D(3)),
    "AdaptiveMaxPooling3D": (VOLUME, lambda: layers.AdaptiveMaxPooling3D(2)),
    "AdaptiveAveragePooling1D": (SEQUENCE, lambda: layers.AdaptiveAveragePooling1D(4)),
    "AdaptiveAveragePooling2D": (IMAGE, lambda: layers.AdaptiveAveragePooling2D(3)),
    "AdaptiveAveragePooling3D": (VOLUME, lambda: layers.AdaptiveAveragePooling3D(2)),
    "RNN": (SEQUENCE, lambda: layers.RNN(layers.SimpleRNNCell(3))),
    "LSTM": (SEQUENCE, lambda: layers.LSTM(3)),
    "GRU": (SEQUENCE, lambda: layers.GRU(3, return_sequences=True)),
    "SimpleRNN": (SEQUENCE, lambda: layers.SimpleRNN(3)),
    "Bidirectional": (SEQUENCE, lambda: layers.Bidirectional(layers.LSTM(3))),
    "ConvLSTM1D": ((3, 6, 2), lambda: layers.ConvLSTM1D(2, 3)),
    "ConvLSTM2D": ((3, 6, 6, 2), lambda: layers.ConvLSTM2D(2, 3)),
    "ConvLSTM3D": ((2, 4, 4, 4, 1), lambda: layers.ConvLSTM3D(2, 3)),
    "Attention": (SEQUENCE, lambda: attended(layers.Attention(name="layer"))),
    "AdditiveAttention": (
        SEQUENCE,
        lambda: attended(layers.AdditiveAttention(name="layer")),
    ),
    "MultiHeadAttention": (
        SEQUENCE,
        lambda: lambda x: layers.MultiHeadAttention(2, 3, name="layer")(x, x),
    ),
    "GroupedQueryAttention": (
        SEQUENCE,
        lambda: lambda x: layers.GroupQueryAttention(2, 2, 1, name="layer")(x, x),
    ),
    "Dot": (SEQUENCE, lambda: attended(layers.Dot(axes=2, name="layer"))),
    "TimeDistributed": (SEQUENCE, lambda: layers.TimeDistributed(layers.Dense(3))),
    "SpectralNormalization": (
        SEQUENCE,
        lambda: layers.SpectralNormalization(layers.Dense(3)),
    ),
    "Pipeline": (IMAGE, lambda: layers.Pipeline([layers.Rescaling(0.5)])),
    "Lambda": (IMAGE, lambda: layers.Lambda(lambda x: x * 2.0)),
    "STFTSpectrogram": ((64, 1), lambda: layers.STFTSpectrogram(frame_length=16)),
    "MelSpectrogram": (
        (64,),
        lambda: layers.MelSpectrogram(
            fft_length=16, sequence_stride=8, num_mel_bins=4, max_freq=8000
        ),
    ),
    "AutoContrast": (IMAGE, layers.AutoContrast),
    "ContrastLimitedAdaptiveHistogramEqualization": (
        IMAGE,
        layers.ContrastLimitedAdaptiveHistogramEqualization,
    ),
    "MixUp": (IMAGE, layers.MixUp),
    "CutMix": (IMAGE, layers.CutMix),
    "MaxNumBoundingBoxes": (IMAGE, lambda: layers.MaxNumBoundingBoxes(3)),
    "Masking": (SEQUENCE, layers.Masking),
    "RandomCrop": (IMAGE, lambda: layers.RandomCrop(8, 8)),
    "GroupNormalization": (IMAGE, lambda: layers.GroupNormalization(3)),
    "UnitNormalization": (IMAGE, layers.UnitNormalization),
}

# Those that read other data, hold another framework's code, are parts of a layer, or
# whose output Keras cannot tell from the input.
WITHOUT_MODEL = {
    "CategoryEncoding",
    "Discretization",
    "Equalization",
    "FlaxLayer",
    "GRUCell",
    "HashedCrossing",
    "Hashing",
    "IntegerLookup",
    "JaxLayer",
    "LSTMCell",
    "ReversibleEmbedding",
    "SimpleRNNCell",
    "StackedRNNCells",
    "StringLookup",
    "TFSMLayer",
    "TextVectorization",
    "TorchModuleWrapper",
}


def test_every_layer_has_a_row():
    known = {spec.type for spec in registry.registered()}
    assert {cls.__name__ for cls in LAYERS - known - BASES} == set()


def test_every_layer_in_float_is_tried_or_cannot_be():
    in_float = {s.type.__name__ for s in floats.SPECS if s.type in LAYERS}
    assert in_float == IN_FLOAT.keys() | WITHOUT_MODEL
    assert not IN_FLOAT.keys() & WITHOUT_MODEL


def named(layer):
    """The layer, called "layer", as the report names it."""
    if isinstance(layer, layers.Layer):
        layer.name = "layer"
    return layer


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", IN_FLOAT)
def test_a_layer_in_float_is_reported_and_computes_what_it_did(name):
    shape, make = IN_FLOAT[name]
    keras.utils.set_random_seed(4)
    x = keras.Input(shape)
    before = layers.Dense(shape[-1], name="before")(x)
    after = named(make())(before)
    model = keras.Model(x, [before, after])
    with pytest.warns(UserWarning, match="kacc leaves in float") as caught:
        kacc.quantize(model)
    layer = model.get_layer("layer")
    reason = registry.find(layer).supported(layer)
    assert any(f"layer ({reason})" in str(w.message) for w in caught)
    assert "layer" not in [o.name for o in attach.attached(model)]

    data = np.random.default_rng(5).normal(size=(8, *shape)).astype("float32")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        calibrate(model, [data])
    read, made = model.predict(data, verbose=0)
    part = keras.Model(before, after)
    np.testing.assert_allclose(part.predict(read, verbose=0), made, 1e-4, 1e-5)
    assert 20 < len(np.unique(read)) <= 256
