"""`kacc.measure`: what a model or a file is worth and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kacc.converters.artifact import Artifact
from kacc.converters.parity import reference_outputs
from kacc.converters.runtime import from_grid, host
from kacc.converters.samples import Samples, gather
from kacc.converters.signature import signature_of
from kacc.measurement.accuracy import accuracy
from kacc.measurement.latency import Latency, inputs_of, latency
from kacc.measurement.macs import macs
from kacc.measurement.memory import gzip_bytes, peak_memory_bytes, size_bytes


@dataclass(frozen=True)
class Measurement:
    """What a model or file is worth and what it costs.

    Args:
        name: the model's name or the file's target.
        accuracy: share of right classes, or what the metric gave; None if neither is
            known.
        size_bytes: of the file, or of the model's variables.
        gzip_bytes: the same after gzip.
        latency: of one sample.
        peak_memory_bytes: of the activations alive at once for one sample; None where
            the runtime decides.
        samples: how many samples the accuracy was measured on.
        host: the machine.
        macs: multiply-accumulates for one sample, or None if some cannot be counted.
    """

    name: str
    accuracy: float | None
    size_bytes: int
    gzip_bytes: int
    latency: Latency
    peak_memory_bytes: int | None
    samples: int
    host: str
    macs: int | None = None

    def __str__(self) -> str:
        return self.name + ": " + ", ".join(f"{k} {v}" for k, v in self._figures())

    def __rich__(self) -> Any:
        from rich.table import Table

        table = Table(
            title=self.name, show_header=False, box=None, title_justify="left"
        )
        for name, value in self._figures():
            table.add_row(name, value)
        return table

    def _figures(self) -> list[tuple[str, str]]:
        figures = [
            ("size", readable_bytes(self.size_bytes)),
            ("gzip", readable_bytes(self.gzip_bytes)),
            ("latency", str(self.latency)),
        ]
        if self.peak_memory_bytes is not None:
            peak = readable_bytes(self.peak_memory_bytes)
            figures.append(("peak activations", peak))
        if self.macs is not None:
            figures.append(("MACs", f"{self.macs:,}"))
        if self.accuracy is not None:
            figures.insert(0, ("accuracy", f"{self.accuracy:.4f} ({self.samples})"))
        return figures


def measure(
    model_or_artifact: Any,
    x: Any,
    y: Any = None,
    *,
    metric: Callable[[np.ndarray, np.ndarray], float] | None = None,
    threads: int = 1,
    kernels: str | None = None,
) -> Measurement:
    """Measures accuracy, size, latency, memory and multiply-accumulates.

    Args:
        model_or_artifact: a built Keras model, compiled or not, or an `Artifact`.
        x: samples: arrays (a list or dictionary for several inputs), or what yields
            batches with labels.
        y: labels, class numbers or one-hot; of a model with several outputs those of
            the first one. Not needed if `x` brings them.
        metric: called as `metric(labels, outputs)` in the place of the accuracy.
        threads: of a file's runtime.
        kernels: of a file's runtime: "xnnpack", "builtin" or "reference".

    Returns:
        A `Measurement`. The accuracy is None without labels, or if they are no classes
        and no metric is given.

    Raises:
        UsageError: if `x` or `y` does not fit the model.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> measure(model, np.ones((8, 4))).size_bytes
        40
    """
    samples = gather(x, inputs_of(model_or_artifact), "The data")
    labels = samples.labels if y is None else np.asarray(y)
    score = None
    if labels is not None:
        outputs = _first_output(model_or_artifact, samples, kernels, threads)
        score = (metric or accuracy)(*_ordered(metric, outputs, labels))
    one = [array[:1] for array in samples.inputs]
    is_file = isinstance(model_or_artifact, Artifact)
    return Measurement(
        name=model_or_artifact.target if is_file else model_or_artifact.name,
        accuracy=None if score is None else float(score),
        size_bytes=size_bytes(model_or_artifact),
        gzip_bytes=gzip_bytes(model_or_artifact),
        latency=latency(model_or_artifact, one, threads=threads, kernels=kernels),
        peak_memory_bytes=peak_memory_bytes(model_or_artifact),
        samples=len(samples),
        host=host(),
        macs=macs(model_or_artifact),
    )


def readable_bytes(count: float) -> str:
    """A number of bytes as a person reads it.

    Example:
        >>> readable_bytes(812), readable_bytes(96_512)
        ('812 B', '94.2 KiB')
    """
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.1f} {unit}" if unit != "B" else f"{count:.0f} B"
        count /= 1024
    return f"{count:.1f} GiB"


def _ordered(metric: Any, outputs: np.ndarray, labels: np.ndarray) -> tuple:
    return (outputs, labels) if metric is None else (labels, outputs)


def _first_output(
    model_or_artifact: Any, samples: Samples, kernels: str | None, threads: int
) -> np.ndarray:
    if not isinstance(model_or_artifact, Artifact):
        packed = signature_of(model_or_artifact, None).packed
        return reference_outputs(model_or_artifact, packed, samples)[0]
    feeds = model_or_artifact.feeds(samples.inputs)
    value = model_or_artifact.runtime(kernels, threads).run(feeds)[0]
    info = model_or_artifact.manifest.outputs[0]
    integer = info.is_quantized and value.dtype.kind in "iu"
    return from_grid(value, info) if integer else value
