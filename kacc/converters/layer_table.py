"""Layer by layer: the values inside a file against those inside the Keras model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kacc.converters import flatbuffer
from kacc.converters.artifact import Artifact
from kacc.converters.chains import Chains
from kacc.converters.runtime import from_grid, open_runtime, to_grid
from kacc.converters.samples import Samples
from kacc.converters.trace import freeze
from kacc.core.manifest import TensorInfo

if TYPE_CHECKING:
    from kacc.quantization.integer import Quantized

LAYER_SAMPLES = 16  # of which the values of all layers are held at once

# How far a float file may be from Keras, as a share of the largest value, before a
# layer computes something else: order of additions, rounded weights, int8 weights.
_ALLOWED = {"tflite-float32": 1e-4, "tflite-float16": 1e-2, "tflite-dynamic": 0.1}


@dataclass(frozen=True)
class LayerParity:
    """How the values of one layer in the file compare with those in Keras.

    Args:
        layer: the layer's path.
        tensor: the tensor's name in the file.
        operator: the operator that writes it there, such as "CONV_2D".
        equal: share of equal values; on the file's integer grid where it has one.
        largest_lsb: the largest distance in integer steps; None without grid.
        max_abs, max_rel: the largest distance, and as a share of the largest value.
        allowed: the distance that the formats explain: integer steps, or a share of
            the largest value where there is no grid.
    """

    layer: str
    tensor: str
    operator: str
    equal: float
    largest_lsb: int | None
    max_abs: float
    max_rel: float
    allowed: float

    @property
    def differs(self) -> bool:
        """Whether the values are further apart than the formats explain."""
        distance = self.max_rel if self.largest_lsb is None else self.largest_lsb
        return distance > self.allowed


def first_difference(layers: Sequence[LayerParity]) -> LayerParity | None:
    """The first layer of the file's order that differs, or None."""
    return next((layer for layer in layers if layer.differs), None)


def layer_table(
    model: Any, artifact: Artifact, samples: Samples, kernels: str
) -> tuple[LayerParity, ...]:
    """Compares all layers that can be told apart in the file.

    A tensor of the file is found in the Keras model by its name, which carries the
    paths of the layers that were fused into it. The integers of a quantized model are
    those of its simulation by the same kernels.

    Args:
        model: the Keras model, plain or attached.
        artifact: the file.
        samples: what to run; all values are held at once.
        kernels: the kernels of the file.

    Returns:
        A row per layer, in the order in which the file runs.
    """
    graph = freeze(model)
    chains = Chains(graph)
    tensors = list(_file_tensors(artifact, samples, kernels))
    captured = _captured(model, samples, kernels)
    if captured is not None:
        found = [_attached_row(tensor, chains, captured) for tensor in tensors]
        return tuple(row for row in found if row is not None)
    rows: dict[str, LayerParity] = {}
    wanted = sorted({node for t in tensors for node in chains.of(t.name)})
    values = chains.values(wanted, samples)
    for tensor in tensors:
        # A plain model has no grid: its values may lie between two integers.
        exact = _ALLOWED.get(artifact.target, 1e-4)
        _add_plain(
            rows, tensor, chains, values, 1 if tensor.info.is_quantized else exact
        )
    return tuple(rows.values())


@dataclass(frozen=True)
class _FileTensor:
    name: str
    operator: str
    value: np.ndarray
    info: TensorInfo

    @property
    def real(self) -> np.ndarray:
        quantized = self.info.is_quantized and self.value.dtype.kind in "iu"
        return from_grid(self.value, self.info) if quantized else self.value


def _file_tensors(
    artifact: Artifact, samples: Samples, kernels: str
) -> Iterator[_FileTensor]:
    """The tensors that operators of the file write, in the order they are written."""
    data, manifest = artifact.read(), artifact.manifest
    runtime = open_runtime(
        data, manifest.inputs, manifest.outputs, kernels=kernels, keep_all=True
    )
    feeds = artifact.feeds(samples.inputs)
    size = runtime.batch or len(samples)
    graph = flatbuffer.subgraphs(data)[0]
    written = {
        index: operator.name
        for operator in graph.operators
        if operator.name not in ("QUANTIZE", "DEQUANTIZE")
        for index in operator.outputs
        if graph.tensors[index].type in ("INT8", "INT16", "FLOAT32")
    }
    parts: dict[int, list[np.ndarray]] = {index: [] for index in written}
    for batch in Samples(feeds).batches(size):
        runtime.load(batch)
        runtime.invoke()
        for index in written:
            parts[index].append(runtime.value(index))
    for index, operator in written.items():
        tensor = graph.tensors[index]
        value = np.concatenate(parts[index])
        dtype = tensor.type.lower()
        info = TensorInfo(
            tensor.name, tensor.shape, dtype, tensor.scale, tensor.zero_point
        )
        yield _FileTensor(tensor.name, operator, value[: len(samples)], info)


@dataclass
class _Captured:
    """What a quantized model computes, by layer path, in the order of execution.

    Args:
        outputs: after each call of a layer: integers, or floats of one left in float.
        inner: behind each operator inside a layer.
    """

    outputs: dict[str, list[Any]]
    inner: dict[str, list[Any]]


