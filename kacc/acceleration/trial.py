"""Trying settings on a model and leaving it as it was, to the bit."""

from __future__ import annotations

import contextlib
import gc
import random
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kacc.acceleration.changes import notes, set_notes, set_optimizer
from kacc.acceleration.memory import peak_of
from kacc.acceleration.model import restore
from kacc.acceleration.setting import Setting
from kacc.core import attach
from kacc.core.errors import UsageError

_WARM_UP = 3  # calls before those that count: they fill pools and caches
_LONGEST = 300  # characters of an error in a table
_LEAST = 5  # rounds that a median is taken of even if they take longer


@dataclass
class Trial:
    """A setting, its traced step, and what came of it.

    Args:
        setting: what is on.
        run: one call of the step; it returns when the work is done.
        loss: of the first step from the model's weights, or the mean of as many as
            there are in a call.
        tolerance: by how much the loss may differ from that of the model as it is, as a
            share of it.
        peak: bytes that a step takes beyond what is there before.
        failure: why it could not be run.
        seconds: of each round, for one step.
    """

    setting: Setting
    run: Any = None
    loss: float = float("nan")
    tolerance: float = 0.0
    peak: int | None = None
    failure: str | None = None
    seconds: np.ndarray | None = None

    @property
    def steps(self) -> int:
        """Steps in one call."""
        return self.setting.steps or 1


@contextlib.contextmanager
def untouched(model: keras.Model) -> Iterator[Snapshot]:
    """Inside, anything may be tried; afterwards the model is what it was.

    Weights, statistics, seeds, metrics, policies, functions, and the optimizer, in the
    place of which stands a twin with the same state.
    """
    optimizer, compiled = model.optimizer, dict(model._compile_config.config)
    functions = {
        name: getattr(model, f"{name}_function")
        for name in ("train", "test", "predict")
    }
    noted = notes(model)
    generators = random.getstate(), np.random.get_state()  # noqa: NPY002
    snapshot = Snapshot(model)
    set_notes(model, {})
    set_optimizer(model, twin_of(optimizer, model))
    snapshot.add(model.optimizer.variables)
    try:
        with _quiet():
            yield snapshot
    finally:
        restore(model)
        set_optimizer(model, optimizer)
        model._compile_config.config.update(compiled)
        set_notes(model, noted)
        for name, function in functions.items():
            setattr(model, f"{name}_function", function)
        snapshot.put_back()
        random.setstate(generators[0])
        np.random.set_state(generators[1])  # noqa: NPY002


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Inside, TensorFlow does not warn that one step is traced again and again."""
    logger = tf.get_logger()
    before = logger.level
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        logger.setLevel(before)


class Snapshot:
    """The values of a model's variables, kept to put them back.

    Args:
        model: built.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._values: dict[int, tuple[Any, Any]] = {}
        self.add([*model.variables, *model.metrics_variables])

    def add(self, variables: Sequence[Any]) -> None:
        """Keeps the values of more variables."""
        for variable in variables:
            self._values[id(variable)] = variable, tf.identity(variable.value)

    def put_back(self) -> None:
        """Puts all values back; metrics that were made since start anew."""
        for metric in self._model.metrics:
            if any(id(v) not in self._values for v in metric.variables):
                metric.reset_state()
        for variable, value in self._values.values():
            variable.assign(value)


def twin_of(optimizer: Any, model: keras.Model) -> Any:
    """An optimizer of the same kind and state, built for the model's variables."""
    twin = type(optimizer).from_config(optimizer.get_config())
    twin.build(model.trainable_variables)
    if optimizer.built:
        pairs = zip(twin.variables, optimizer.variables, strict=True)
        for variable, value in pairs:
            variable.assign(value)
    return twin


def prepare(
    model: keras.Model, setting: Setting, batch: Any, snapshot: Snapshot
) -> Trial:
    """Traces the step of a setting and takes its loss and memory.

    What fails is a trial with its reason. Inside `untouched`.
    """
    trial = Trial(setting, tolerance=setting.tolerance(_is_quantized(model)))
    snapshot.put_back()
    data = iter(tf.data.Dataset.from_tensors(batch).repeat())
    try:
        setting.apply(model)
        model.make_train_function(force=True)
        function = model.train_function

        def run() -> float:
            return float(function(data)["loss"])

        model.reset_metrics()
        trial.loss = run()
        trial.peak = peak_of(run)
        trial.run = run
    except Exception as error:  # whatever TensorFlow, XLA or a layer may raise
        trial.failure = _first_line(error)
    finally:
        restore(model)
    return trial


def measure(trials: Sequence[Trial], rounds: int, seconds: float, advance: Any) -> None:
    """Times the steps of all trials that run, a call of each in turn.

    Args:
        trials: prepared.
        rounds: calls of each that count.
        seconds: after which no more rounds begin, but for a few.
        advance: called after each round.
    """
    able = [trial for trial in trials if trial.failure is None]
    taken: list[list[float]] = []
    started = time.perf_counter()
    collecting = gc.isenabled()
    gc.disable()
    try:
        for index in range(-_WARM_UP, rounds):
            # In turn, since a call leaves the caches as it does.
            turn = index % len(able)
            order = [*range(turn, len(able)), *range(turn)]
            row = dict.fromkeys(order, 0.0)
            for position in order:
                trial = able[position]
                begun = time.perf_counter()
                trial.run()
                row[position] = (time.perf_counter() - begun) / trial.steps
            if index >= 0:
                taken.append([row[position] for position in range(len(able))])
            advance()
            late = time.perf_counter() - started > seconds
            if late and len(taken) >= _LEAST:
                break
    finally:
        if collecting:
            gc.enable()
    for trial, times in zip(able, np.array(taken).T, strict=True):
        trial.seconds = times


def _is_quantized(model: keras.Model) -> bool:
    """Whether tensors go through transforms, which round them."""
    transforms = (t for x in attach.attached(model) for t in attach.transforms_of(x))
    return any(t.enabled and not t.weights_only for t in transforms)


# Codes by which terminals change colours: Keras puts its messages in bold.
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def _first_line(error: Exception) -> str:
    """What an error says, without the frame that Keras puts around it."""
    text = _COLOURS.sub("", str(error))
    if isinstance(error, UsageError):  # the rule alone; what to do is not asked here
        return text.split(". Received: ")[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Exception encountered")]
    shown = f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": ")
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]} ..."
