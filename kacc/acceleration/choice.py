"""Which optimizer brings a model to a loss in the fewest steps or the least time."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kacc.acceleration.batches import batches, check_data, first_batch
from kacc.acceleration.changes import check_model, set_optimizer
from kacc.acceleration.trial import untouched
from kacc.core import attach
from kacc.core.arguments import is_number, whole
from kacc.core.errors import UsageError
from kacc.core.shown import Shown

_SMOOTHED = 0.9  # share of the old mean that each step keeps: batches differ
_HELD = 512  # batches that are held in memory and come again


@dataclass(frozen=True)
class OptimizerRow:
    """How one optimizer did.

    Args:
        name: the candidate's.
        losses: the moving average of the loss after each step.
        seconds: of one step, the median.
        steps: until the loss was reached, 10 at least; or None.
    """

    name: str
    losses: tuple[float, ...]
    seconds: float
    steps: int | None

    @property
    def time(self) -> float | None:
        """Seconds until the loss was reached, or None."""
        return None if self.steps is None else self.steps * self.seconds


@dataclass(frozen=True)
class OptimizerChoice(Shown):
    """What each optimizer made of the same weights and batches.

    Args:
        rows: by candidate.
        loss: that was to be reached.
        optimizers: the candidates, not built.
    """

    rows: tuple[OptimizerRow, ...]
    loss: float
    optimizers: Mapping[str, Any]

    @property
    def best(self) -> str:
        """The candidate that reached the loss in the least time; else the lowest."""
        able = [row for row in self.rows if row.time is not None]
        if able:
            return min(able, key=lambda row: row.time or 0.0).name
        return min(self.rows, key=lambda row: _last(row.losses)).name

    def apply(self, model: keras.Model) -> keras.Model:
        """Gives a compiled model the best optimizer, which starts anew."""
        check_model(model, compiled=True)
        set_optimizer(model, _fresh(self.optimizers[self.best]))
        attach.refresh_functions(model)
        return model

    def __rich__(self) -> Any:
        from rich.box import SIMPLE
        from rich.table import Table

        title = f"Steps to a loss of {self.loss:.4g}; the best is {self.best}"
        table = Table(title=title, title_justify="left", box=SIMPLE)
        table.add_column("optimizer")
        for heading in ("steps", "seconds", "ms a step", "last loss"):
            table.add_column(heading, justify="right")
        for row in self.rows:
            table.add_row(
                row.name,
                "-" if row.steps is None else str(row.steps),
                "-" if row.time is None else f"{row.time:.2f}",
                f"{row.seconds * 1e3:.2f}",
                f"{_last(row.losses):.4g}",
            )
        return table


def choose_optimizer(
    model: keras.Model,
    data: Any,
    candidates: Mapping[str, Any] | Sequence[Any] | None = None,
    *,
    steps: int = 200,
    loss: float | None = None,
    batch_size: int = 32,
) -> OptimizerChoice:
    """Trains a model by each of several optimizers and compares the time to a loss.

    All start from the model's weights and see the same batches in the same order. The
    model is left as it was. A few hundred steps say how fast an optimizer starts, and
    not where it ends.

    Args:
        model: built and compiled; its optimizer is a candidate too.
        data: what `fit` takes: a Dataset or PyDataset of batches, or arrays (x, y).
        candidates: optimizers, or name -> optimizer; None for Keras's usual ones.
        steps: that each is given.
        loss: that is to be reached, as a moving average; None for that which the
            model's own optimizer comes to.
        batch_size: of arrays.

    Returns:
        An `OptimizerChoice`; `print` shows a table.

    Raises:
        UsageError: for anything but such a model, data and optimizers.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model.compile(keras.optimizers.SGD(1e-4), "mse")
        >>> data = np.ones((8, 4)), np.ones((8, 2))
        >>> fast = {"faster": keras.optimizers.SGD(1e-2)}
        >>> choose_optimizer(model, data, fast, steps=40).best
        'faster'
    """
    check_model(model, compiled=True)
    check_data(data, batch_size)
    whole("steps", steps, 1)
    if loss is not None and not is_number(loss):
        raise UsageError("`loss` must be a number, or None", received=loss)
    first_batch(data, batch_size)
    optimizers = {"as compiled": model.optimizer, **_named(candidates)}
    held = list(itertools.islice(batches(data, batch_size), min(steps, _HELD)))
    curves: dict[str, tuple[list[float], float]] = {}
    with untouched(model) as snapshot:
        for name, optimizer in optimizers.items():
            snapshot.put_back()
            curves[name] = _trained(model, _fresh(optimizer), held, steps)
    goal = loss if loss is not None else _last(curves["as compiled"][0])
    rows = tuple(
        OptimizerRow(name, tuple(losses), seconds, _reached(losses, goal))
        for name, (losses, seconds) in curves.items()
    )
    fresh = {name: _fresh(optimizer) for name, optimizer in optimizers.items()}
    return OptimizerChoice(rows, goal, fresh)


def _named(candidates: Any) -> dict[str, Any]:
    if candidates is None:
        kinds = keras.optimizers
        return {
            "Adam 1e-3": kinds.Adam(1e-3),
            "AdamW 1e-3": kinds.AdamW(1e-3),
            "Nadam 1e-3": kinds.Nadam(1e-3),
            "Lion 1e-4": kinds.Lion(1e-4),
            "SGD 1e-2, Nesterov 0.9": kinds.SGD(1e-2, 0.9, nesterov=True),
        }
    named = (
        dict(candidates)
        if isinstance(candidates, Mapping)
        else {
            f"{o.name} {i}": o for i, o in enumerate(candidates) if hasattr(o, "name")
        }
    )
    good = all(isinstance(o, keras.optimizers.Optimizer) for o in named.values())
    if not named or not good or len(named) != len(candidates):
        raise UsageError(
            "The candidates must be Keras optimizers",
            received=candidates,
            fix='Pass {"a name": keras.optimizers.Adam(1e-3), ...}',
        )
    return named


def _fresh(optimizer: Any) -> Any:
    return type(optimizer).from_config(optimizer.get_config())


def _trained(
    model: keras.Model, optimizer: Any, held: Sequence[Any], steps: int
) -> tuple[list[float], float]:
    """The smoothed losses of so many steps, and the seconds of one."""
    optimizer.build(model.trainable_variables)
    set_optimizer(model, optimizer)
    before, model.steps_per_execution = model.steps_per_execution, 1
    model.make_train_function(force=True)
    model.steps_per_execution = before
    losses: list[float] = []
    seconds: list[float] = []
    # The correction by which the average is not drawn to where it starts.
    mean = weight = 0.0
    for batch in itertools.islice(itertools.cycle(held), steps):
        model.reset_metrics()
        started = time.perf_counter()
        value = float(model.train_function(iter([batch]))["loss"])
        seconds.append(time.perf_counter() - started)
        mean = _SMOOTHED * mean + (1 - _SMOOTHED) * value
        weight = _SMOOTHED * weight + (1 - _SMOOTHED)
        losses.append(mean / weight)
    # The first call traces.
    return losses, float(np.median(seconds[1:] or seconds))


def _reached(losses: Sequence[float], goal: float) -> int | None:
    """The steps until the average was as low; the first ones average too few."""
    least = min(len(losses), round(1 / (1 - _SMOOTHED)))
    steps = enumerate(losses, start=1)
    return next((i for i, v in steps if v <= goal and i >= least), None)


def _last(losses: Sequence[float]) -> float:
    """The last loss; what is no number is worse than any."""
    return losses[-1] if np.isfinite(losses[-1]) else float("inf")
