"""`kacc.measurement.profile`: what a training step waits for."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kacc.acceleration.batches import batches, check_data, first_batch
from kacc.acceleration.changes import check_model
from kacc.acceleration.execution import compile_step, several_steps
from kacc.acceleration.trial import untouched
from kacc.core import attach
from kacc.core.arguments import whole
from kacc.core.errors import UsageError
from kacc.core.graph import is_container
from kacc.core.shown import Shown
from kacc.measurement.trace import OPTIMIZER, REST, composites, scoped, trace_times

_WARM_UP = 3
_SHOWN = 12  # layers in the table; the others are one line
_WORTH = 0.1  # share of a step that is worth a word
INPUT = "input pipeline"


@dataclass(frozen=True)
class Part:
    """What one part of a step takes.

    Args:
        name: a layer's path, "input pipeline", "optimizer", or "loss, metrics, rest".
        kind: of a layer, its class. Keras's layers that are made of others, such as
            attention, have the time of these as well; of other layers, and models, that
            hold layers it is that of their own operations.
        forward_ms, backward_ms: of its operations, in all threads; of the input
            pipeline, what a step waits for it.
        share: of the step with its data.
    """

    name: str
    kind: str
    forward_ms: float
    backward_ms: float
    share: float


@dataclass(frozen=True)
class Profile(Shown):
    """Where the time of a training step goes.

    `print(profile)` and a rich console show the table and what to do.

    Args:
        name: the model's.
        parts: the largest first.
        step_ms: a step whose batch is there already, the median.
        batch_ms: a batch alone.
        with_data_ms: a step that gets its batch from the data.
        operations_ms: the sum of the step's operations; it is more than the step where
            they run side by side, and less where the step waits between them.
        advice: what to do.
    """

    name: str
    parts: tuple[Part, ...]
    step_ms: float
    batch_ms: float
    with_data_ms: float
    operations_ms: float
    advice: str

    @property
    def bottleneck(self) -> str:
        """The part that takes most: a layer's path, the input pipeline, ..."""
        return self.parts[0].name

    def __rich__(self) -> Any:
        from rich.box import SIMPLE
        from rich.console import Group
        from rich.table import Table

        table = Table(
            title=f"Training step of {self.name}", title_justify="left", box=SIMPLE
        )
        table.add_column("part")
        table.add_column("kind")
        for heading in ("forward ms", "backward ms", "share"):
            table.add_column(heading, justify="right", no_wrap=True)
        for part in self.parts[:_SHOWN]:
            table.add_row(*_cells(part))
        others = self.parts[_SHOWN:]
        if others:
            sums = [sum(getattr(p, f) for p in others) for f in _FIGURES]
            table.add_row(*_cells(Part(f"{len(others)} others", "", *sums)))
        times = (
            f"A step takes {self.step_ms:.2f} ms, a batch {self.batch_ms:.2f} ms, a "
            f"step with its batch {self.with_data_ms:.2f} ms. The step's operations "
            f"take {self.operations_ms:.2f} ms in all threads."
        )
        kinds: dict[str, float] = {}
        for part in self.parts:
            kinds[part.kind] = kinds.get(part.kind, 0.0) + part.share
        largest = sorted((k for k in kinds if k), key=lambda k: -kinds[k])[:4]
        by_kind = ", ".join(f"{kind} {kinds[kind]:.0%}" for kind in largest)
        return Group(table, times, f"By kind: {by_kind}.", self.advice)


_FIGURES = ("forward_ms", "backward_ms", "share")


def profile(
    model: keras.Model, data: Any, *, batch_size: int = 32, steps: int = 10
) -> Profile:
    """Finds what a training step spends its time on: data, a layer, the optimizer.

    Times of layers are those of their operations in TensorFlow's own trace, which the
    layers' names are put into for the moment. The share of a layer is that of its
    operations, applied to the step's time on the clock. A step that XLA compiles is
    one operation in the trace, so it is profiled without XLA. The model is left exactly
    as it was.

    Args:
        model: built and compiled Keras 3 model on the TensorFlow backend.
        data: what `fit` takes: a Dataset or PyDataset of batches, or arrays (x, y).
        batch_size: of arrays.
        steps: that are timed, and as many that are traced.

    Returns:
        A `Profile`.

    Raises:
        UsageError: for anything but such a model and data.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model.compile("sgd", "mse")
        >>> result = profile(model, (np.zeros((64, 4)), np.zeros((64, 2))), steps=2)
        >>> sorted(part.kind for part in result.parts)
        ['', '', '', 'Dense']
    """
    check_model(model, compiled=True)
    check_data(data, batch_size)
    whole("steps", steps, 1)
    if model.run_eagerly:
        raise UsageError(
            "The time of a step that runs eagerly is that of Python",
            received=f"{model.name!r} with run_eagerly=True",
            fix="Compile it with run_eagerly=False",
        )
    batch = first_batch(data, batch_size)
    batch_ms = _batch_ms(data, batch_size, steps)
    with untouched(model), scoped(model) as layers:
        if model.jit_compile:
            compile_step(model, False)
        several_steps(model, 1)
        model.make_train_function(force=True)
        function = model.train_function

        def run(one: Any = batch) -> None:
            float(function(iter([one]))["loss"])

        for _ in range(_WARM_UP):
            run()
        step_ms, with_data_ms = _steps(run, data, batch_size, steps)
        times = trace_times(run, steps, composites(layers))
    owners = {str(n): x for n, x in enumerate(layers)}
    # A step waits no longer for a batch than that takes alone: the rest is noise.
    wait = min(max(0.0, with_data_ms - step_ms), batch_ms)
    with_data_ms = step_ms + wait
    parts = _parts(times, owners, step_ms, wait)
    return Profile(
        model.name,
        parts,
        step_ms,
        batch_ms,
        with_data_ms,
        sum(times.values()) * 1e3,
        _advice(parts, {x.path or x.name: x for x in layers}, batch_ms, step_ms),
    )


