"""What each backbone does to images of 0 to 255, as a layer of the model."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

PREPROCESSING = "preprocessing"  # the layer's name

# Means and deviations of ImageNet's channels, red first, as in
# keras.applications.imagenet_utils.
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CAFFE = (123.68, 116.779, 103.939)

# By module of keras.applications; those that are not here do it themselves.
_MODES = {
    "densenet": "torch",
    "inception_resnet_v2": "tf",
    "inception_v3": "tf",
    "mobilenet": "tf",
    "mobilenet_v2": "tf",
    "nasnet": "tf",
    "resnet": "caffe",
    "resnet_v2": "tf",
    "vgg16": "caffe",
    "vgg19": "caffe",
    "xception": "tf",
}


def mode_of(function: Any) -> str | None:
    """How a function of keras.applications wants its images, or None for as they are.

    Example:
        >>> import keras
        >>> mode_of(keras.applications.MobileNet)
        'tf'
    """
    return _MODES.get(function.__module__.rpartition(".")[2])


def layer_for(mode: str | None) -> Any:
    """The layer that does it, or None; the order of channels is `swap_channels`'."""
    if mode == "tf":
        return layers.Rescaling(1 / 127.5, offset=-1.0, name=PREPROCESSING)
    if mode == "torch":
        mean = [255 * m for m in _MEAN]
        variance = [(255 * d) ** 2 for d in _DEVIATION]
        return layers.Normalization(mean=mean, variance=variance, name=PREPROCESSING)
    if mode == "caffe":
        return layers.Normalization(
            mean=list(_CAFFE), variance=[1.0] * 3, name=PREPROCESSING
        )
    return None


def swap_channels(body: keras.Model) -> None:
    """Lets a backbone that was trained on blue first read red first.

    The kernels that read the image are turned round, so that nothing is to be done to
    images.
    """
    first = next(layer for layer in body.layers if hasattr(layer, "kernel"))
    kernel, *rest = first.get_weights()
    first.set_weights([kernel[:, :, ::-1], *rest])
