"""Building the factored model: two or three layers in the place of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from kacc.core import rebuild
from kacc.core.graph import Call, Graph
from kacc.factorization.candidates import Option, Target
from kacc.factorization.functional import product
from kacc.factorization.methods import METHODS


class Factored(rebuild.Rebuild):
    """A model with some layers factored.

    Args:
        model: the old one.
        graph: of it.
        chosen: id of a layer -> the target and its option.
    """

    def __init__(
        self,
        model: keras.Model,
        graph: Graph,
        chosen: Mapping[int, tuple[Target, Option]],
    ) -> None:
        super().__init__(model, graph)
        self.chosen = chosen
        self.names = {layer.name for layer in model._flatten_layers()}
        self.kernels: dict[int, list[np.ndarray]] = {}

    def is_changed(self, call: Call) -> bool:
        """Whether a layer is factored."""
        return id(call.operation) in self.chosen

    def made(self, call: Call) -> Any:
        """The layers of a factored one, or the same layer again."""
        if not self.is_changed(call):
            return super().made(call)
        target, option = self.chosen[id(call.operation)]
        factors = target.spectrum(option.method).factors(*option.ranks)
        self.kernels[id(call.operation)] = factors
        parts = target.row.parts(target.layer, call, factors)
        last = len(parts) - 1
        layers = []
        for number, (cls, config) in enumerate(parts):
            added = METHODS[option.method].names[number]
            own: dict[str, Any] = {"name": self._name(target.layer.name, added)}
            if number != last:
                own |= {key: _BARE[key] for key in config.keys() & _BARE.keys()}
            layers.append(cls.from_config(config | own))
        return tuple(layers)

    def model(self) -> keras.Model:
        """The new model, with its weights."""
        new = super().model()
        for key, factors in self.kernels.items():
            self._assign(self.chosen[key][0], self.operations[key], factors)
        return new

    def _assign(self, target: Target, layers: Any, factors: list[np.ndarray]) -> None:
        shaped = target.row.shapes(target.layer, factors)
        for layer, kernel in zip(layers, shaped, strict=True):
            is_table = isinstance(layer, keras.layers.Embedding)
            (layer.embeddings if is_table else layer.kernel).assign(kernel)
        if target.has_bias:
            bias = keras.ops.convert_to_numpy(target.layer.bias)
            if target.inputs.mean is not None:
                bias = bias + constant_error(target, factors).reshape(bias.shape)
            layers[-1].bias.assign(bias)

    def _name(self, name: str, added: str) -> str:
        """A name that no other layer has; the last part's is the old one."""
        if not added:
            return name
        wanted, count = f"{name}_{added}", 1
        while wanted in self.names:
            count += 1
            wanted = f"{name}_{added}_{count}"
        self.names.add(wanted)
        return wanted


def constant_error(target: Target, factors: list[np.ndarray]) -> np.ndarray:
    """The mean error of the outputs, which the bias makes up for.

    Nagel et al. 2019, arXiv:1906.04721, section 4.2, for quantized weights.
    """
    missing = target.kernel - product(factors)
    return np.asarray(target.inputs.mean @ missing.reshape(-1, missing.shape[-1]))


# What the parts before the last do without.
_BARE: dict[str, Any] = {
    "use_bias": False,
    "activation": "linear",
    "activity_regularizer": None,
    "bias_axes": None,
}
