"""The measured baseline: legacy tf_keras, and tfmot's quantization-aware training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

# tfmot and TensorFlow's converter then mean tf_keras; `import keras` stays Keras 3.
os.environ["TF_USE_LEGACY_KERAS"] = "1"


def twin(model: Any) -> Any:
    """A functional Keras 3 model rebuilt in tf_keras, with the same weights.

    Both know each other's layer configs but for a few keys; what is not in the set
    below fails here, and not in silence.
    """
    import tf_keras

    tensors: dict[str, Any] = {}
    for layer in model.layers:
        if type(layer).__name__ == "InputLayer":
            tensors[layer.name] = tf_keras.Input(
                layer.output.shape[1:], name=layer.name
            )
            continue
        copy = _twin_layer(layer, tf_keras.layers)
        inputs = [tensors[x._keras_history.operation.name] for x in _list(layer.input)]
        tensors[layer.name] = copy(inputs if len(inputs) > 1 else inputs[0])
        copy.set_weights(layer.get_weights())
    names = [x._keras_history.operation.name for x in model.inputs + model.outputs]
    first, last = names
    return tf_keras.Model(tensors[first], tensors[last], name=model.name)


_KEYS = {
    "Activation": ["activation"],
    "Add": [],
    "AveragePooling2D": ["pool_size", "strides", "padding"],
    "BatchNormalization": ["momentum", "epsilon", "center", "scale"],
    "Conv2D": [
        "filters",
        "kernel_size",
        "strides",
        "padding",
        "use_bias",
        "activation",
    ],
    "Dense": ["units", "use_bias", "activation"],
    "Flatten": [],
}


def _twin_layer(layer: Any, layers: Any) -> Any:
    import tf_keras

    kind, config = type(layer).__name__, layer.get_config()
    arguments = {key: config[key] for key in _KEYS[kind]}
    regularizer = getattr(layer, "kernel_regularizer", None)
    if regularizer is not None:
        arguments["kernel_regularizer"] = tf_keras.regularizers.L2(
            float(regularizer.l2)
        )
    return getattr(layers, kind)(name=layer.name, **arguments)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def quantize(model: Any) -> Any:
    """A quantization-aware copy of a tf_keras model, by tfmot's default scheme."""
    import tensorflow_model_optimization as tfmot

    return tfmot.quantization.keras.quantize_model(model)


def convert(model: Any, path: Path) -> None:
    """Writes tfmot's quantized model as a full-integer TFLite file."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    path.write_bytes(converter.convert())


def predict(model: Any, images: np.ndarray) -> np.ndarray:
    """The outputs of a tf_keras model for uint8 images."""
    return model.predict(images.astype("float32"), batch_size=100, verbose=0)
