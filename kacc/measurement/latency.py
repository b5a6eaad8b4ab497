"""Latency of one sample: medians of single calls, and fair comparisons of several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kacc.converters.artifact import Artifact
from kacc.converters.samples import Samples
from kacc.converters.signature import signature_of
from kacc.converters.timing import interleaved
from kacc.core.errors import UsageError
from kacc.core.manifest import TensorInfo

REPEATS = 50


@dataclass(frozen=True)
class Latency:
    """Milliseconds of single calls with one sample.

    Args:
        median, p90: of the calls.
        calls: how many were timed.
        threads: how many threads the call may use; None for a Keras model, which takes
            TensorFlow's.

    Example:
        >>> str(Latency(1.5, 2.0, 50, 1))
        '1.500 ms (90 % within 2.000 ms, 1 thread)'
    """

    median: float
    p90: float
    calls: int
    threads: int | None

    def __str__(self) -> str:
        plural = "" if self.threads == 1 else "s"
        threads = f", {self.threads} thread{plural}" if self.threads else ""
        return f"{self.median:.3f} ms (90 % within {self.p90:.3f} ms{threads})"


@dataclass(frozen=True)
class LatencyRatio:
    """How the latency of a candidate relates to that of the first one.

    Args:
        name: the candidate's.
        latency: its own figures.
        ratio: the median over rounds of its time divided by the first one's.
        low, high: the quartiles of that ratio over the rounds, its spread.
    """

    name: str
    latency: Latency
    ratio: float
    low: float
    high: float


def latency(
    model_or_artifact: Any,
    sample: Sequence[np.ndarray],
    *,
    threads: int = 1,
    kernels: str | None = None,
    repeats: int = REPEATS,
) -> Latency:
    """Times single calls with one sample.

    Args:
        model_or_artifact: a built Keras model, or an `Artifact`.
        sample: one array per input, real numbers, with a batch axis of 1.
        threads: of a file's runtime.
        kernels: of a file's runtime.
        repeats: how many calls, fewer if they take longer than 5 seconds in all.

    Returns:
        The `Latency`.
    """
    call = caller(model_or_artifact, sample, threads, kernels)
    is_file = isinstance(model_or_artifact, Artifact)
    seconds = interleaved([call], repeats)[0]
    return _latency(seconds, threads if is_file else None)


def compare_latency(
    candidates: Mapping[str, Any],
    x: Any,
    *,
    threads: int = 1,
    kernels: str | None = None,
    repeats: int = REPEATS,
) -> list[LatencyRatio]:
    """Times several models and files call by call in turn.

    The machine's other work then slows all of them alike, so that ratios hold where
    single figures waver.

    Args:
        candidates: models or artifacts by name, all with the same inputs; the first is
            what the others are compared with.
        x: samples, of which the first is used.
        threads: of the files' runtimes.
        kernels: of the files' runtimes.
        repeats: how many rounds, fewer if they take longer than 5 seconds for each
            candidate.

    Returns:
        A `LatencyRatio` for each candidate, in their order.

    Raises:
        UsageError: if there is no candidate.
    """
    if not candidates:
        raise UsageError("There must be a candidate to time", received="none")
    from kacc.converters.samples import check

    calls, is_file = [], []
    for candidate in candidates.values():
        sample = [a[:1] for a in check(_first(x), inputs_of(candidate), "The data")]
        calls.append(caller(candidate, sample, threads, kernels))
        is_file.append(isinstance(candidate, Artifact))
    seconds = interleaved(calls, repeats)
    ratios = seconds / seconds[0]
    return [
        LatencyRatio(
            name=name,
            latency=_latency(times, threads if file else None),
            ratio=float(np.median(ratio)),
            low=float(np.quantile(ratio, 0.25)),
            high=float(np.quantile(ratio, 0.75)),
        )
        for name, times, ratio, file in zip(
            candidates, seconds, ratios, is_file, strict=True
        )
    ]


def inputs_of(model_or_artifact: Any) -> tuple[TensorInfo, ...]:
    """The inputs of a model or file, in real numbers."""
    from kacc.converters.runtime import real

    if isinstance(model_or_artifact, Artifact):
        return tuple(real(info) for info in model_or_artifact.manifest.inputs)
    return signature_of(model_or_artifact, None).inputs


def caller(
    model_or_artifact: Any,
    sample: Sequence[np.ndarray],
    threads: int,
    kernels: str | None,
) -> Callable[[], object]:
    """A function that runs a model or file on one sample, and nothing else."""
    if isinstance(model_or_artifact, Artifact):
        runtime = model_or_artifact.runtime(kernels, threads)
        feeds = model_or_artifact.feeds(sample)
        # A file of a fixed batch size is timed with a whole batch.
        runtime.load(next(Samples(feeds).batches(runtime.batch or 1)))
        return runtime.invoke
    import tensorflow as tf

    model = model_or_artifact
    packed = signature_of(model, None).packed
    inputs = [tf.constant(array) for array in sample]
    specs = [tf.TensorSpec(x.shape, x.dtype) for x in inputs]
    function = tf.function(
        lambda *flat: model(packed(flat), training=False),
        input_signature=specs,
        autograph=False,
    ).get_concrete_function()
    return lambda: function(*inputs)


def _first(x: Any) -> Any:
    """The first batch of what yields batches; arrays as they are."""
    import tensorflow as tf

    if isinstance(x, tf.data.Dataset):
        x = next(iter(x))
        return x[0] if isinstance(x, tuple) else x
    return x


def _latency(seconds: np.ndarray, threads: int | None) -> Latency:
    milliseconds = seconds * 1e3
    return Latency(
        median=float(np.median(milliseconds)),
        p90=float(np.quantile(milliseconds, 0.9)),
        calls=len(milliseconds),
        threads=threads,
    )
