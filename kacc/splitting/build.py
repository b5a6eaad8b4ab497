"""The parts as models of their own, with copies of the layers and of their weights."""

from __future__ import annotations

from typing import Any

import keras
from keras import tree

from kacc.core.graph import Call, Tensor, fill
from kacc.core.remake import carry_weights, plain_config, remade, without_variables
from kacc.splitting.layout import Layout, Stretch


class Builder:
    """Makes the model of one part.

    Args:
        layout: of the whole model.
        stretch: its calls.
        name: of the new model.
    """

    def __init__(self, layout: Layout, stretch: Stretch, name: str) -> None:
        self.layout = layout
        self.stretch = stretch
        self.name = name
        self.calls = layout.calls[stretch.start : stretch.stop]
        # id of an operation of the whole -> the one in its place
        self.operations: dict[int, Any] = {}

    def model(self) -> keras.Model:
        """The part: functional, plain, with the weights of the whole."""
        names = self.layout.tensor_names
        inputs = {names[t]: self._input(t) for t in self.stretch.takes}
        values = {t: inputs[names[t]] for t in self.stretch.takes}
        for call in self.calls:
            results = self._applied(call, [values[t] for t in call.inputs])
            values.update(zip(call.outputs, tree.flatten(results), strict=True))
        outputs = {names[t]: values[t] for t in self.stretch.gives}
        model = keras.Model(_alone(inputs), self._outputs(outputs), name=self.name)
        for call in self.calls:
            carry_weights(call.operation, self.operations[id(call.operation)])
        return model

    def _input(self, tensor: Tensor) -> Any:
        dtype, name = tensor.dtype, self.layout.tensor_names[tensor]
        if self.layout.is_quantized and dtype in ("float16", "bfloat16"):
            dtype = "float32"  # what integers stand for must not be rounded again
        return keras.Input(batch_shape=tensor.shape, dtype=dtype, name=name)

    def _applied(self, call: Call, values: list[Any]) -> Any:
        new = self._operation(call)
        args, kwargs = tree.map_structure(without_variables, fill(call, values))
        return new(*args, **kwargs)

    def _operation(self, call: Call) -> Any:
        key = id(call.operation)
        if key not in self.operations:
            name = self.layout.names[key]
            config = plain_config(call.operation)
            if isinstance(call.operation, keras.Layer):
                config["name"] = name
            new = remade(call.operation, config, call.path)
            new.name = name
            self.operations[key] = new
        return self.operations[key]

    def _outputs(self, outputs: dict[str, Any]) -> Any:
        """One tensor, or a dictionary: files call their outputs by its keys.

        A single output is called as its layer, so a dictionary too if it is not.
        """
        (tensor, *others) = self.stretch.gives
        maker = self.layout.calls[self.layout.made[tensor]].operation
        named = self.layout.names[id(maker)] == self.layout.tensor_names[tensor]
        return outputs if others or not named else _alone(outputs)


def _alone(values: dict[str, Any]) -> Any:
    return next(iter(values.values())) if len(values) == 1 else values
