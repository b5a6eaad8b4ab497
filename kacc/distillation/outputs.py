"""What the outputs of a model are: logits, probabilities or other values."""

from __future__ import annotations

from typing import Any

import keras

from kacc.core.graph import Tensor, trace


def kinds_of(model: keras.Model) -> Any:
    """What each output of a model is, in the structure of its outputs.

    Args:
        model: a built model; if it is compiled, its loss tells logits from values.

    Returns:
        "probabilities" after a softmax, "sigmoid" after a sigmoid, "logits" or "binary
        logits" where the loss takes them, "values" otherwise.

    Example:
        >>> import keras
        >>> head = keras.layers.Dense(2, activation="softmax")
        >>> kinds_of(keras.Sequential([keras.Input((4,)), head]))
        'probabilities'
    """
    graph = trace(model)
    made = graph.producers()
    logits = _logits_of(getattr(model, "loss", None))

    def kind(tensor: Tensor) -> str:
        while tensor in made:
            call = made[tensor]
            name = _activation(call.operation)
            if name == "softmax":
                return "probabilities"
            if name == "sigmoid":
                return "sigmoid"
            # A cast to float32, as mixed precision asks for, changes nothing.
            if name != "linear" or not isinstance(
                call.operation, keras.layers.Activation
            ):
                break
            tensor = call.inputs[0]
        return logits or "values"

    return keras.tree.map_structure(kind, graph.output_structure)


def _activation(operation: Any) -> str | None:
    if isinstance(operation, keras.layers.Softmax):
        return "softmax"
    function = getattr(operation, "activation", None)
    if function is None:
        return {"Softmax": "softmax", "Sigmoid": "sigmoid"}.get(
            type(operation).__name__
        )
    return getattr(function, "__name__", None)


def _logits_of(loss: Any) -> str | None:
    """The kind of logits that a compiled loss takes, or None if it takes others."""
    for one in keras.tree.flatten(loss) if loss is not None else []:
        # Where losses keep the arguments of their function is private; without it
        # logits count as values. tests/distillation/test_outputs.py tells.
        options = getattr(one, "_fn_kwargs", {})
        if getattr(one, "from_logits", False) or options.get("from_logits", False):
            binary = "Binary" in type(one).__name__
            return "binary logits" if binary else "logits"
    return None
