"""What stays in float, each with the reason that `kacc.quantize` reports."""

from __future__ import annotations

from collections.abc import Iterable

import keras

# Private: see kacc/support/activation.py.
from keras.src.ops import nn, numpy

from kacc.core.registry import LayerSpec, Weight

layers = keras.layers

_VOLUMES = "LiteRT has no integer convolutions and poolings in three dimensions"
_RECURRENT = "recurrent layers are not quantized yet"
_ATTENTION = "attention is not quantized yet: its products of two tensors stay in float"
_WRAPPED = "kacc does not look into this wrapper yet"
_ENCODING = "it encodes data, which is no arithmetic on a grid"
_FOREIGN = "what it computes is not known to Keras"
_IMAGES = "LiteRT has no integer operators for it"
_SPECTRA = "LiteRT has no integer Fourier transform"
_MASKED = "it compares all values of a step with a number, also at inference"
_LABELS = "it takes labels or boxes together with images"


def _reported(reason: str, *types: type) -> Iterable[LayerSpec]:
    return [LayerSpec(cls, supported=lambda layer: reason) for cls in types]


SPECS = [
    *_reported(
        _VOLUMES,
        layers.Conv3D,
        layers.Conv3DTranspose,
        layers.MaxPooling3D,
        layers.AveragePooling3D,
        layers.AdaptiveMaxPooling3D,
        layers.AdaptiveAveragePooling3D,
    ),
    *_reported(
        "its windows are of different sizes, which LiteRT's pooling lacks",
        layers.AdaptiveMaxPooling1D,
        layers.AdaptiveMaxPooling2D,
        layers.AdaptiveAveragePooling1D,
        layers.AdaptiveAveragePooling2D,
    ),
    *_reported(
        _RECURRENT,
        layers.RNN,
        layers.LSTM,
        layers.GRU,
        layers.SimpleRNN,
        layers.LSTMCell,
        layers.GRUCell,
        layers.SimpleRNNCell,
        layers.StackedRNNCells,
        layers.Bidirectional,
        layers.ConvLSTM1D,
        layers.ConvLSTM2D,
        layers.ConvLSTM3D,
    ),
    *_reported(
        _ATTENTION,
        layers.Attention,
        layers.AdditiveAttention,
        layers.MultiHeadAttention,
        layers.GroupQueryAttention,
        layers.Dot,
    ),
    *_reported(
        _WRAPPED, layers.TimeDistributed, layers.SpectralNormalization, layers.Pipeline
    ),
    *_reported(
        _ENCODING,
        layers.CategoryEncoding,
        layers.Discretization,
        layers.Hashing,
        layers.HashedCrossing,
        layers.IntegerLookup,
        layers.StringLookup,
        layers.TextVectorization,
    ),
    *_reported(
        _FOREIGN,
        layers.Lambda,
        layers.TFSMLayer,
        layers.JaxLayer,
        layers.FlaxLayer,
        layers.TorchModuleWrapper,
    ),
    *_reported(_SPECTRA, layers.STFTSpectrogram, layers.MelSpectrogram),
    *_reported(
        _IMAGES,
        layers.AutoContrast,
        layers.ContrastLimitedAdaptiveHistogramEqualization,
        layers.Equalization,
    ),
    *_reported(_LABELS, layers.MixUp, layers.CutMix, layers.MaxNumBoundingBoxes),
    *_reported(_MASKED, layers.Masking),
    *_reported(
        "at inference it gives images of another size than Keras says",
        layers.RandomCrop,
    ),
    *_reported(
        "its statistics go over groups of channels, which takes five dimensions",
        layers.GroupNormalization,
    ),
    *_reported(
        "a square root of a sum of squares has too wide a range for 8 bits",
        layers.UnitNormalization,
    ),
    *_reported(
        "LiteRT's reference kernels lack it for integers",
        numpy.Tile,
        numpy.BroadcastTo,
        nn.DepthToSpace,
    ),
    *_reported(
        "the product of two tensors stays in float",
        numpy.Matmul,
        numpy.Einsum,
        numpy.Dot,
        numpy.Tensordot,
        numpy.Inner,
    ),
    *_reported(
        "the reference kernels of LOG_SOFTMAX are not known to kacc", nn.LogSoftmax
    ),
    LayerSpec(
        layers.ReversibleEmbedding,
        # Both directions are calls of the layer: they see one table.
        tables=(Weight("embeddings"), Weight("reverse_embeddings")),
        supported=lambda layer: "its weight is used as a table and as a kernel",
    ),
]
