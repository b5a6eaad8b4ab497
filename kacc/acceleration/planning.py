"""Measuring on this machine what makes a model's training step faster."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kacc.acceleration.batches import check_data, first_batch
from kacc.acceleration.changes import check_model
from kacc.acceleration.fusion import fusible
from kacc.acceleration.memory import check_memory
from kacc.acceleration.setting import Setting
from kacc.acceleration.trial import Trial, measure, prepare, untouched
from kacc.core.arguments import whole
from kacc.core.errors import UsageError
from kacc.core.shown import Shown

# A piece is kept if it saves this share of a step: less is within what machines vary.
_WORTH = 0.03
# Several steps in a call must save more: callbacks are called less often then.
_WORTH_CALLBACKS = 0.1
_STEPS = 8  # in one call, where that is tried

# Together they take no longer than this, but for tracing and compiling.
_SECONDS = 60.0


@dataclass(frozen=True)
class Row:
    """One setting that was tried.

    Args:
        setting: what was on.
        median_ms: of a step; NaN if it could not be run.
        ratio: the step's time by that of the model as it is: the median over rounds.
        low, high: the quartiles of that ratio, its spread.
        peak_bytes: that a step takes; None where TensorFlow does not count them. On
            CPUs it does not count tensors below 256 KiB.
        loss: of the first step.
        refused: why it is not kept whatever its time, or None.
    """

    setting: Setting
    median_ms: float
    ratio: float
    low: float
    high: float
    peak_bytes: int | None
    loss: float
    refused: str | None = None

    @property
    def is_faster(self) -> bool:
        """Whether it is faster by more than the spread."""
        return self.refused is None and self.ratio <= 1 - _WORTH and self.high < 1


@dataclass(frozen=True)
class Plan(Shown):
    """What was tried on a model, and what would be kept.

    `print(plan)` and a rich console show the table.

    Args:
        name: the model's.
        rows: what was tried, first the model as it is.
        keep: the setting to keep.
        reason: why.
        batch: examples of the batch it was measured with.
        device: on which.
    """

    name: str
    rows: tuple[Row, ...]
    keep: Setting
    reason: str
    batch: int
    device: str

    def apply(self, model: keras.Model) -> keras.Model:
        """Switches on in a model what the plan keeps, in place.

        Args:
            model: the one that was measured, or one like it.

        Returns:
            The same model.

        Raises:
            UsageError: if it is not built and compiled.
        """
        check_model(model, compiled=True)
        self.keep.apply(model)
        return model

    def __rich__(self) -> Any:
        from rich.box import SIMPLE
        from rich.console import Group
        from rich.table import Table

        title = f"Training step of {self.name}, batch {self.batch}, {self.device}"
        table = Table(title=title, title_justify="left", box=SIMPLE)
        table.add_column("tried")
        for heading in ("median ms", "of the step", "quartiles", "peak memory"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("")
        for row in self.rows:
            table.add_row(*_cells(row, row.setting == self.keep))
        return Group(table, f"Keeps {self.keep}: {self.reason}.")


def plan(
    model: keras.Model,
    data: Any,
    *,
    batch_size: int = 32,
    rounds: int = 20,
    memory: float | None = None,
    verbose: bool = True,
) -> Plan:
    """Tries on this machine what may make a model's training step faster.

    Each piece is tried, then those that are faster together: fused batch normalization;
    mixed precision in bfloat16, on GPUs in float16 too; XLA on or off; several steps in
    a call. Steps are timed in turn, so that what disturbs one disturbs all. A setting
    is kept only if its first loss is that of the model as it is, within 3 % in half
    precision or of a quantized model and 0.1 % else; several steps in a call only if
    they save a tenth, since callbacks are called less often then. The model is left
    exactly as it was.

    Args:
        model: built and compiled Keras 3 model on the TensorFlow backend.
        data: what `fit` takes: a Dataset or PyDataset of batches, or arrays (x, y). The
            first batch is used.
        batch_size: of arrays.
        rounds: steps of each setting that are timed, fewer if they take long.
        memory: bytes that a step may take, if they are short: rematerialization is
            tried then, and settings that take more are not kept.
        verbose: whether progress is shown, and the plan at the end.

    Returns:
        A `Plan`; `plan.apply(model)` switches on what it keeps.

    Raises:
        UsageError: for anything but such a model and data.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model.compile("sgd", "mse")
        >>> data = np.zeros((8, 4)), np.zeros((8, 2))
        >>> plan(model, data, rounds=2, verbose=False).rows[0].ratio
        1.0
    """
    check_model(model, compiled=True)
    check_data(data, batch_size)
    whole("rounds", rounds, 1)
    check_memory(memory)
    _check_way(model)
    batch = first_batch(data, batch_size)
    settings = _singles(model, memory is not None)
    with untouched(model) as snapshot, _progress(verbose) as show:
        trials = _run(model, settings, batch, snapshot, rounds, show)
        more = _together(_rows(trials, memory))
        if more is not None:
            trials = [*trials, *_run(model, more, batch, snapshot, rounds, show)]
    rows = _rows(trials, memory)
    keep, reason = _choice(rows, memory)
    result = Plan(
        model.name,
        rows,
        keep,
        reason,
        int(keras.tree.flatten(batch[0])[0].shape[0]),
        "GPU" if tf.config.list_logical_devices("GPU") else "CPU",
    )
    if verbose:
        from rich.console import Console

        Console(stderr=True).print(result)
    return result


def _check_way(model: keras.Model) -> None:
    if model.run_eagerly:
        raise UsageError(
            "The time of a step that runs eagerly is that of Python",
            received=f"{model.name!r} with run_eagerly=True",
            fix="Compile it with run_eagerly=False",
        )
    if model.distribute_strategy.num_replicas_in_sync > 1:
        raise UsageError(
            "A plan is measured on one device",
            received=type(model.distribute_strategy).__name__,
            fix="Measure a model that is made outside of the strategy's scope, and "
            "apply the plan to this one",
        )


def _singles(model: keras.Model, short: bool) -> list[Setting]:
    """The model as it is, and each piece that would change it."""
    on_gpu = bool(tf.config.list_logical_devices("GPU"))
    fused = fusible(model)
    base = Setting(fused=fused)
    # Layers of texts and whole numbers have types of their own, which say nothing.
    others = ("bfloat16", "float16", "float64")
    is_mixed = any(x.compute_dtype in others for x in model._flatten_layers())
    settings = [Setting()]
    if fused:
        settings.append(base)
    if not is_mixed:
        dtypes = ("bfloat16", "float16") if on_gpu else ("bfloat16",)
        settings += [replace(base, dtype=dtype) for dtype in dtypes]
    settings.append(replace(base, xla=not model.jit_compile))
    if model.steps_per_execution == 1:
        settings.append(replace(base, steps=_STEPS))
    if short:
        settings.append(replace(base, rematerialized=True))
    return settings


def _together(rows: Sequence[Row]) -> list[Setting] | None:
    """The model as it is and all that was faster alone, or None if that is known."""
    fused = next((r for r in rows if r.setting == Setting(fused=True)), None)
    floor = 1.0 if fused is None else min(1.0, fused.ratio)
    good = [
        row
        for row in rows
        if row.is_faster
        and row.setting.pieces - row.setting.fused == 1
        and row.ratio <= floor * (1 - _least(row))
        and not row.setting.rematerialized
    ]
    dtypes = sorted((r for r in good if r.setting.dtype), key=lambda r: r.ratio)
    others = [row for row in good if not row.setting.dtype]
    if len(others) + bool(dtypes) < 2:
        return None
    merged = others[0].setting
    for row in [*others[1:], *dtypes[:1]]:
        merged = replace(
            merged,
            dtype=row.setting.dtype or merged.dtype,
            xla=merged.xla if row.setting.xla is None else row.setting.xla,
            steps=row.setting.steps or merged.steps,
        )
    return [Setting(), merged]


def _least(row: Row) -> float:
    """The share of a step that a setting must save."""
    return _WORTH_CALLBACKS if row.setting.steps else _WORTH


def _run(
    model: keras.Model,
    settings: Sequence[Setting],
    batch: Any,
    snapshot: Any,
    rounds: int,
    show: Any,
) -> list[Trial]:
    trials = []
    for setting in settings:
        show(f"tracing: {setting}")
        trials.append(prepare(model, setting, batch, snapshot))
    if trials[0].failure is not None:
        raise UsageError("The model must train as it is", received=trials[0].failure)
    show("timing steps")
    measure(trials, rounds, _SECONDS, lambda: show("timing steps"))
    return trials


def _rows(trials: Sequence[Trial], memory: float | None) -> tuple[Row, ...]:
    """A row for each trial, compared with the model as it is in the same rounds."""
    rows: list[Row] = []
    base = trials[0]
    for trial in trials:
        if trial.setting == Setting():
            base = trial
            if rows:
                continue  # it was timed once more beside the last ones
        if trial.failure is not None or trial.seconds is None:
            nan = float("nan")
            rows.append(
                Row(trial.setting, nan, nan, nan, nan, None, nan, trial.failure)
            )
            continue
        ratios = np.percentile(trial.seconds / base.seconds, [25, 50, 75])
        median = float(np.median(trial.seconds)) * 1e3
        refused = _refused(trial, base, memory)
        low, ratio, high = map(float, ratios)
        rows.append(
            Row(
                trial.setting, median, ratio, low, high, trial.peak, trial.loss, refused
            )
        )
    return tuple(rows)


def _refused(trial: Trial, base: Trial, memory: float | None) -> str | None:
    difference = abs(trial.loss - base.loss)
    # Several steps in a call report the mean of their losses, on one batch again and
    # again: only that it is a loss can be said.
    compared = trial.steps == 1
    if not np.isfinite(trial.loss) and np.isfinite(base.loss):
        return f"its loss is {trial.loss}"
    if compared and not difference <= trial.tolerance * max(abs(base.loss), 1e-3):
        return f"it computes another loss: {trial.loss:.6g} for {base.loss:.6g}"
    if memory is not None and trial.peak is not None and trial.peak > memory:
        return "it takes more memory than there is"
    return None


def _choice(rows: Sequence[Row], memory: float | None) -> tuple[Setting, str]:
    """The setting to keep, and why."""
    if memory is not None and rows[0].refused:
        fitting = [row for row in rows[1:] if row.refused is None]
        if not fitting:
            return Setting(), (
                "nothing fits; smaller batches with "
                "kacc.acceleration.accumulate_gradients would"
            )
        best = min(fitting, key=lambda row: row.ratio)
        return best.setting, f"the fastest that fits, {best.ratio:.2f} of the step"
    faster = [row for row in rows[1:] if row.is_faster]
    without = min((r.ratio for r in faster if not r.setting.steps), default=1.0)
    worth = without * (1 - _WORTH_CALLBACKS)
    faster = [row for row in faster if not row.setting.steps or row.ratio <= worth]
    if not faster:
        return Setting(), "nothing was faster by more than the spread"
    best = min(faster, key=lambda row: row.ratio)
    # Of what is as fast, what changes least.
    near = [row for row in faster if row.ratio <= best.ratio * (1 + _WORTH)]
    best = min(near, key=lambda row: (row.setting.pieces, row.ratio))
    spread = f"{best.low:.2f} to {best.high:.2f}"
    return best.setting, f"{best.ratio:.2f} of the step ({spread})"


def _cells(row: Row, kept: bool) -> list[str]:
    if np.isnan(row.ratio):
        return [str(row.setting), "-", "-", "-", "-", row.refused or ""]
    peak = "-" if row.peak_bytes is None else f"{row.peak_bytes / 2**20:,.1f} MiB"
    return [
        str(row.setting),
        f"{row.median_ms:.2f}",
        f"{row.ratio:.3f}",
        f"{row.low:.3f} .. {row.high:.3f}",
        peak,
        "kept" if kept else row.refused or "",
    ]


@contextlib.contextmanager
def _progress(verbose: bool) -> Iterator[Any]:
    """Gives a function that says what is being done, on standard error."""
    if not verbose:
        yield lambda text: None
        return
    from rich.console import Console

    with Console(stderr=True).status("plan") as status:
        yield status.update
