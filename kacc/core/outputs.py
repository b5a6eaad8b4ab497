"""What the outputs of a model are: logits, probabilities or other values."""

from __future__ import annotations

from typing import Any

import keras

from kacc.core.graph import Call, Graph, Tensor, trace


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
    losses = _losses(getattr(model, "loss", None), model, graph.output_structure)

    def kind(tensor: Tensor, loss: Any) -> str:
        call = _last_call(made, tensor)
        name = None if call is None else _activation(call.operation)
        if name == "softmax":
            return "probabilities"
        return "sigmoid" if name == "sigmoid" else _logits_of(loss) or "values"

    kinds = map(kind, graph.outputs, losses)
    return keras.tree.pack_sequence_as(graph.output_structure, list(kinds))


def are_unbounded(graph: Graph) -> list[bool]:
    """Whether each output is a sum that nothing bounds, as logits are.

    Args:
        graph: of the model.

    Returns:
        For each output, flat: True where a layer with a kernel and no activation of
        its own makes it.

    Example:
        >>> import keras
        >>> layers = [keras.Input((4,)), keras.layers.Dense(2)]
        >>> are_unbounded(trace(keras.Sequential(layers)))
        [True]
    """
    made = graph.producers()
    calls = [_last_call(made, tensor) for tensor in graph.outputs]
    return [
        call is not None
        and hasattr(call.operation, "kernel")
        and _activation(call.operation) == "linear"
        for call in calls
    ]


def _last_call(made: dict[Tensor, Call], tensor: Tensor) -> Call | None:
    """What makes a tensor; None if it is an input."""
    while tensor in made:
        call = made[tensor]
        # A cast to float32, as mixed precision asks for, changes nothing.
        cast = isinstance(call.operation, keras.layers.Activation)
        if not cast or _activation(call.operation) != "linear":
            return call
        tensor = call.inputs[0]
    return None


def _losses(loss: Any, model: keras.Model, structure: Any) -> list[Any]:
    """The compiled loss of each output, or None; one alone is that of all."""
    count = len(keras.tree.flatten(structure))
    if isinstance(loss, dict):
        names = (
            keras.tree.flatten({name: name for name in structure})
            if isinstance(structure, dict)
            else getattr(model, "output_names", [])
        )
        loss = [loss.get(name) for name in names]
    elif not isinstance(loss, list | tuple):
        return [loss] * count
    return list(loss) if len(loss) == count else [None] * count


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
    # Where losses keep the arguments of their function is private; without it logits
    # count as values. tests/core/test_outputs.py tells.
    options = getattr(loss, "_fn_kwargs", {})
    if getattr(loss, "from_logits", False) or options.get("from_logits", False):
        return "binary logits" if "Binary" in type(loss).__name__ else "logits"
    return None
