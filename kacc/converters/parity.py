"""Parity: how far a file's outputs are from the outputs of the model in Keras."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from kacc.converters.artifact import Artifact
from kacc.converters.formats import TFLITE
from kacc.converters.layer_table import (
    LAYER_SAMPLES,
    LayerParity,
    first_difference,
    layer_table,
)
from kacc.converters.runtime import from_grid, host, real, to_grid
from kacc.converters.samples import Samples, gather
from kacc.converters.signature import signature_of
from kacc.core.errors import UsageError
from kacc.core.manifest import TensorInfo

_BATCH = 64


@dataclass(frozen=True)
class OutputParity:
    """How one output of the file compares with the model's.

    Args:
        name: the output's name.
        count: how many numbers were compared.
        equal: share of equal numbers; on the file's integer grid where it has one.
        within_one: share of numbers at most one integer step apart; None without grid.
        largest_lsb: the largest distance in integer steps; None without grid.
        argmax_agreement: share of samples with the same largest class; None for
            outputs of one number.
        max_abs, max_rel: the largest distance, and as a share of the largest number.
    """

    name: str
    count: int
    equal: float
    within_one: float | None
    largest_lsb: int | None
    argmax_agreement: float | None
    max_abs: float
    max_rel: float


@dataclass(frozen=True)
class Parity:
    """How a file compares with the model that it was made from.

    The figures of all outputs together; `outputs` has them apart. `print(parity)` and
    a rich console show them.

    Args:
        outputs: the figures of each output.
        target: the file's target.
        samples: how many samples were compared.
        kernels: the kernels that the file ran on.
        host: the machine that it ran on.
    """

    outputs: tuple[OutputParity, ...]
    target: str
    samples: int
    kernels: str
    host: str
    _layers: Callable[[], tuple[LayerParity, ...]] = field(repr=False, compare=False)

    @property
    def equal(self) -> float:
        """Share of equal outputs; on the file's integer grid where it has one."""
        return _mean((o.equal, o.count) for o in self.outputs) or 0.0

    @property
    def within_one(self) -> float | None:
        """Share of outputs at most one integer step apart; None for float files."""
        return _mean((o.within_one, o.count) for o in self.outputs)

    @property
    def largest_lsb(self) -> int | None:
        """The largest distance in integer steps; None for float files."""
        known = [o.largest_lsb for o in self.outputs if o.largest_lsb is not None]
        return max(known) if known else None

    @property
    def argmax_agreement(self) -> float | None:
        """Share of samples with the same largest class, over outputs with classes."""
        return _mean((o.argmax_agreement, 1) for o in self.outputs)

    @property
    def max_abs(self) -> float:
        """The largest distance."""
        return max(o.max_abs for o in self.outputs)

    @property
    def max_rel(self) -> float:
        """The largest distance as a share of the largest output."""
        return max(o.max_rel for o in self.outputs)

    @cached_property
    def layers(self) -> tuple[LayerParity, ...]:
        """The comparison layer by layer, in the file's order; computed when asked for.

        Only TFLite files tell which layer a tensor came from; of others it is empty.

        Values of plain models are floats, so in an integer file each layer's distance
        is what quantization costs up to there.
        """
        return self._layers()

    @property
    def first_difference(self) -> LayerParity | None:
        """The first layer whose values differ, or None."""
        return first_difference(self.layers)

    def __str__(self) -> str:
        from kacc.converters.parity_text import text

        return text(self)

    def __rich__(self) -> Any:
        from kacc.converters.parity_text import rich_view

        return rich_view(self)


def parity(
    model: Any, artifact: Artifact, x: Any, kernels: str | None = None
) -> Parity:
    """Compares the outputs of a file with those of the model in Keras.

    A quantized model computes as the file does on XNNPACK's kernels. On others it is
    its simulation by the same kernels (`kacc.simulate`) that the file is compared with.

    Args:
        model: the Keras model that was converted, plain or with quantization attached.
        artifact: the file.
        x: samples: arrays, or what yields batches, with or without labels.
        kernels: of a TFLite file "xnnpack" (the default), "builtin", "reference" or
            "micro" (TensorFlow Lite Micro, with the extra kacc[micro]); they round
            differently.

    Returns:
        A `Parity`.

    Raises:
        UsageError: if the model and the file do not fit, or `x` does not fit them.

    Example:
        >>> import keras, numpy as np, tempfile
        >>> from kacc.converters.convert import convert
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> path = tempfile.mkdtemp() + "/model.tflite"
        >>> artifact = convert(model, path, "tflite-float32")
        >>> parity(model, artifact, np.ones((8, 4))).max_abs < 1e-5
        True
    """
    manifest, kernels = artifact.manifest, artifact.kernels(kernels)
    signature = signature_of(model, None)
    if [i.name for i in signature.inputs] != [i.name for i in manifest.inputs]:
        raise UsageError(
            "The file must be one that the model was converted to; it has the inputs "
            f"{[i.name for i in manifest.inputs]}",
            received=[i.name for i in signature.inputs],
        )
    samples = gather(x, [real(i) for i in manifest.inputs], "The data")
    want = _wanted(model, kernels, signature.packed, samples)
    if len(want) != len(manifest.outputs):
        raise UsageError(
            f"The file must have the model's outputs; it has {len(manifest.outputs)}",
            received=f"a model with {len(want)}",
        )
    got = artifact.runtime(kernels).run(artifact.feeds(samples.inputs))
    few = Samples([array[:LAYER_SAMPLES] for array in samples.inputs])
    return Parity(
        outputs=tuple(
            _compare(w, g, info)
            for w, g, info in zip(want, got, manifest.outputs, strict=True)
        ),
        target=artifact.target,
        samples=len(samples),
        kernels=kernels,
        host=host(),
        _layers=lambda: (
            layer_table(model, artifact, few, kernels)
            if artifact.format is TFLITE
            else ()
        ),
    )


