"""Models of `tf_keras`, the package that Keras 2 lives on in, as converters see them.

`tf_keras` is imported by whoever made the model; nothing here imports it for others.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from kacc.converters import tfmot
from kacc.core.errors import ConversionError, UsageError

_HALF = ("float16", "bfloat16", "float64")


def is_legacy(model: Any) -> bool:
    """Whether something is a model of tf_keras.

    Example:
        >>> is_legacy("model.h5")
        False
    """
    package = sys.modules.get("tf_keras")
    return package is not None and isinstance(model, package.Model)


def input_structure(model: Any) -> Any:
    """Specs of a model's inputs in the structure that it takes, or None if unbuilt.

    Raises:
        UsageError: if the model takes more than one argument.
    """
    spec = model.save_spec()
    if spec is None:
        return None
    args, kwargs = spec
    if len(args) != 1 or set(kwargs) - {"training"}:
        raise UsageError(
            "A tf_keras model must take its inputs as one argument",
            received=f"{model.name!r} with {len(args)} and {sorted(kwargs)}",
            fix="Pass a list or dictionary of tensors to its `call`",
        )
    return args[0]


def input_names(model: Any, count: int) -> list[str] | None:
    """The names of a model's inputs, where it has a graph that names them."""
    names = list(getattr(model, "input_names", None) or ())
    has_graph = bool(getattr(model, "_is_graph_network", False))
    return names if has_graph and len(names) == count else None


def scheme_of(model: Any) -> str | None:
    """The scheme, "int8", of a model that tfmot made quantization-aware, or None.

    Raises:
        ConversionError: if tfmot quantized it to other bits.
    """
    quantizers = list(tfmot.quantizers(model))
    other = [f"{name} ({bits} bits)" for name, bits in quantizers if bits != 8]
    if other:
        raise ConversionError(
            "A model that tfmot quantized must be of 8 bits",
            received=", ".join(dict.fromkeys(other)),
            fix="Call kacc.from_tf_keras(model), then kacc.quantize",
        )
    return "int8" if quantizers else None


def require_trained(model: Any) -> None:
    """Raises unless training has set the ranges of a tfmot-quantized model."""
    unseen = list(tfmot.unseen_ranges(model))
    if unseen:
        raise UsageError(
            "Every range of a quantized model must have been seen in training",
            received=f"none for {', '.join(unseen)}",
            fix="Train the tfmot model a step, or calibrate the plain model that "
            "kacc.from_tf_keras(model) makes",
        )


@contextlib.contextmanager
def for_inference(model: Any) -> Iterator[None]:
    """Lets a model be traced for a file, and leaves it as it was.

    Wrappers of pruning and clustering hand out the weights that they stand for, in
    place of the updates of variables that they make while they run; models of half
    precision compute in float32.
    """
    with tfmot.wrappers_off(model), _in_float32(model):
        yield


@contextlib.contextmanager
def _in_float32(model: Any) -> Iterator[None]:
    changed = []
    try:
        # Private: tf_keras has no other way to change the policy of a built layer.
        # tests/core/test_keras_private.py watches.
        for layer in model._flatten_layers():
            if layer.compute_dtype in _HALF:
                changed.append((layer, layer.dtype_policy))
                layer._set_dtype_policy("float32")
        yield
    finally:
        for layer, policy in changed:
            layer._set_dtype_policy(policy)


def path_of(name: Any, outer: str, layers: dict[str, str]) -> str | None:
    """The path of the layer whose call opens a name scope, or None of other scopes.

    Args:
        name: what the scope is to be called.
        outer: the scope that it is opened in.
        layers: the paths of the layers' scopes so far.
    """
    # Private: a layer enters its scope by the whole name, with a slash at the end, as
    # other layers do; the stack of calls tells whose it is.
    # tests/core/test_keras_private.py watches.
    from tf_keras.src.engine import base_layer_utils

    layer = base_layer_utils.call_context().layer
    if layer is None or f"{outer}/{layer.name}/".lstrip("/") != name:
        return None
    while outer and outer not in layers:
        outer = outer.rpartition("/")[0]
    if not outer:
        return "" if not layers else layer.name
    return f"{layers[outer]}/{layer.name}".lstrip("/")
