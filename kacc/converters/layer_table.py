"""Layer by layer: the values inside a file against those inside the Keras model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from kacc.converters import flatbuffer
from kacc.converters.artifact import Artifact
from kacc.converters.runtime import Runtime, from_grid, to_grid
from kacc.converters.samples import Samples
from kacc.converters.trace import FrozenGraph, freeze
from kacc.core.manifest import TensorInfo

if TYPE_CHECKING:
    from kacc.quantization.integer import Quantized

LAYER_SAMPLES = 16  # of which the values of all layers are held at once

# How far a float file may be from Keras, as a share of the largest value, before a
# layer computes something else: order of additions, rounded weights, int8 weights.
_ALLOWED = {"tflite-float32": 1e-4, "tflite-float16": 1e-2, "tflite-dynamic": 0.1}

# Operations that converters fuse into the one before them.
_FUSED = frozenset(
    (
        *("Add", "AddV2", "BiasAdd", "Sub", "Mul", "Minimum", "Maximum"),
        *("Relu", "Relu6", "LeakyRelu", "FakeQuantWithMinMaxVars"),
        *("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"),
        *("Squeeze", "Reshape", "ExpandDims", "Identity"),
    )
)


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
    chains = _Chains(graph)
    tensors = list(_file_tensors(artifact, samples, kernels))
    captured = _captured(model, samples, kernels)
    rows: dict[str, LayerParity] = {}
    if captured is None:
        wanted = sorted({node for t in tensors for node in chains.of(t.name)})
        values = chains.values(wanted, samples)
        for tensor in tensors:
            # A plain model has no grid: its values may lie between two integers.
            allowed = (
                1 if tensor.info.is_quantized else _ALLOWED.get(artifact.target, 1e-4)
            )
            _add_plain(rows, tensor, chains, values, allowed)
    else:
        for tensor in tensors:
            _add_attached(rows, tensor, chains, captured)
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
    runtime = Runtime(
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


class _Chains:
    """Finds for a tensor of the file the operations of the graph it may stand for.

    The name tells where a fused operator starts. Where it ends is not always in the
    name, so all operations that could have been fused behind it are candidates.
    """

    def __init__(self, graph: FrozenGraph) -> None:
        self.graph = graph
        self.nodes = {node.name: node for node in graph.graph_def.node}

    @cached_property
    def consumers(self) -> Mapping[str, list[str]]:
        """Node -> the nodes that read it."""
        table: dict[str, list[str]] = {name: [] for name in self.nodes}
        for node in self.nodes.values():
            for source in node.input:
                table[source.split(":")[0].removeprefix("^")].append(node.name)
        return table

    @cached_property
    def order(self) -> Mapping[str, int]:
        """Node -> its place in an order in which each follows what it reads."""
        waiting = {name: len(set(n.input)) for name, n in self.nodes.items()}
        ready = [name for name, count in waiting.items() if not count]
        order: dict[str, int] = {}
        while ready:
            name = ready.pop()
            order[name] = len(order)
            for consumer in set(self.consumers[name]):
                waiting[consumer] -= 1
                if not waiting[consumer]:
                    ready.append(consumer)
        return order

    def of(self, tensor: str) -> list[str]:
        """The operations that a tensor of the file may stand for, first to last."""
        return [n for n in self._chain(tensor) if self.nodes[n].op != "Identity"]

    def _chain(self, tensor: str) -> list[str]:
        named = [self._node(part) for part in tensor.split(";")]
        known = [name for name in named if name is not None]
        if not known:
            return []
        chain = [max(known, key=lambda name: self.order[name])]
        while True:
            after = self.consumers[chain[-1]]
            if len(after) != 1 or not self._fusible(after[0]):
                return chain
            chain.append(after[0])

    def _fusible(self, name: str) -> bool:
        """Whether an operation works on one tensor; its other inputs are constants."""
        node = self.nodes[name]
        sources = [source.split(":")[0] for source in node.input]
        return node.op in _FUSED and sum(s in self.computed for s in sources) == 1

    @cached_property
    def computed(self) -> frozenset[str]:
        """The nodes that depend on the inputs."""
        found: set[str] = set()
        for name in sorted(self.order, key=lambda name: self.order[name]):
            node = self.nodes[name]
            sources = {source.split(":")[0] for source in node.input}
            if node.op == "Placeholder" or sources & found:
                found.add(name)
        return frozenset(found)

    def values(self, names: Sequence[str], samples: Samples) -> dict[str, np.ndarray]:
        """The values of operations on the samples."""
        import tensorflow as tf

        function = self.graph.function([f"{name}:0" for name in names])
        outputs = function(*[tf.constant(array) for array in samples.inputs])
        return {n: np.asarray(v) for n, v in zip(names, outputs, strict=True)}

    def _node(self, part: str) -> str | None:
        """The operation that a part of a name stands for.

        Converters add digits where a name is taken, and rename operations that they
        rewrite ("sum/Add" to "sum/BiasAdd"): then it is the last one of the layer.
        """
        name = part.split(":")[0]
        while name not in self.nodes and name[-1:].isdigit():
            name = name[:-1]
        if name in self.nodes:
            return name
        layer = self.graph.layer_of(name)
        return self.last.get(layer) if layer else None

    @cached_property
    def last(self) -> Mapping[str, str]:
        """Layer -> the last of its operations."""
        ordered = sorted(self.computed, key=lambda name: self.order[name])
        layers = {name: self.graph.layer_of(name) for name in ordered}
        return {layer: name for name, layer in layers.items() if layer}


def _captured(
    model: Any, samples: Samples, kernels: str
) -> dict[str, Quantized] | None:
    """The integers after each layer of a quantized model, by path; None of others."""
    import tensorflow as tf

    from kacc.quantization import scheme_of
    from kacc.quantization.kernels import kernels_named
    from kacc.quantization.simulation import Simulation

    if scheme_of(model) is None:
        return None
    seen: dict[str, Quantized] = {}
    simulation = Simulation(model, kernels_named(kernels))
    simulation.run([tf.constant(array) for array in samples.inputs], seen.__setitem__)
    return seen


def _add_plain(
    rows: dict[str, LayerParity],
    tensor: _FileTensor,
    chains: _Chains,
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


def _add_attached(
    rows: dict[str, LayerParity],
    tensor: _FileTensor,
    chains: _Chains,
    captured: Mapping[str, Quantized],
) -> None:
    """Compares with the first layer behind the name that ends there with a range."""
    names = chains.of(tensor.name)
    for name in names:
        layer = chains.graph.layer_of(name) or ""
        found = captured.get(layer)
        ends = chains.last.get(layer) in names  # and is not a tensor inside the layer
        if found is not None and ends and _size(found.integers) == tensor.value.size:
            want = np.asarray(found.real).reshape(tensor.value.shape)
            steps = _integers(found, tensor.info)
            rows[layer] = _row(layer, tensor, want, allowed=0, steps=steps)
            return


def _size(value: Any) -> int:
    return int(np.prod(value.shape))


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
