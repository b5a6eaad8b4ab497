"""Removing channels while a model trains.

The model that `fit` runs cannot change its shapes: its functions are traced, and other
callbacks hold its weights. So channels are switched off first, more and more of them,
by zeros in every weight that belongs to them and in the optimizer's slots, and cut when
`result` is asked for. A model with a channel of zeros computes what the one without it
does, so that the accuracy that `fit` logs is that of the smaller model.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kacc.core import attach
from kacc.core.arguments import whole
from kacc.core.budget import budget_of
from kacc.core.channels.graph import DependencyGraph, dependencies
from kacc.core.errors import UsageError
from kacc.core.optimizers import slots
from kacc.core.rules import Rule, checked
from kacc.core.samples import batches
from kacc.pruning.channels.pruner import (
    NEEDS_DATA,
    ChannelPlan,
    Planner,
    check_options,
    require_plain,
    score,
)
from kacc.pruning.channels.rebuild import Rebuild


class ChannelPruning(keras.callbacks.Callback):
    """Switches channels off during `fit`, step by step, and cuts them in the end.

    The share of the cost that is left falls from 1 to what is asked for, fast at first
    and slower towards the end (Zhu and Gupta 2017, arXiv:1710.01878). What was switched
    off stays off. Steps are counted by the optimizer, so that a resumed fit goes on.

    Args:
        macs, params, bytes: share to keep; exactly one of them.
        begin_step: the first training step that switches channels off.
        end_step: the step by which the budget is kept.
        frequency: steps from one time to the next.
        importance, round_to, scope, data, rules: as for `kacc.prune_channels`; data is
            needed for importance="taylor" and "reconstruction".

    Raises:
        UsageError: for wrong arguments; when training starts, for a model with
            transforms of kacc attached.

    Example:
        >>> import keras, kacc, numpy as np
        >>> dense = keras.layers.Dense
        >>> model = keras.Sequential([keras.Input((4,)), dense(32), dense(2)])
        >>> model.compile("adam", "mse")
        >>> pruning = kacc.callbacks.ChannelPruning(macs=0.5, end_step=4, frequency=2)
        >>> x, y = np.ones((64, 4)), np.ones((64, 2))
        >>> history = model.fit(x, y, batch_size=8, callbacks=[pruning], verbose=0)
        >>> smaller = pruning.result()
        >>> smaller.layers[0].units, smaller.compiled
        (16, True)
    """

    def __init__(
        self,
        *,
        macs: float | None = None,
        params: float | None = None,
        bytes: float | None = None,
        begin_step: int = 0,
        end_step: int,
        frequency: int = 100,
        importance: str | Callable[[DependencyGraph], list[np.ndarray]] = "l2",
        round_to: int = 8,
        scope: str = "global",
        data: Any = None,
        rules: Sequence[Rule] = (),
    ) -> None:
        super().__init__()
        check_options(importance, round_to, scope, data)
        _check_steps(begin_step, end_step, frequency)
        self.budget = budget_of(macs=macs, params=params, bytes=bytes)
        self.begin_step, self.end_step = begin_step, end_step
        self.frequency = frequency
        self.importance = importance
        self.options = {"round_to": round_to, "scope": scope}
        self.rules = checked(rules)
        self.samples = list(batches(data)) if importance in NEEDS_DATA else []
        self.found: DependencyGraph | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Finds which channels go together; nothing is switched off yet."""
        if self.found is not None and self.found.model is self.model:
            return
        _require_no_transforms(self.model)
        self.found = dependencies(self.model, self.rules)
        self.kept = np.array([len(g.classes) for g in self.found.groups], int)
        self.remaining = self.found.everything()
        self.done_step = -1
        self._masks: list[tuple[Any, Any]] = []
        if self.found.reasons:
            warnings.warn(self._plan().report, stacklevel=2)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Switches more channels off when it is time, and keeps those off that are."""
        step = int(self.model.optimizer.iterations)
        due = self.begin_step <= step and (
            step - self.done_step >= self.frequency
            or self.done_step < self.end_step <= step
            or self.done_step < 0
        )
        if due and self.done_step < self.end_step:
            self._switch_off(step)
        self._apply()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Logs the share of the cost that is left."""
        if logs is not None:
            logs[f"{self.budget.cost}_share"] = self._planner([]).share(
                str(self.budget.cost), self.kept
            )

    def on_train_end(self, logs: Any = None) -> None:
        """Switches off again what a callback that restores weights brought back."""
        self._apply()

    def result(self) -> keras.Model:
        """The smaller model, without the channels that are switched off.

        Returns:
            A new model. Where the one that was trained is compiled it is compiled too,
            with an optimizer that knows of each weight what the old one did.

        Raises:
            UsageError: if no training has run yet.
        """
        if self.found is None:
            raise UsageError(
                "There is a result once `fit` has run with this callback",
                received="no fit yet",
                fix="Pass it to model.fit(callbacks=[...])",
            )
        require_plain(self.found.model)
        plan = self._plan()
        if plan.report:
            warnings.warn(plan.report, stacklevel=2)
        rebuild = Rebuild(self.found, self.remaining)
        model = rebuild.model()
        if self.found.model.compiled:
            _compile_like(model, rebuild)
        return model

    def _plan(self) -> ChannelPlan:
        assert self.found is not None
        share = self._planner([]).share(str(self.budget.cost), self.kept)
        started = self.done_step >= 0
        wanted = self.budget.share if started else 1.0
        return ChannelPlan(self.found, self.kept, self.remaining, share, wanted)

    def _planner(self, scores: Sequence[np.ndarray]) -> Planner:
        assert self.found is not None
        priced = self.importance in NEEDS_DATA
        return Planner(self.found, scores, priced, **self.options)  # type: ignore[arg-type]

    def _switch_off(self, step: int) -> None:
        assert self.found is not None
        scores = score(self.found, self.importance, self.samples)
        off = [~self.remaining[group.classes] for group in self.found.groups]
        # What is off stays off, whatever its score.
        scores = [
            np.where(gone, -np.inf, s) for gone, s in zip(off, scores, strict=True)
        ]
        planner = self._planner(scores)
        share = self._share_at(step)
        self.kept = planner.at_share(str(self.budget.cost), share, self.kept)
        self.remaining = planner.remaining(self.kept)
        self.done_step = step
        self._masks = _masks_of(self.found, self.remaining, self.model.optimizer)

    def _share_at(self, step: int) -> float:
        length = max(self.end_step - self.begin_step, 1)
        way = min(max((step - self.begin_step) / length, 0.0), 1.0)
        return self.budget.share + (1 - self.budget.share) * (1 - way) ** 3

    def _apply(self) -> None:
        for variable, mask in self._masks:
            variable.assign(variable * mask)