def _wanted(
    model: Any, kernels: str, packed: Callable[[Sequence[Any]], Any], samples: Samples
) -> list[np.ndarray]:
    """What a file of the model has to compute on a set of kernels."""
    from kacc.quantization.kernels import KERNELS
    from kacc.quantization.model import quantized

    enabled = [transform.enabled for _, transform in quantized(model)]
    if kernels not in KERNELS:  # other runtimes compute as Keras does
        kernels = "xnnpack"
    if not enabled or (kernels == "xnnpack" and not all(enabled)):
        return reference_outputs(model, packed, samples)
    return simulated_outputs(model, kernels, samples)


def simulated_outputs(model: Any, kernels: str, samples: Samples) -> list[np.ndarray]:
    """The outputs of a quantized model's simulation, flat.

    Operator by operator: to trace a graph that runs a few times takes much longer.
    """
    import keras
    import tensorflow as tf

    from kacc.quantization.kernels import kernels_named
    from kacc.quantization.simulation import Simulation

    simulation = Simulation(model, kernels_named(kernels))
    parts = []
    for batch in samples.batches(min(_BATCH, len(samples))):
        outputs = simulation.run([tf.constant(array) for array in batch])
        parts.append([_numpy(value) for value in keras.tree.flatten(outputs)])
    return [np.concatenate(p)[: len(samples)] for p in zip(*parts, strict=True)]


def reference_outputs(
    model: Any, packed: Callable[[Sequence[Any]], Any], samples: Samples
) -> list[np.ndarray]:
    """The model's outputs in Keras, flat, by a function of its own.

    `model.predict` may still run the graph from before something was attached.

    Args:
        model: the Keras model.
        packed: puts a batch's arrays into the structure that the model takes.
        samples: what to run.

    Returns:
        One array per output.
    """
    import keras
    import tensorflow as tf

    def forward(*flat: Any) -> Any:
        return keras.tree.flatten(model(packed(flat), training=False))

    size = min(_BATCH, len(samples))
    specs = [tf.TensorSpec((size, *a.shape[1:]), a.dtype) for a in samples.inputs]
    function = tf.function(forward, input_signature=specs, autograph=False)
    function = function.get_concrete_function()
    parts = []
    for batch in samples.batches(size):
        outputs = function(*[tf.constant(array) for array in batch])
        parts.append([_numpy(value) for value in outputs])
    return [np.concatenate(p)[: len(samples)] for p in zip(*parts, strict=True)]


def _numpy(value: Any) -> np.ndarray:
    import tensorflow as tf

    return np.asarray(tf.cast(value, tf.float32) if value.dtype.is_floating else value)


def _compare(want: np.ndarray, got: np.ndarray, info: TensorInfo) -> OutputParity:
    equal, within, largest = want == got, None, None
    if info.is_quantized:
        steps = got if got.dtype.kind in "iu" else to_grid(got, info)
        distance = np.abs(to_grid(want, info).astype(np.int64) - steps)
        equal, within = distance == 0, float((distance <= 1).mean())
        largest = int(distance.max())
        got = from_grid(steps, info)
    gap = float(np.abs(want.astype(np.float64) - got).max())
    return OutputParity(
        name=info.name,
        count=want.size,
        equal=float(equal.mean()),
        within_one=within,
        largest_lsb=largest,
        argmax_agreement=_agreement(want, got),
        max_abs=gap,
        max_rel=gap / (float(np.abs(want).max()) or 1.0),
    )


def _agreement(want: np.ndarray, got: np.ndarray) -> float | None:
    if want.ndim < 2 or want.shape[-1] < 2:
        return None
    return float((want.argmax(-1) == got.argmax(-1)).mean())


def _mean(values: Iterable[tuple[float | None, int]]) -> float | None:
    """The weighted mean of the values there are, or None."""
    known = [(value, weight) for value, weight in values if value is not None]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if known else None
