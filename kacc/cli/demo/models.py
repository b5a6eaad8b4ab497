"""The models of the demo: a small CNN, or one of the person's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
from keras import layers

import kacc
from kacc.cli.models import image_shape, load_model
from kacc.core.attach import is_attached
from kacc.core.errors import UsageError

LOSS = "sparse_categorical_crossentropy"


def small_cnn(shape: tuple[int, int, int], classes: int, steps: int) -> keras.Model:
    """A small residual network with the layers that such networks are made of.

    Args:
        shape: (height, width, channels) of images with pixels in 0..255.
        classes: the number of classes.
        steps: for how many steps it will be trained, over which the learning rate
            falls to zero.

    Returns:
        A compiled model; about 26,000 weights for 8x8 images.

    Example:
        >>> small_cnn((8, 8, 1), 10, steps=100).output_shape
        (None, 10)
    """
    inputs = keras.Input(shape, name="image")
    x = layers.Rescaling(1 / 255)(inputs)
    x = _convolution(x, 16)
    side = min(shape[:2])
    while side > 8:  # the rest works on 4x4 to 8x8
        x = _convolution(x, 32, strides=2)
        side //= 2
    x = _convolution(x, 32, strides=2)
    x = layers.ReLU()(layers.Add()([x, _separable(x, 32)]))
    x = _convolution(x, 64, strides=2)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    outputs = layers.Dense(classes, activation="softmax", name="probability")(x)
    model = keras.Model(inputs, outputs, name="small_cnn")
    rate = keras.optimizers.schedules.CosineDecay(4e-3, steps)
    model.compile(keras.optimizers.Adam(rate), LOSS, metrics=["accuracy"])
    return model


def _convolution(x: Any, filters: int, strides: int = 1) -> Any:
    x = layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False)(x)
    return layers.ReLU()(_normalization()(x))


def _separable(x: Any, filters: int) -> Any:
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    x = layers.ReLU()(_normalization()(x))
    return _normalization()(layers.Conv2D(filters, 1, use_bias=False)(x))


def _normalization() -> layers.BatchNormalization:
    # The default momentum of 0.99 would take longer to settle than the demo trains.
    return layers.BatchNormalization(momentum=0.9)


def load_classifier(path: Path) -> keras.Model:
    """Load an image classifier and compile it if its own settings do not serve.

    Args:
        path: a .keras file.

    Returns:
        A model with one input of images and one output of class scores, compiled with
        integer labels.

    Raises:
        UsageError: there is no such file, or the model is no image classifier.
        KaccError: the file cannot be loaded.
    """
    model = load_model(path)
    was_quantized = is_attached(model)
    if was_quantized:  # both trainings begin with the plain model
        kacc.strip(model)
    _check_classifier(model, path)
    if was_quantized or not _takes_integer_labels(model):
        # A small step: the weights are trained already.
        model.compile(
            keras.optimizers.Adam(1e-4),
            keras.losses.SparseCategoricalCrossentropy(
                from_logits=_gives_logits(model)
            ),
            metrics=["accuracy"],
        )
    return model


def check_classes(model: keras.Model, classes: tuple[str, ...], source: str) -> None:
    """Check that a classifier tells as many classes as the data have.

    Raises:
        UsageError: it does not.
    """
    if model.output_shape[-1] != len(classes):
        raise UsageError(
            f"The model must tell as many classes as {source} has: {len(classes)}",
            received=f"an output of {model.output_shape[-1]} values",
            fix="Name the folder that the model was made for with --data, or give the "
            "model an output of the right size",
        )


def _check_classifier(model: keras.Model, path: Path) -> None:
    image_shape(model)
    shape = getattr(model, "output_shape", None)
    if not (isinstance(shape, tuple) and len(shape) == 2 and shape[-1] != 1):
        raise UsageError(
            f"{path} must give one score for each class",
            received=f"output {shape}",
            fix="Two classes need two scores",
        )


def _takes_integer_labels(model: keras.Model) -> bool:
    loss = getattr(model, "loss", None) if model.compiled else None
    name = loss if isinstance(loss, str) else getattr(loss, "name", "")
    return name == LOSS


def _gives_logits(model: keras.Model) -> bool:
    last = model.layers[-1]
    activation = getattr(last, "activation", None)
    return not (
        activation is keras.activations.softmax or isinstance(last, layers.Softmax)
    )