def _require_no_transforms(model: keras.Model) -> None:
    """Raises a UsageError for a model that others attach to, perhaps in this fit."""
    if attach.is_attached(model):
        raise UsageError(
            "ChannelPruning needs a fit of its own: channels are removed from plain "
            "models, and Pruning or QuantizationAwareTraining attach to theirs",
            received=f"{model.name!r} with transforms of kacc attached",
            fix="Fit with ChannelPruning first, then result() with the others; a model "
            "from an earlier fit goes through kacc.strip first",
        )


def _masks_of(
    found: DependencyGraph, remaining: np.ndarray, optimizer: Any
) -> list[tuple[Any, Any]]:
    """(variable, mask) for every weight of a channel that is off, and its slots.

    The statistics of a batch normalization stay: zeros there would be divided by.
    """
    masks: dict[int, tuple[Any, np.ndarray]] = {}
    for axis in found.axes:
        kept = remaining[axis.channels]
        if kept.all() or not axis.variable.trainable:
            continue
        variable = axis.variable
        shape = [1] * len(variable.shape)
        shape[axis.axis] = len(kept)
        mask = masks.get(id(variable), (variable, np.ones(variable.shape)))[1]
        masks[id(variable)] = variable, mask * kept.reshape(shape)
    pairs = [(v, tf.constant(mask, v.dtype)) for v, mask in masks.values()]
    positions = [masks.get(id(v)) for v in optimizer._trainable_variables]
    for (_, _, position), slot in slots(optimizer).items():
        found_mask = positions[position]
        if found_mask is not None and found_mask[1].shape == tuple(slot.shape):
            pairs.append((slot, tf.constant(found_mask[1], slot.dtype)))
    return pairs


def _compile_like(model: keras.Model, rebuild: Rebuild) -> None:
    """Compiles a smaller model as the whole one is, its optimizer's slots cut."""
    old = rebuild.dependencies.model
    # Private: the arguments as they were given; the public config would need custom
    # losses to be registered. tests/core/test_keras_private.py watches it.
    arguments = dict(old._compile_config.config)
    optimizer = type(old.optimizer).from_config(old.optimizer.get_config())
    model.compile(**{**arguments, "optimizer": optimizer})
    optimizer.build(model.trainable_variables)
    _carry_slots(old.optimizer, optimizer, rebuild)


def _carry_slots(old: Any, new: Any, rebuild: Rebuild) -> None:
    """Slots of a weight's shape are cut as the weight is; others start anew."""
    sources = {id(v): (i, v) for i, v in enumerate(old._trainable_variables)}
    pairs = {
        id(target): sources.get(id(source)) for source, target in rebuild.variables()
    }
    old_slots = slots(old)
    for (part, attribute, position), slot in slots(new).items():
        source = pairs.get(id(new._trainable_variables[position]))
        if source is None:
            continue
        number, variable = source
        before = old_slots.get((part, attribute, number))
        if before is not None and tuple(before.shape) == tuple(variable.shape):
            value = keras.ops.convert_to_numpy(before)
            slot.assign(rebuild.resized(variable, value))
    new.iterations.assign(old.iterations)


def _check_steps(begin_step: Any, end_step: Any, frequency: Any) -> None:
    for name, value, least in (
        ("begin_step", begin_step, 0),
        ("end_step", end_step, 1),
        ("frequency", frequency, 1),
    ):
        whole(name, value, least, "steps")
    if end_step < begin_step:
        raise UsageError(
            "`end_step` must not come before `begin_step`",
            received=(begin_step, end_step),
        )
