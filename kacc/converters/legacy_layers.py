"""Layers of tf_keras made anew in Keras 3: classes, settings, weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from kacc.converters import tfmot
from kacc.core.activations import legacy_hard_sigmoid

# Layers that both packages have and that compute the same; a test goes through them.
CLASSES = frozenset(
    (
        *("Activation", "ActivityRegularization", "Add", "AdditiveAttention"),
        *("AlphaDropout", "Attention", "Average", "AveragePooling1D"),
        *("AveragePooling2D", "AveragePooling3D", "BatchNormalization"),
        *("Bidirectional", "CategoryEncoding", "CenterCrop", "Concatenate", "Conv1D"),
        *("Conv1DTranspose", "Conv2D", "Conv2DTranspose", "Conv3D"),
        *("Conv3DTranspose", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", "Cropping1D"),
        *("Cropping2D", "Cropping3D", "Dense", "DepthwiseConv1D", "DepthwiseConv2D"),
        *("Dot", "Dropout", "ELU", "EinsumDense", "Embedding", "Flatten", "GRU"),
        *("GRUCell", "GaussianDropout", "GaussianNoise", "GlobalAveragePooling1D"),
        *("GlobalAveragePooling2D", "GlobalAveragePooling3D", "GlobalMaxPooling1D"),
        *("GlobalMaxPooling2D", "GlobalMaxPooling3D", "GroupNormalization"),
        *("Identity", "LSTM", "LSTMCell", "Lambda", "LayerNormalization"),
        *("LeakyReLU", "Masking", "MaxPooling1D", "MaxPooling2D", "MaxPooling3D"),
        *("Maximum", "Minimum", "MultiHeadAttention", "Multiply", "Normalization"),
        *("PReLU", "Permute", "RNN", "RandomBrightness", "RandomContrast"),
        *("RandomFlip", "RandomRotation", "RandomTranslation", "RandomZoom", "ReLU"),
        *("RepeatVector", "Rescaling", "Reshape", "Resizing", "SeparableConv1D"),
        *("SeparableConv2D", "SimpleRNN", "SimpleRNNCell", "Softmax"),
        *("SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D"),
        *("StackedRNNCells", "Subtract", "TimeDistributed", "UnitNormalization"),
        *("UpSampling1D", "UpSampling2D", "UpSampling3D", "ZeroPadding1D"),
        *("ZeroPadding2D", "ZeroPadding3D"),
    )
)
# Of the same name and formula in both packages.
ACTIVATIONS = frozenset(
    (
        *("elu", "exponential", "gelu", "leaky_relu", "linear", "log_softmax"),
        *("mish", "relu", "relu6", "selu", "sigmoid", "silu", "softmax", "softplus"),
        *("softsign", "swish", "tanh"),
    )
)
_ANYTHING = object()
# Settings that a layer of Keras 3 may lack -> the value at which nothing is lost.
_DROPPED: dict[str, Any] = {
    "batch_input_shape": _ANYTHING,  # the model's inputs have it
    "force_generator": _ANYTHING,
    "function_type": _ANYTHING,  # of a Lambda, whose function is handed over as it is
    "fused": _ANYTHING,  # how, not what
    "groups": 1,
    "implementation": _ANYTHING,  # how, not what
    "input_length": _ANYTHING,
    "kernel_constraint": _ANYTHING,  # of separable convolutions, which have no such
    "kernel_initializer": _ANYTHING,
    "kernel_regularizer": _ANYTHING,
    "key_shape": _ANYTHING,  # found anew when the layer is called
    "module": _ANYTHING,
    "noise_shape": None,
    "output_shape_module": _ANYTHING,
    "output_shape_type": _ANYTHING,
    "query_shape": _ANYTHING,
    "ragged": False,
    "rng_type": _ANYTHING,  # training draws other numbers
    "robust_masking": False,
    "softmax_robust_masking": False,
    "sparse": False,
    "time_major": False,
    "trainable": _ANYTHING,  # set on the layer itself
    "value_shape": _ANYTHING,
    "virtual_batch_size": None,
}
_RENAMED = {("LeakyReLU", "alpha"): "negative_slope"}
_LAYERS = ("layer", "backward_layer", "cell", "cells")


class NoLikeError(Exception):
    """Something has no like in Keras 3; the text names it."""


def like(layer: Any, make: Callable[[Any], Any]) -> Any:
    """A layer of Keras 3, not yet built, with the settings of one of tf_keras.

    Args:
        layer: a layer of tf_keras, without wrappers of tfmot.
        make: makes the layers inside of it.

    Returns:
        The new layer.

    Raises:
        NoLikeError: if Keras 3 has no such layer.
    """
    import keras

    kind = _class_name(layer)
    if kind not in CLASSES:
        raise NoLikeError(f"{type(layer).__name__} {layer.name}")
    try:
        return getattr(keras.layers, kind)(**_settings(layer, kind, make))
    except (TypeError, ValueError) as error:
        raise NoLikeError(f"{kind} {layer.name} ({error})") from error


def _class_name(layer: Any) -> str:
    """The class's name if it is tf_keras's own, or a copy of it that tfmot makes."""
    cls = type(layer)
    return cls.__name__ if cls.__module__.startswith("tf_keras.") else ""


def _settings(layer: Any, kind: str, make: Callable[[Any], Any]) -> dict[str, Any]:
    import keras

    known = _parameters(getattr(keras.layers, kind))
    settings = {}
    for key, value in layer.get_config().items():
        name = _RENAMED.get((kind, key), key)
        if name in known:
            settings[name] = _setting(layer, key, value, make)
        elif key not in _DROPPED or _DROPPED[key] not in (_ANYTHING, value):
            raise NoLikeError(f"{kind} {layer.name} ({key}={value!r})")
    settings["name"] = settings["name"].replace("/", "_")  # Keras 3 allows no slash
    if kind == "BatchNormalization":
        settings["axis"] = _one_axis(layer)
    if kind == "Lambda":
        settings |= {"function": layer.function, "mask": layer.mask}
    return settings


def _parameters(cls: type) -> set[str]:
    names: set[str] = set()
    for base in cls.__mro__[:-1]:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
        names |= {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return names - {"self"}


def _setting(layer: Any, key: str, value: Any, make: Callable[[Any], Any]) -> Any:
    if value is None:
        return None
    if key in _LAYERS:
        inner = getattr(layer, key)
        return [make(x) for x in inner] if key == "cells" else make(inner)
    if key == "dtype":
        return layer.dtype_policy.name
    if key.endswith("activation"):
        return _activation(layer, getattr(layer, key), make)
    for ending in ("initializer", "regularizer", "constraint"):
        if key.endswith(ending):
            return _by_config(layer, key, value, f"{ending}s")
    return _plain(value)


def _activation(layer: Any, function: Any, make: Callable[[Any], Any]) -> Any:
    """The name of an activation, or what computes it."""
    import tf_keras

    function = tfmot.plain_activation(function)
    if isinstance(function, tf_keras.layers.Layer):
        if function.weights:
            raise NoLikeError(f"activation {function.name} of {layer.name}")
        return make(function)
    name = getattr(function, "__name__", type(function).__name__)
    module = getattr(function, "__module__", "")
    if module.startswith(("tf_keras.", "tensorflow.", "tensorflow_model_optim")):
        if name in ("hard_sigmoid", "log_softmax_v2"):
            return legacy_hard_sigmoid if name == "hard_sigmoid" else "log_softmax"
        name = name.removesuffix("_v2")
        if name in ACTIVATIONS:
            return name
    raise NoLikeError(f"activation {name} of {layer.name}")


def _by_config(layer: Any, key: str, config: Any, package: str) -> Any:
    """An initializer, regularizer or constraint of Keras 3."""
    import keras

    kind = config["class_name"]
    settings = {k: _plain(v) for k, v in config["config"].items() if k != "dtype"}
    cls = getattr(getattr(keras, package), kind, None)
    if cls is None or config.get("registered_name"):
        if package == "initializers":  # the weights are set anyway
            return "zeros"
        raise NoLikeError(f"{key} {kind} of {layer.name}")
    return cls(**settings)


def _one_axis(layer: Any) -> int:
    axes = list(layer.axis) if isinstance(layer.axis, list | tuple) else [layer.axis]
    if len(axes) != 1:
        raise NoLikeError(f"BatchNormalization {layer.name} (axis={axes})")
    return axes[0]


def _plain(value: Any) -> Any:
    """A copy in Python's own lists, tuples and dictionaries."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def copy_weights(old: Any, new: Any) -> None:
    """Gives a built layer of Keras 3 the weights of the one it was made like.

    Frozen layers, and frozen parts of a layer, are frozen again.

    Args:
        old: the layer of tf_keras, in its wrapper of tfmot if it has one.
        new: the layer of Keras 3.

    Raises:
        NoLikeError: if the weights do not fit.
    """
    import keras

    if isinstance(new, keras.Model):  # whose layers are seen to one by one
        return
    new.trainable = tfmot.inner(old).trainable
    inside = _inside(old, new)
    if inside:
        for old_part, new_part in inside:
            copy_weights(old_part, new_part)
        return
    values = tfmot.final_weights(old)
    shapes = [tuple(value.shape) for value in values]
    if shapes != [tuple(v.shape) for v in new.weights]:
        raise NoLikeError(f"{type(new).__name__} {new.name} (weights of {shapes})")
    new.set_weights(values)
    if type(new).__name__ == "Normalization" and values:
        new.finalize_state()


def _inside(old: Any, new: Any) -> list[tuple[Any, Any]]:
    """Parts whose weights are apart, so that frozen ones do not change the order."""
    if tfmot.is_wrapper(old):
        return []
    kind = type(new).__name__
    if kind == "TimeDistributed":
        return [(old.layer, new.layer)]
    if kind == "Bidirectional":
        return [
            (old.forward_layer, new.forward_layer),
            (old.backward_layer, new.backward_layer),
        ]
    if kind == "StackedRNNCells":
        return list(zip(old.cells, new.cells, strict=True))
    return [(old.cell, new.cell)] if kind == "RNN" else []
