"""Unfreezing a backbone in the middle of a fit."""

from __future__ import annotations

from typing import Any

import keras

from kacc.core import attach
from kacc.core.arguments import is_number, whole
from kacc.core.errors import UsageError
from kacc.core.graph import trace
from kacc.core.optimizers import extend_optimizer


class Unfreezing(keras.callbacks.Callback):
    """Trains the head of a model first and what is frozen below it later.

    Until `start_epoch` the layers whose `trainable` is False stay as they are. Then the
    last ones, or all of them, are trained too, at a learning rate of their own. Batch
    normalizations stay frozen, with the statistics that they came with: those of small
    batches of new images would undo what was learned (as Keras's guide to transfer
    learning says).

    The optimizer is built for all these variables from the start, so that backups of a
    fit can be resumed before and after.

    Args:
        start_epoch: the first epoch (from 0) that trains them.
        learning_rate: from then on, or None for the same; with a schedule of Keras's
            in the optimizer it must be None.
        share: of the frozen layers with weights, counted from the output, that are
            trained; 1.0 for all.

    Raises:
        UsageError: for a wrong argument, an unbuilt model, or one with nothing frozen
            in it.

    Example:
        >>> import numpy as np, keras, kacc
        >>> body = keras.layers.Dense(4, trainable=False)
        >>> model = keras.Sequential([keras.Input((4,)), body, keras.layers.Dense(2)])
        >>> model.compile("adam", "mse")
        >>> unfreezing = kacc.callbacks.Unfreezing(1, learning_rate=1e-4)
        >>> x, y = np.ones((8, 4)), np.ones((8, 2))
        >>> history = model.fit(x, y, epochs=2, verbose=0, callbacks=[unfreezing])
        >>> body.trainable
        True
    """

    def __init__(
        self,
        start_epoch: int,
        learning_rate: float | None = None,
        share: float = 1.0,
    ) -> None:
        super().__init__()
        if learning_rate is not None and not (
            is_number(learning_rate) and learning_rate > 0
        ):
            raise UsageError("`learning_rate` must be above 0", received=learning_rate)
        if not is_number(share) or not 0 < share <= 1:
            raise UsageError("`share` must be above 0, up to 1", received=share)
        self.start_epoch = whole("start_epoch", start_epoch, 0, "epochs")
        self.learning_rate = learning_rate
        self.share = share
        self._frozen: list[Any] = []
        self._chosen: list[Any] = []
        self._started = False

    def set_model(self, model: keras.Model) -> None:
        """Builds the optimizer for what is trained later as well."""
        super().set_model(model)
        optimizer = model.optimizer
        if self.learning_rate is not None and isinstance(
            optimizer._learning_rate, keras.optimizers.schedules.LearningRateSchedule
        ):
            raise UsageError(
                "The learning rate of a schedule cannot be set",
                received=f"learning_rate={self.learning_rate}",
                fix="Pass learning_rate=None, or compile with a number",
            )
        self._started = False
        self._frozen = [layer for layer in model._flatten_layers() if _is_frozen(layer)]
        if not self._frozen:
            raise UsageError(
                "There must be something frozen to unfreeze",
                received="a model whose layers are all trainable",
                fix="Set layer.trainable = False, as kacc.pretrained does",
            )
        self._chosen = self._last_ones()
        later = set(map(id, self._later()))
        variables = [v for v in model.variables if v.trainable or id(v) in later]
        with model.distribute_strategy.scope():
            if optimizer.built:
                extend_optimizer(optimizer, variables)
            else:
                optimizer.build(variables)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Unfreezes when it is time."""
        if epoch < self.start_epoch or self._started:
            return
        self._started = True
        self._thaw()
        if self.learning_rate is not None:
            self.model.optimizer.learning_rate = self.learning_rate
        attach.refresh_functions(self.model)

    def _last_ones(self) -> list[Any]:
        """The layers to train, of those with weights; no batch normalizations."""
        frozen = {id(layer) for layer in self._frozen}
        found = {
            id(call.operation): call.operation
            for call in trace(self.model).calls
            if id(call.operation) in frozen
            and call.operation.weights
            and not isinstance(call.operation, keras.layers.BatchNormalization)
        }
        layers = list(found.values())
        return layers[len(layers) - max(1, round(len(layers) * self.share)) :]

    def _later(self) -> list[Any]:
        """The variables that these layers train once they are not frozen."""
        # Private: what a layer created to be trained, whatever is frozen now.
        # tests/core/test_keras_private.py fails if it changes.
        return [
            variable
            for layer in self._chosen
            for part in layer._flatten_layers()
            for variable in part._trainable_variables
        ]

    def _thaw(self) -> None:
        trained = {id(v) for v in self.model.trainable_variables}
        # A container that is frozen hides what is trainable inside, and one that is
        # set sets its children: so all at first, and then the rest back.
        for layer in self._frozen:
            layer.trainable = True
        chosen = {id(layer) for layer in self._chosen}
        inside = {id(x) for layer in self._chosen for x in layer._flatten_layers()}
        for layer in self._frozen:
            is_container = any(id(x) in chosen for x in layer._flatten_layers())
            if id(layer) not in inside and not is_container:
                layer.trainable = False
        for variable in self.model.variables:
            if id(variable) in trained:  # of what is attached to a frozen layer
                variable.trainable = True


def _is_frozen(layer: Any) -> bool:
    return not layer.trainable
