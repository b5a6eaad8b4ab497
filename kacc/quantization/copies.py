"""A quantized copy of a plain model, which stays as it is.

Layers cannot be cloned in general: subclassed models have no config to be built from,
custom ones may be registered nowhere. So a copy is the flat graph of the model, with
doubles in the place of its layers: objects of the same attributes, and so of the same
variables, to which transforms are attached and whose weights can be exchanged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
from keras import tree

from kacc.core import attach, registry
from kacc.core.graph import Call, Graph, fill, trace
from kacc.core.rules import Rule
from kacc.core.transform import shares_scale
from kacc.quantization.model import attach_quantization, recipe_settings


def quantized_copy(
    model: keras.Model,
    scheme: str = "int8",
    rules: Sequence[Rule] = (),
    learned_steps: bool | None = None,
) -> Copy:
    """A quantized copy of a plain model, to calibrate and convert.

    It reads the variables of the model, and has ranges of its own. Nothing in the model
    changes, so that it may go on training or serving meanwhile.

    Args:
        model: a built Keras 3 model of any kind. Of what is attached to it (masks) the
            copy has the result.
        scheme: name of the scheme.
        rules: exceptions by layer path; the last that matches wins.
        learned_steps: whether weights have steps of their own, which start at the least
            squared error; None for what the scheme does.

    Returns:
        A model for inference with the inputs and outputs of `model`.

    Raises:
        UsageError: for an unbuilt model, an unknown scheme, a rule that matches
            nothing, or a model without a layer that can be quantized.

    Example:
        >>> import keras, kacc, numpy as np
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> copy = quantized_copy(model)
        >>> kacc.quantization.calibrate(copy, [np.ones((8, 4), "float32")])
        >>> kacc.quantization.scheme_of(copy), kacc.quantization.scheme_of(model)
        ('int8', None)
    """
    settings = recipe_settings(scheme, rules, learned_steps)
    copy = Copy(model)
    attach_quantization(copy, settings, report=False)
    return copy


class Copy(keras.Model):
    """Runs the graph of another model, on doubles of its layers.

    Args:
        model: the other one.
    """

    # The states of all doubles: a layer's own could be tracked only by trackers that
    # the double shares with the layer.
    holds_states = True

    def __init__(self, model: keras.Model) -> None:
        super().__init__(name=model.name, dtype="float32")
        doubles: dict[int, Any] = {}
        graph = trace(model)
        calls = tuple(_doubled(call, doubles) for call in graph.calls)
        # Through `object`, so that Keras does not count the model as a part of this.
        object.__setattr__(self, "kacc_original", model)
        object.__setattr__(self, "kept_graph", dataclasses.replace(graph, calls=calls))
        object.__setattr__(self, "operations", list(doubles.values()))
        self.parts = [x for x in doubles.values() if isinstance(x, keras.Layer)]
        self.built = True

    def call(self, inputs: Any) -> Any:
        """The outputs in the structure of the model's."""
        graph: Graph = self.kept_graph
        return graph.run(tree.flatten(inputs), run_call)


def run_call(call: Call, values: list[Any]) -> Any:
    """What the operation of a call makes of values, at inference."""
    args, kwargs = fill(call, values)
    operation = call.operation
    if isinstance(operation, keras.Layer) and operation._call_has_training_arg:
        kwargs = {**kwargs, "training": False}
    return operation(*args, **kwargs)


def _doubled(call: Call, doubles: dict[int, Any]) -> Call:
    """The call with a double of its operation; in a copy every operation lasts."""
    key = id(call.operation)
    if key not in doubles:
        known = registry.find(call.operation) is not None
        doubles[key] = double(call.operation) if known else call.operation
    return dataclasses.replace(call, operation=doubles[key], lasting=True)


def double(operation: Any) -> Any:
    """An object of the same attributes, with what is attached made permanent."""
    cls = attach.base_class(operation)
    twin = object.__new__(cls)
    vars(twin).update(vars(operation))
    vars(twin).pop("_kacc_transforms", None)
    if isinstance(operation, keras.Layer):
        twin.dtype_policy = keras.DTypePolicy("float32")  # as the file computes
    spec = registry.find(operation)
    steps = attach.Steps(operation)
    if spec is not None and steps.transforms:
        names = [weight.attribute for weight in spec.weights]
        shared = [name for name in names if shares_scale(operation, name)]
        vars(twin)["_kacc_shares_scale"] = tuple(shared)
        names += [weight.attribute for weight, _ in registry.tables(operation)]
        for name in names:
            value = getattr(operation, name).value
            set_weight(twin, name, steps.weight(name, value))
    return twin


def set_weight(twin: Any, attribute: str, value: Any) -> None:
    """Gives a double a weight of its own in the place of the layer's.

    Args:
        twin: from `double`.
        attribute: the layer's attribute that holds the variable.
        value: the new value.
    """
    shared = getattr(twin, attribute)
    own = keras.Variable(value, dtype="float32", trainable=False, name=shared.name)
    for name, item in list(vars(twin).items()):
        if item is shared:
            vars(twin)[name] = own


def shift_bias(twin: Any, attribute: str, amount: Any) -> None:
    """Adds to a double's bias; one without a bias gets one.

    Args:
        twin: from `double`.
        attribute: the layer's attribute that holds the bias, or None.
        amount: one number for each channel.
    """
    bias = getattr(twin, attribute)
    if bias is not None:
        set_weight(twin, attribute, bias.value + amount)
        return
    own = keras.Variable(amount, dtype="float32", trainable=False, name=attribute)
    vars(twin).update({attribute: own, "use_bias": True})
