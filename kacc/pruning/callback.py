"""Pruning as a callback of `model.fit`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from kacc.core import recipe
from kacc.core.arguments import whole
from kacc.core.errors import UsageError
from kacc.core.graph import trace
from kacc.core.rules import Rule
from kacc.core.schedules import Constant, PolynomialDecay
from kacc.pruning.masks import pruned_layers, settle, share_of, sparsity, update_masks
from kacc.pruning.model import TECHNIQUE, attach_pruning, freeze_masks, settings_of
from kacc.pruning.plan import Plan, value_and_target


class Pruning(keras.callbacks.Callback):
    """Prunes a model step by step, from inside `model.fit`.

    It attaches before the first step, so that checkpoints, early stopping and resuming
    see the same variables from start to end; until the schedule begins the model
    computes as before. Masks are chosen between steps. Pruned weights are zero, get no
    gradient and leave the optimizer's slots alone; after the fit, training without the
    callback keeps them so. At the end of each epoch `logs` gets "sparsity", the share
    of zeros in the pruned layers.

    Steps are those of the optimizer, as for a learning rate schedule, and count from
    the fit that first prunes the model.

    Args:
        sparsity: the share of weights to remove; or a schedule, which is one of
            `kacc.schedules`, a PruningSchedule of tfmot, or any function from a step to
            a share. A number is reached on the polynomial of Zhu and Gupta 2017, over
            the first half of the fit. It may be left out where `method` has its own,
            or for a model whose `kacc.layers.PruneWrapper` layers have theirs.
        method: "magnitude"; "soft" (proximal shrinkage: what stays moves towards zero
            by the largest magnitude that was cut); a pattern like "2:4", along the
            input channels; or a block of (inputs, outputs) like (1, 4). In an embedding
            the pattern goes along the features of a word, and (1, 4) is four of them.
        rules: exceptions by layer path: `kacc.Rule(pattern, skip=True)`, or with a
            `sparsity` of its own; the last that matches wins.
        begin_step: of a number: the first step that prunes (by default 0).
        end_step: of a number: the step at which it is reached; the same as `begin_step`
            prunes at once.
        frequency: steps from one choice of masks to the next; a PruningSchedule of
            tfmot has its own.
        freeze_step: the first step from which masks stay as they are, or None.
        scope: "global" ranks the weights of all layers together, but those of each
            embedding by themselves; "layer" gives each layer the same sparsity.
        keep_ends: whether the first and the last layer stay dense; embeddings do not.
        regrow: whether pruned weights go on learning and may come back until
            `freeze_step`. Their slots are then not quiet, and the zeros are in the
            masks alone until freezing, `kacc.strip` or `kacc.convert`.
        log_layers: whether `logs` holds each layer's share, as "<path>/sparsity".

    Raises:
        UsageError: for a wrong argument.

    Example:
        >>> import numpy as np, keras, kacc
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> model.compile("adam", "mse")
        >>> pruning = kacc.callbacks.Pruning(0.75, keep_ends=False)
        >>> x, y = np.ones((8, 8)), np.ones((8, 4))
        >>> history = model.fit(x, y, epochs=2, verbose=0, callbacks=[pruning])
        >>> history.history["sparsity"]
        [0.75, 0.75]
    """

    def __init__(
        self,
        sparsity: Any = None,
        method: Any = "magnitude",
        rules: Sequence[Rule] = (),
        *,
        begin_step: int | None = None,
        end_step: int | None = None,
        frequency: int = 100,
        freeze_step: int | None = None,
        scope: str = "global",
        keep_ends: bool = True,
        regrow: bool = False,
        log_layers: bool = False,
    ) -> None:
        super().__init__()
        _, target = value_and_target(sparsity)
        self.settings = settings_of(target, method, rules, scope, keep_ends, regrow)
        self.schedule = sparsity if callable(sparsity) else None
        if self.schedule is not None and (begin_step, end_step) != (None, None):
            raise UsageError(
                "A schedule has its own steps",
                received=f"begin_step={begin_step}, end_step={end_step}",
                fix="Leave them out, or pass a number in the place of the schedule",
            )
        self.begin_step = _step("begin_step", begin_step, 0)
        self.end_step = _step("end_step", end_step, self.begin_step or 0)
        self.frequency = _step("frequency", frequency, 1) or 1
        self.freeze_step = _step("freeze_step", freeze_step, 0)
        self.log_layers = log_layers
        self._paths: dict[int, str] = {}
        self._plan: Plan | None = None
        self._start: int | None = None  # the step at the beginning of the epoch
        self._batch = self._done = 0  # in this epoch
        self._seen: int | None = None  # the last step that was looked at

    def set_model(self, model: keras.Model) -> None:
        """Attaches to the model, before any other callback can restore a state."""
        super().set_model(model)
        now = _iterations(model)
        first = recipe.recipe_of(model).get(TECHNIQUE, {}).get("first_step")
        if first is None or first > now:  # the optimizer is a new one
            first = now
        attach_pruning(model, {**self.settings, "first_step": first})
        if self.log_layers:
            calls = reversed(trace(model).calls)  # of several calls the first names it
            self._paths = {id(call.operation): call.path for call in calls}

    def on_train_begin(self, logs: Any = None) -> None:
        """Fits the schedule to the length of the fit."""
        self._plan = Plan(self.schedule or self._ramp(), self.frequency)
        self._start = self._seen = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Lets the next step read the optimizer's count anew."""
        self._start = None

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Chooses masks before the first step of a fit, or after a resumption."""
        if self._start is None:
            first = recipe.recipe_of(self.model)[TECHNIQUE]["first_step"]
            # Read once per epoch: it would wait for the step on an accelerator.
            self._start = _iterations(self.model) - first
            self._done = 0
        if self._seen is None:
            self._seen = self._now - self.model.steps_per_execution
        self._batch = batch
        self._advance()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Chooses masks when it is time."""
        self._done += batch - self._batch + 1
        self._advance()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the sparsity to the logs."""
        settle(self.model)
        if logs is None:
            return
        logs["sparsity"] = sparsity(self.model)
        if self.log_layers:
            for layer, transform in pruned_layers(self.model):
                logs[f"{self._paths[id(layer)]}/sparsity"] = share_of([transform])

    def on_train_end(self, logs: Any = None) -> None:
        """Leaves exact zeros behind, also where Keras put averages of weights."""
        settle(self.model)

    @property
    def _now(self) -> int:
        assert self._start is not None
        many = getattr(self.model.optimizer, "gradient_accumulation_steps", None) or 1
        return self._start + self._done // many

    def _advance(self) -> None:
        assert self._plan is not None
        assert self._seen is not None
        step = last = self._now
        if self.freeze_step is not None:
            last = min(step, self.freeze_step)
        if self._plan.due(self._seen, last):
            target = self.settings["target"] if self.schedule else 1.0
            update_masks(self.model, self._plan.value(last) / (target or 1.0))
        if step == self.freeze_step or last < step:
            freeze_masks(self.model)
        self._seen = step

    def _ramp(self) -> Any:
        """The way to a number, from 0 to 1."""
        begin, end = self.begin_step or 0, self.end_step
        if end is None:
            steps = self.params.get("steps")
            if steps is None:
                raise UsageError(
                    "The length of an epoch must be known to spread pruning over it",
                    received="data of unknown length",
                    fix="Pass end_step, or steps_per_epoch to fit",
                )
            end = max(begin, steps * self.params["epochs"] // 2)
        if end == begin:
            return Constant(1.0, begin)
        return PolynomialDecay(0.0, 1.0, begin, end)


def _iterations(model: keras.Model) -> int:
    return int(keras.ops.convert_to_numpy(model.optimizer.iterations))


def _step(name: str, value: Any, least: int) -> int | None:
    return None if value is None else whole(name, value, least, "steps")