def _captured(model: Any, samples: Samples, kernels: str) -> _Captured | None:
    """What the simulation of a quantized model computes; None of others."""
    import tensorflow as tf

    from kacc.quantization import scheme_of
    from kacc.quantization.kernels import kernels_named
    from kacc.quantization.simulation import Simulation

    if scheme_of(model) is None:
        return None
    seen = _Captured(defaultdict(list), defaultdict(list))
    Simulation(model, kernels_named(kernels)).run(
        [tf.constant(array) for array in samples.inputs],
        lambda path, value: seen.outputs[path].append(value),
        lambda path, value: seen.inner[path].append(value),
    )
    return seen


def _add_plain(
    rows: dict[str, LayerParity],
    tensor: _FileTensor,
    chains: Chains,
    values: Mapping[str, np.ndarray],
    allowed: float,
) -> None:
    """Compares with the nearest candidate: the others are before what was fused."""
    got = tensor.real
    fitting = [name for name in chains.of(tensor.name) if values[name].size == got.size]
    if not fitting:
        return
    wants = {name: values[name].reshape(got.shape) for name in fitting}
    best = min(fitting, key=lambda name: float(np.abs(wants[name] - got).mean()))
    layer = chains.graph.layer_of(best) or best
    rows[layer] = _row(layer, tensor, wants[best], allowed)


def _attached_row(
    tensor: _FileTensor, chains: Chains, captured: _Captured
) -> LayerParity | None:
    """Compares with a layer that ends there, or with an operator inside of one.

    What has the tensor's own grid comes first: a chain of operations that converters
    could fuse may go on where this file's operator ends.
    """
    names = chains.of(tensor.name)
    ending = [
        layer
        for layer in dict.fromkeys(chains.graph.layer_of(name) or "" for name in names)
        if not set(names).isdisjoint(chains.ends.get(layer, ()))
    ]
    around = chains.graph.layer_of(names[0]) if names else None
    outputs = [(layer, captured.outputs.get(layer, [])) for layer in ending]
    inner = [(around, captured.inner.get(around, []))] if around else []
    for table, same_grid in ((outputs, True), (inner, True), (outputs, False)):
        for layer, values in table:
            fitting = [v for v in values if not same_grid or _on_grid(v, tensor.info)]
            row, used = _best(layer, tensor, fitting)
            values[:] = [value for value in values if value is not used]
            if row is not None:
                return row
    return None


def _on_grid(value: Any, info: TensorInfo) -> bool:
    """Whether a value of the simulation has the grid of a tensor of the file."""
    from kacc.quantization.integer import Quantized

    return isinstance(value, Quantized) and _integers(value, info) is not None


def _best(
    layer: str, tensor: _FileTensor, values: list[Any]
) -> tuple[LayerParity | None, Any]:
    """The row by the value that fits best, and that value, which serves no other.

    A shared layer has some for each call, a composed one for each operator.
    """
    best: tuple[LayerParity | None, Any] = (None, None)
    for value in values:
        row = _compared(layer, tensor, value)
        if row is not None and (best[0] is None or row.equal > best[0].equal):
            best = row, value
    return best


def _compared(layer: str, tensor: _FileTensor, value: Any) -> LayerParity | None:
    """The row by one value of the simulation, or None if it cannot be the tensor."""
    from kacc.quantization.integer import Quantized

    whole = value.integers if isinstance(value, Quantized) else value
    quantized = isinstance(value, Quantized)
    fits = int(np.prod(whole.shape)) == tensor.value.size
    if not fits or quantized != tensor.info.is_quantized:
        return None
    if not quantized:
        want = np.asarray(value).reshape(tensor.value.shape)
        return _row(layer, tensor, want, _ALLOWED["tflite-float32"])
    want = np.asarray(value.real).reshape(tensor.value.shape)
    return _row(layer, tensor, want, 0, _integers(value, tensor.info))


def _integers(found: Quantized, info: TensorInfo) -> np.ndarray | None:
    """The integers as they are, or None if the file's tensor has another grid."""
    grid = float(found.grid.scale32), int(found.grid.zero)
    if info.scale is None or grid != (float(np.float32(info.scale)), info.zero_point):
        return None
    return np.asarray(found.integers).astype(np.int64)


def _row(
    layer: str,
    tensor: _FileTensor,
    want: np.ndarray,
    allowed: float,
    steps: np.ndarray | None = None,
) -> LayerParity:
    """The row of a layer, by its real values, or its integers where known."""
    got, info = tensor.real, tensor.info
    gap = float(np.abs(want.astype(np.float64) - got).max())
    equal, largest = want == got, None
    if info.is_quantized:
        if steps is None:
            steps = to_grid(want, info).astype(np.int64)
        distance = np.abs(steps.reshape(got.shape) - tensor.value)
        equal, largest = distance == 0, int(distance.max())
    return LayerParity(
        layer=layer,
        tensor=tensor.name,
        operator=tensor.operator,
        equal=float(equal.mean()),
        largest_lsb=largest,
        max_abs=gap,
        max_rel=gap / (float(np.abs(want).max()) or 1.0),
        allowed=allowed,
    )
