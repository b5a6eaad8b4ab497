"""Backbones of `keras.applications` with a head of one's own."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from typing import Any

import keras
from keras import layers

from kacc.core.arguments import is_number, whole
from kacc.core.errors import UsageError
from kacc.transfer import preprocessing
from kacc.transfer.weights import checked, load


def pretrained(
    name: str,
    classes: int,
    weights: str | os.PathLike[str] | None = None,
    *,
    sha256: str | None = None,
    input_shape: tuple[int, int, int] = (224, 224, 3),
    dropout: float = 0.2,
    activation: str | None = "softmax",
    **options: Any,
) -> keras.Model:
    """A model of `keras.applications` with a new head, to be trained on other classes.

    It reads images of 0 to 255, red first: what the backbone does to them before is in
    the model. The backbone is frozen, so that `fit` trains the head alone;
    `kacc.callbacks.Unfreezing` goes on with the rest in the same fit.

    Args:
        name: of the function in `keras.applications`, such as "MobileNet".
        classes: of the new head.
        weights: a file: weights (.weights.h5, .h5) or a saved model (.keras), with
            ImageNet's head or without one, or of such a model as this function makes
            (.weights.h5, .keras), with a head of any size; "imagenet", which Keras
            downloads; or None for random ones, which are not frozen.
        sha256: the digest that the file must have; without it, the one in the file
            beside it whose name ends in ".sha256", if there is one.
        input_shape: height, width and 3.
        dropout: before the head, 0 to less than 1.
        activation: of the head.
        **options: of the function itself, such as `alpha=0.75`.

    Returns:
        A plain Keras model, to be compiled: preprocessing, backbone, global average
        pooling, dropout, a dense head.

    Raises:
        UsageError: for an unknown name or option, a missing file, a file with another
            digest or of another architecture.

    Example:
        >>> import kacc
        >>> model = kacc.pretrained("MobileNet", 5, input_shape=(32, 32, 3), alpha=0.25)
        >>> [layer.name for layer in model.layers][1:]
        ['preprocessing', 'mobilenet_0.25_32', 'dropout', 'head']
    """
    function = _function(name, options)
    _check(classes, input_shape, dropout)
    activation = _activation(activation)
    path = None
    if weights is not None and weights != "imagenet":
        path = checked(weights, sha256)
    elif sha256 is not None:
        raise UsageError(
            "`sha256` is of a file of weights",
            received=f"weights={weights!r}, which are not checked by it",
        )
    body = _made(
        function,
        weights="imagenet" if weights == "imagenet" else None,
        include_top=False,
        input_shape=input_shape,
        pooling="avg",
        **options,
    )
    red_first = weights is None
    if path is not None:
        whole_model = functools.partial(_made, function, weights=None, **options)
        red_first = load(body, whole_model, path)
    mode = preprocessing.mode_of(function)
    if mode == "caffe" and not red_first:
        preprocessing.swap_channels(body)
    body.trainable = weights is None
    inputs = x = keras.Input(input_shape, name="image")
    layer = preprocessing.layer_for(mode)
    if layer is not None:
        x = layer(x)
    x = body(x)
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    # Probabilities and losses of 16 bits are too coarse, as Keras's guide says.
    dtype = "float32" if _is_mixed() else None
    outputs = layers.Dense(classes, activation, name="head", dtype=dtype)(x)
    return keras.Model(inputs, outputs, name=f"{body.name}_{classes}")


def _function(name: str, options: dict[str, Any]) -> Callable[..., keras.Model]:
    found = getattr(keras.applications, name, None) if isinstance(name, str) else None
    if not callable(found):
        known = [n for n in dir(keras.applications) if n[0].isupper()]
        raise UsageError(
            "`name` must be a model of keras.applications",
            received=name,
            fix=f"They are: {', '.join(known)}",
        )
    taken = {
        "weights",
        "include_top",
        "input_shape",
        "pooling",
        "classes",
        "input_tensor",
    }

    allowed = set(inspect.signature(found).parameters) - taken
    unknown = set(options) - allowed
    if unknown:
        raise UsageError(
            f"{name} must take the options",
            received=", ".join(sorted(unknown)),
            fix=f"It takes: {', '.join(sorted(allowed))}",
        )
    return found


def _made(function: Callable[..., keras.Model], **options: Any) -> keras.Model:
    try:
        return function(**options)
    except ValueError as error:
        raise UsageError(
            "keras.applications must be able to make the model",
            received=str(error).strip().splitlines()[0],
        ) from error


def _activation(given: Any) -> Any:
    try:
        return keras.activations.get(given)
    except (TypeError, ValueError):
        raise UsageError(
            "`activation` must be one that Keras knows",
            received=given,
            fix="Pass 'softmax', or None for logits",
        ) from None


def _is_mixed() -> bool:
    policy = keras.config.dtype_policy()
    return bool(policy.compute_dtype != policy.variable_dtype)


def _check(classes: Any, input_shape: Any, dropout: Any) -> None:
    whole("classes", classes, 1)
    shape = tuple(input_shape) if isinstance(input_shape, tuple | list) else ()
    if len(shape) != 3 or shape[-1] != 3 or not all(n and n > 0 for n in shape):
        raise UsageError(
            "`input_shape` must be height, width and 3 channels", received=input_shape
        )
    if not is_number(dropout) or not 0 <= dropout < 1:
        raise UsageError("`dropout` must be from 0 to less than 1", received=dropout)