def _batch_ms(data: Any, batch_size: int, steps: int) -> float:
    """Milliseconds from one batch to the next, the median, without steps."""
    source = _endless(data, batch_size)
    next(source)  # pipelines start with it
    return _median([_ms(lambda: next(source)) for _ in range(steps)])


def _endless(data: Any, batch_size: int) -> Iterator[Any]:
    """Batches; behind the last one the first comes again, as in the next epoch."""
    return itertools.chain.from_iterable(
        batches(data, batch_size) for _ in itertools.count()
    )


def _steps(
    run: Callable[..., None], data: Any, batch_size: int, steps: int
) -> tuple[float, float]:
    """Milliseconds of a step, and of one that gets its batch; one of each in turn.

    A pipeline that works ahead does so during the step between two batches as well, so
    that one goes before each of those that count.
    """
    source = _endless(data, batch_size)
    run(next(source))
    alone: list[float] = []
    fed: list[float] = []
    for _ in range(steps):
        alone.append(_ms(run))
        run(next(source))
        fed.append(_ms(lambda: run(next(source))))
    return _median(alone), _median(fed)


def _median(values: list[float]) -> float:
    return float(np.median(values))


def _ms(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return (time.perf_counter() - started) * 1e3


def _parts(
    times: Mapping[tuple[str, bool], float],
    owners: dict[str, Any],
    step: float,
    wait: float,
) -> tuple[Part, ...]:
    """All parts, the largest first."""
    total = sum(times.values()) or 1.0
    in_step = step / (step + wait) if step + wait else 0.0
    parts = [Part(INPUT, "", wait, 0.0, 1 - in_step)]
    for name in dict.fromkeys(name for name, _ in times):
        forward, backward = (times.get((name, way), 0.0) for way in (False, True))
        layer = owners.get(name)
        shown = {OPTIMIZER: OPTIMIZER, REST: "loss, metrics, rest"}.get(name, "")
        parts.append(
            Part(
                shown if layer is None else layer.path or layer.name,
                "" if layer is None else _kind(layer),
                forward * 1e3,
                backward * 1e3,
                (forward + backward) / total * in_step,
            )
        )
    return tuple(sorted(parts, key=lambda part: -part.share))


def _kind(layer: Any) -> str:
    """The class; of models and layers of one's own what the layers inside leave."""
    name = str(attach.base_class(layer).__name__)
    return f"{name} (own operations)" if is_container(layer) else name


def _advice(
    parts: tuple[Part, ...], layers: dict[str, Any], batch: float, step: float
) -> str:
    """What takes most, and what to do."""
    first = parts[0]
    start = f"The bottleneck is {first.name}, {first.share:.0%} of the time. "
    if first.name == INPUT:
        return start + (
            f"A batch takes {batch:.1f} ms and a step {step:.1f} ms: map with "
            "num_parallel_calls=tf.data.AUTOTUNE, cache what stays the same, and end "
            "the pipeline with .prefetch(tf.data.AUTOTUNE)."
        )
    if first.name == OPTIMIZER:
        return start + (
            "Larger batches or kacc.acceleration.accumulate_gradients update less "
            "often; kacc.acceleration.choose_optimizer compares others."
        )
    unfused = sum(p.share for p in parts if _is_unfused(layers.get(p.name)))
    if unfused > _WORTH:
        return start + (
            f"Batch normalizations take {unfused:.0%}: kacc.accelerate(model) fuses "
            "them."
        )
    if first.name not in layers:
        return start + "Look for metrics and losses that are computed in each step."
    return start + (
        "kacc.acceleration.plan(model, data) measures what makes the step faster; "
        "kacc.prune_channels makes the layers smaller."
    )


def _is_unfused(layer: Any) -> bool:
    return layer is not None and (
        attach.base_class(layer) is keras.layers.BatchNormalization
    )


def _cells(part: Part) -> list[str]:
    return [
        part.name,
        part.kind,
        f"{part.forward_ms:.2f}",
        f"{part.backward_ms:.2f}" if part.backward_ms else "",
        f"{part.share:.1%}",
    ]
