"""Regularization as a callback of `model.fit`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from kacc.core import left, registry
from kacc.core import rules as core_rules
from kacc.core.arguments import is_number
from kacc.core.errors import UsageError
from kacc.core.graph import trace
from kacc.core.loss_terms import LossTerm, add_term, check_used, remove_term
from kacc.core.rules import Rule
from kacc.regularization import functional


class Regularization(keras.callbacks.Callback):
    """Adds penalties on weights to the loss, from inside `model.fit`.

    They prepare a model for pruning: `l1` makes single weights small, `group_lasso`
    whole output channels of kernels, and `batch_norm` the scales of batch
    normalizations, by which `kacc.prune_channels` can rank channels (network slimming,
    Liu et al. 2017, arXiv:1708.06519). Validation is without them, and nothing of them
    stays in the model. At the end of each epoch `logs` gets "regularization". Tables of
    embeddings count as kernels, whose output channels are the features.

    After a fit that was interrupted, call its `on_train_end()`, or fit with it again.

    Args:
        l1: factor of the sum of absolute values of kernels.
        l2: factor of the sum of their squares.
        group_lasso: factor of the lengths of their output channels.
        batch_norm: factor of the sum of absolute scales of batch normalizations.
        rules: layers to leave alone, by path: `kacc.Rule(pattern, skip=True)`; the last
            that matches wins.

    Raises:
        UsageError: for a wrong argument, a rule that matches nothing, or a model that
            has none of these weights.

    Example:
        >>> import numpy as np, keras, kacc
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> model.compile("sgd", "mse")
        >>> regularization = kacc.callbacks.Regularization(l1=0.01)
        >>> x, y = np.ones((8, 8)), np.ones((8, 4))
        >>> history = model.fit(x, y, verbose=0, callbacks=[regularization])
        >>> len(history.history["regularization"])
        1
    """

    def __init__(
        self,
        l1: float = 0.0,
        l2: float = 0.0,
        group_lasso: float = 0.0,
        batch_norm: float = 0.0,
        rules: Sequence[Rule] = (),
    ) -> None:
        super().__init__()
        factors = {
            "l1": l1,
            "l2": l2,
            "group_lasso": group_lasso,
            "batch_norm": batch_norm,
        }
        self.factors = {name: _factor(name, value) for name, value in factors.items()}
        if not any(self.factors.values()):
            raise UsageError(
                "A penalty needs a factor above zero",
                received="none",
                fix="Pass l1, l2, group_lasso or batch_norm, such as l1=1e-5",
            )
        self.rules = core_rules.checked(rules)
        self.term = LossTerm(self._compute)
        self._kernels: list[tuple[Any, tuple[int, ...]]] = []
        self._scales: list[Any] = []

    def on_train_begin(self, logs: Any = None) -> None:
        """Finds the weights and adds the term to the loss."""
        self._kernels, self._scales, unknown = [], [], {}
        of_kernels = any(self.factors[n] for n in ("l1", "l2", "group_lasso"))
        for path, layer in self._layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                self._scales += [layer.gamma] if layer.scale else []
            else:
                self._kernels += list(_kernels(layer))
            reason = left.unknown_type(layer, "penalized")
            if of_kernels and reason is not None:
                unknown[path] = reason
        if of_kernels > bool(self._kernels) or (
            self.factors["batch_norm"] and not self._scales
        ):
            raise UsageError(
                "The model must have the weights that are to be penalized",
                received="no kernels"
                if not self._kernels
                else "no scales of batch normalizations",
            )
        left.warn_of_left("does not penalize", unknown)
        self.term.used = False
        add_term(self.model, self.term)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Makes sure that the step had the term."""
        check_used(self.term, "Regularization")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the penalty to the logs."""
        if logs is not None:
            logs["regularization"] = float(self._penalty())

    def on_train_end(self, logs: Any = None) -> None:
        """Takes the term off the loss."""
        remove_term(self.model, self.term)

    def _layers(self) -> list[tuple[str, Any]]:
        """The layers that no rule skips, each with the first of its paths."""
        calls = trace(self.model).calls
        chosen = core_rules.of_operations(self.rules, calls)
        first: dict[int, Any] = {}
        for call in calls:
            first.setdefault(id(call.operation), call)
        skipped = {key for key, rule in chosen.items() if rule.skip}
        return [
            (call.path, call.operation)
            for key, call in first.items()
            if key not in skipped
        ]

    def _compute(self, x: Any, y: Any, y_pred: Any) -> Any:
        return self._penalty()

    def _penalty(self) -> Any:
        total = tf.zeros(())
        for variable, channels in self._kernels:
            kernel = _value(variable)
            if self.factors["l1"]:
                total += self.factors["l1"] * functional.l1(kernel)
            if self.factors["l2"]:
                total += self.factors["l2"] * functional.l2(kernel)
            if self.factors["group_lasso"]:
                lasso = functional.group_lasso(kernel, channels)
                total += self.factors["group_lasso"] * lasso
        for variable in self._scales if self.factors["batch_norm"] else ():
            total += self.factors["batch_norm"] * functional.l1(_value(variable))
        return total


def _kernels(layer: Any) -> Iterator[tuple[Any, tuple[int, ...]]]:
    """The variables of a layer's kernels, with the axes of their output channels."""
    for weight, variable in registry.matrix_weights(layer):
        yield variable, weight.channels


def _value(variable: Any) -> Any:
    """A variable as it is kept, whatever its layer computes in."""
    with keras.src.backend.AutocastScope(None):
        return tf.cast(tf.convert_to_tensor(variable.value), tf.float32)


def _factor(name: str, value: Any) -> float:
    if not is_number(value) or value < 0:
        raise UsageError(f"`{name}` must be a number, at least 0", received=value)
    return float(value)
