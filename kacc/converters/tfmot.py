"""Layers that tensorflow-model-optimization (tfmot) wraps, and what they stand for.

They are told by their classes' names, so that tfmot is imported only by its users.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

_PACKAGE = "tensorflow_model_optimization."
# What tfmot's quantizers start from, `initial_value` of their ranges.
_UNSEEN = (-6.0, 6.0)


def is_wrapper(layer: Any, *kinds: str) -> bool:
    """Whether a layer is one of tfmot's, of these kinds if any are given.

    Args:
        layer: any layer.
        *kinds: names of classes, such as "PruneLowMagnitude".

    Example:
        >>> is_wrapper(object(), "PruneLowMagnitude")
        False
    """
    return any(
        cls.__module__.startswith(_PACKAGE) and (not kinds or cls.__name__ in kinds)
        for cls in type(layer).__mro__
    )


def is_pruned(layer: Any) -> bool:
    """Whether a layer is tfmot's pruning wrapper."""
    return is_wrapper(layer, "PruneLowMagnitude")


def is_clustered(layer: Any) -> bool:
    """Whether a layer is tfmot's clustering wrapper."""
    return is_wrapper(layer, "ClusterWeights")


def is_quantized(layer: Any) -> bool:
    """Whether a layer is one that tfmot quantizes with: a wrapper or a layer alone."""
    return is_wrapper(layer, "QuantizeWrapper", "QuantizeLayer")


def _layers(model: Any) -> Iterator[Any]:
    # Private: the only walk through all layers of subclassed models as well.
    # tests/core/test_keras_private.py watches.
    yield from model._flatten_layers()


def quantizers(model: Any) -> Iterator[tuple[str, int]]:
    """The layers of a model that tfmot quantizes, with the bits of each quantizer."""
    for layer in _layers(model):
        if is_quantized(layer):
            for quantizer in _quantizers_of(layer):
                yield layer.name, int(getattr(quantizer, "num_bits", 8))


def _quantizers_of(layer: Any) -> list[Any]:
    if is_wrapper(layer, "QuantizeLayer"):
        return [layer.quantizer] if layer.quantizer else []
    return [
        *(quantizer for _, quantizer, _ in layer._weight_vars),
        *(activation.quantizer for activation in layer._quantize_activations),
        *layer._output_quantizers,
    ]


def unseen_ranges(model: Any) -> Iterator[str]:
    """The quantized layers whose ranges are still those that tfmot starts from."""
    for layer in _layers(model):
        if is_quantized(layer):
            ranges = {w.name.split(":")[0]: w for w in layer.weights}
            for name, low in ranges.items():
                high = ranges.get(f"{name.removesuffix('_min')}_max")
                if not name.endswith("_min") or high is None:
                    continue
                lows, highs = np.asarray(low), np.asarray(high)
                if (lows == _UNSEEN[0]).all() and (highs == _UNSEEN[1]).all():
                    yield layer.name
                    break


@contextlib.contextmanager
def wrappers_off(model: Any) -> Iterator[None]:
    """Lets wrappers of pruning and clustering call their layers with the final weights.

    A pruning wrapper multiplies its weights by the mask, a clustering wrapper replaces
    each weight by its nearest centroid; both write variables in every call, which a
    frozen graph cannot.
    """
    with contextlib.ExitStack() as stack:
        for layer in _layers(model):
            if is_pruned(layer):
                stack.enter_context(_masked(layer))
            elif is_clustered(layer):
                stack.enter_context(_clustered(layer))
        yield


@contextlib.contextmanager
def _masked(wrapper: Any) -> Iterator[None]:
    kept = [(weight, weight.numpy()) for weight, _, _ in wrapper.pruning_vars]
    with _called_by(wrapper, _inner_call(wrapper)):
        try:
            for weight, mask, _ in wrapper.pruning_vars:
                weight.assign(weight * mask)
            yield
        finally:
            for weight, value in kept:
                weight.assign(value)


@contextlib.contextmanager
def _clustered(wrapper: Any) -> Iterator[None]:
    """The wrapper itself puts the clustered weights, as constants, into its layer."""
    with _called_by(wrapper, _inner_call(wrapper)):
        wrapper.update_clustered_weights_associations()
        yield


def _inner_call(wrapper: Any) -> Callable[..., Any]:
    """What calls the wrapper's layer, with the arguments that the layer knows."""
    import inspect

    call = wrapper.layer.call
    takes_training = "training" in inspect.signature(call).parameters

    def run(inputs: Any, training: Any = None, **kwargs: Any) -> Any:
        if takes_training:
            kwargs["training"] = training
        return call(inputs, **kwargs)

    return run


@contextlib.contextmanager
def _called_by(layer: Any, call: Callable[..., Any]) -> Iterator[None]:
    """Gives one layer another `call` for the moment, past Keras's tracking."""
    object.__setattr__(layer, "call", call)
    try:
        yield
    finally:
        object.__delattr__(layer, "call")


def plain_activation(function: Any) -> Any:
    """The activation that tfmot's quantized one stands for; others as they are."""
    if is_wrapper(function, "QuantizeAwareActivation"):
        function = function.activation
    if is_wrapper(function, "NoOpActivation"):
        import tf_keras

        return tf_keras.activations.linear
    return function


def inner(layer: Any) -> Any:
    """The layer inside a wrapper of tfmot; others as they are."""
    wraps = is_pruned(layer) or is_clustered(layer)
    return layer.layer if wraps or is_wrapper(layer, "QuantizeWrapper") else layer


def final_weights(layer: Any) -> list[np.ndarray]:
    """The weights of a layer in Keras's order, as they are without its wrapper.

    Those of a pruned or clustered layer are final inside `wrappers_off`.
    """
    weights = layer.get_weights()
    if is_wrapper(layer, "QuantizeWrapper"):
        return _unquantized(layer)
    if is_clustered(layer):
        weights = layer.layer.get_weights()
        for position, name in sorted(layer.position_original_weights.items()):
            weights.insert(position, np.asarray(layer.get_weight_from_layer(name)))
    return weights


def _unquantized(wrapper: Any) -> list[np.ndarray]:
    """Calls of the wrapper put tensors in the place of its layer's first variables."""
    first = [variable for variable, _, _ in wrapper._weight_vars]
    rest = [v for v in wrapper.layer.weights if all(v is not w for w in first)]
    return [variable.numpy() for variable in (*first, *rest)]
