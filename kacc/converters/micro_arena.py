"""How large the tensor arena of TensorFlow Lite Micro must be, by its own planner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kacc.converters import flatbuffer
from kacc.converters.flatbuffer import Operator, Subgraph, Tensor

ALIGNMENT = 16  # MicroArenaBufferAlignment
_BITS = {"INT4": 4, "BOOL": 8, "RESOURCE": 32}
# What TFLM keeps for as long as the model lives, in words (of a pointer's size) and
# further bytes: the sizes of its C structures, as its recording allocator reports them.
_BASE = 65, 0  # allocators, planner, lists of the interpreter
_OF_TENSOR = 3, 0  # TfLiteEvalTensor, of every tensor
_OF_END = 6, 16  # TfLiteTensor, of inputs and outputs
_OF_GRID = 3, 8  # TfLiteAffineQuantization and the zero point, of those in integers
_OF_OPERATOR = 8, 0  # NodeAndRegistration
# Bytes that the reference kernels keep for an operator, with its parameters in C, and
# for each of its output channels.
_KEPT: dict[str, tuple[int, int]] = {
    "ADD": (80, 0),
    "AVERAGE_POOL_2D": (80, 0),
    "CONCATENATION": (96, 0),
    "CONV_2D": (128, 8),
    "DEPTHWISE_CONV_2D": (128, 8),
    "FULLY_CONNECTED": (112, 8),
    "LEAKY_RELU": (48, 0),
    "MAXIMUM": (16, 0),
    "MAX_POOL_2D": (80, 0),
    "MEAN": (80, 0),
    "MINIMUM": (16, 0),
    "MUL": (64, 0),
    "PAD": (64, 0),
    "PADV2": (64, 0),
    "RELU": (48, 0),
    "REDUCE_MAX": (80, 0),
    "RESHAPE": (48, 0),
    "SOFTMAX": (96, 0),
    "STRIDED_SLICE": (112, 0),
    "SUB": (64, 0),
    "SUM": (80, 0),
    "TRANSPOSE_CONV": (160, 8),
}
_KEPT_BY_OTHERS = (48, 0)
_REDUCTIONS = ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN")
_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
# What TFLM needs only at the start, as above.
_OF_LIFETIME = 2, 16  # AllocationInfo, of every tensor
_OF_PLACE = 0, 40  # the planner's, of every buffer
_REQUESTS = 24, 0  # of scratch, kMaxScratchBuffersPerOp = 12


@dataclass(frozen=True)
class Buffer:
    """Memory that is needed from one operator to another.

    Args:
        name: the tensor's, or the operator's whose scratch it is.
        size: bytes, rounded up to the alignment.
        first, last: the steps (of operators, from 1; 0 is the start) at which it is
            first written and last used.
        offset: where the planner puts it.
    """

    name: str
    size: int
    first: int
    last: int
    offset: int = 0


@dataclass(frozen=True)
class ArenaEstimate:
    """How many bytes of arena a file needs in TensorFlow Lite Micro: an estimate.

    `activations` is exact for the reference kernels: the tensors that are alive
    together and the kernels' scratch memory, placed by the greedy planner of TFLM
    (micro/memory_planner/greedy_memory_planner.cc). `persistent` and `preparation` come
    from the sizes of TFLM's structures on a computer, and differ with its version, the
    compiler, and the operators. Left out: scratch memory of optimized kernels
    (CMSIS-NN, Ethos-U and others take more), resource variables, the stack, the
    model's own bytes, and what the program needs besides.

    Args:
        activations: bytes that the plan spans.
        persistent: bytes that live as long as the interpreter.
        preparation: bytes that the start needs in the place of activations.
        pointer_bytes: of the machine.
        plan: the buffers with their places.
    """

    activations: int
    persistent: int
    preparation: int
    pointer_bytes: int
    plan: tuple[Buffer, ...]

    @property
    def total(self) -> int:
        """Bytes of the whole arena."""
        return _aligned(max(self.activations, self.preparation)) + self.persistent


def estimate_arena(data: bytes, pointer_bytes: int = 4) -> ArenaEstimate:
    """Estimates the arena of a file for one sample.

    Args:
        data: the content of a TFLite file.
        pointer_bytes: 4 for microcontrollers, 8 for TFLM on a computer.

    Returns:
        An `ArenaEstimate`.
    """
    graphs = flatbuffer.subgraphs(data)
    plan = planned(_Lifetimes(graphs).buffers())
    persistent = _BASE[0] * pointer_bytes
    persistent += sum(_persistent(graph, pointer_bytes) for graph in graphs)
    preparing = [
        _kernel_start(operator, graph, pointer_bytes)
        for graph in graphs
        for operator in graph.operators
    ]
    preparing.append(_planning(graphs, len(plan), pointer_bytes))
    return ArenaEstimate(
        activations=span(plan),
        persistent=_aligned(persistent),
        preparation=max(preparing),
        pointer_bytes=pointer_bytes,
        plan=tuple(plan),
    )


class _Lifetimes:
    """When each tensor is first written and last read, over all graphs of a file.

    A graph that an operator calls runs at the time of that operator, as in
    micro/micro_allocation_info.cc.
    """

    def __init__(self, graphs: Sequence[Subgraph]) -> None:
        self.graphs = graphs
        self.clock = 0
        self.first: dict[tuple[int, int], int] = {}
        self.last: dict[tuple[int, int], int] = {}
        self.steps: dict[tuple[int, int], tuple[int, int]] = {}
        self._run(0)

    def _run(self, index: int) -> None:
        graph = self.graphs[index]
        for tensor in (*graph.inputs, *graph.outputs):
            self._write(index, tensor)
        for number, operator in enumerate(graph.operators):
            self.clock += 1
            start = self.clock
            for tensor in operator.outputs:
                self._write(index, tensor)
            for called in operator.calls:
                self.clock += 1
                self._run(called)
            for tensor in (*operator.inputs, *operator.outputs):
                self.last[index, tensor] = self.clock
            self.steps[index, number] = start, self.clock
        for tensor in graph.outputs:
            self.last[index, tensor] = self.clock

    def _write(self, graph: int, tensor: int) -> None:
        self.first[graph, tensor] = self.last[graph, tensor] = self.clock

    def buffers(self) -> list[Buffer]:
        """The buffers in the order in which TFLM hands them to its planner."""
        tensors = [
            Buffer(tensor.name, _aligned(bytes_of(tensor)), self.first[key], last)
            for key, last in sorted(self.last.items())
            if key in self.first and (tensor := self._activation(*key)) is not None
        ]
        scratch = [
            Buffer(f"scratch of {operator.name}", _aligned(size), *self.steps[i, n])
            for i, graph in enumerate(self.graphs)
            for n, operator in enumerate(graph.operators)
            if (i, n) in self.steps
            for size in _scratch(operator, graph)
        ]
        return [buffer for buffer in tensors if buffer.size] + scratch

    def _activation(self, graph: int, index: int) -> Tensor | None:
        tensor = self.graphs[graph].tensors[index]
        return None if tensor.constant or tensor.variable else tensor


def planned(buffers: Sequence[Buffer]) -> list[Buffer]:
    """Places buffers as the greedy planner of TFLM does.

    The largest first (of equal ones the last); each at the lowest place where it meets
    none that is alive at the same time.

    Args:
        buffers: with sizes and times.

    Returns:
        The same in their order, with offsets.

    Example:
        >>> chain = [("a", 32, 0, 1), ("b", 64, 1, 2), ("c", 16, 2, 3)]
        >>> [buffer.offset for buffer in planned([Buffer(*row) for row in chain])]
        [64, 0, 64]
    """
    order = sorted(range(len(buffers)), key=lambda i: (-buffers[i].size, -i))
    offsets: dict[int, int] = {}
    for index in order:
        wanted, place = buffers[index], 0
        alive = [i for i in offsets if _overlap(buffers[i], wanted)]
        for other in sorted(alive, key=lambda i: offsets[i]):
            if offsets[other] - place >= wanted.size:
                break
            place = max(place, offsets[other] + buffers[other].size)
        offsets[index] = place
    return [_moved(buffer, offsets[i]) for i, buffer in enumerate(buffers)]


def span(plan: Sequence[Buffer]) -> int:
    """The bytes from the start of a plan to the end of its last buffer."""
    return max((buffer.offset + buffer.size for buffer in plan), default=0)


def bytes_of(tensor: Tensor) -> int:
    """The bytes of a tensor for one sample."""
    count = int(np.prod([size or 1 for size in tensor.shape]))
    bits = _BITS.get(tensor.type) or int(tensor.type.strip("UINTFLOA")) or 8
    return (count * bits + 7) // 8


def _overlap(a: Buffer, b: Buffer) -> bool:
    return a.first <= b.last and b.first <= a.last


def _moved(buffer: Buffer, by: int) -> Buffer:
    place = buffer.offset + by
    return Buffer(buffer.name, buffer.size, buffer.first, buffer.last, place)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _scratch(operator: Operator, graph: Subgraph) -> Iterator[int]:
    """Bytes of each scratch buffer that a reference kernel asks for."""
    output = graph.tensors[operator.outputs[0]]
    integer = output.type in ("INT8", "INT16")
    if operator.name == "TRANSPOSE_CONV" and integer:  # accumulators
        yield _count(output) * (8 if output.type == "INT16" else 4)
    if operator.name in _REDUCTIONS:  # an index, the axes, sums
        x, axes = (graph.tensors[i] for i in operator.inputs)
        yield 4 * len(x.shape)
        yield 4 * _count(axes)
        if integer and operator.name in ("MEAN", "SUM"):
            yield 4 * _count(output)


def _count(tensor: Tensor) -> int:
    return int(np.prod([size or 1 for size in tensor.shape]))


def _persistent(graph: Subgraph, word: int) -> int:
    """Bytes that stay, of a graph and its operators."""
    ends = [graph.tensors[i] for i in (*graph.inputs, *graph.outputs)]
    parts = [
        (_OF_TENSOR, len(graph.tensors)),
        (_OF_END, len(ends)),
        (_OF_GRID, sum(tensor.channels > 0 for tensor in ends)),
        (_OF_OPERATOR, len(graph.operators)),
    ]
    size = sum(_sized(part, word) * count for part, count in parts)
    return size + sum(_kept(operator, graph) for operator in graph.operators)


def _sized(part: tuple[int, int], word: int) -> int:
    words, rest = part
    return words * word + rest


def _kept(operator: Operator, graph: Subgraph) -> int:
    fixed, by_channel = _KEPT.get(operator.name, _KEPT_BY_OTHERS)
    channels = max(
        (graph.tensors[i].channels for i in operator.inputs if i >= 0), default=0
    )
    if operator.name in _CONVOLUTIONS:  # which keep room for them without scales too
        channels = graph.tensors[operator.outputs[0]].shape[-1] or 1
    return fixed + by_channel * channels


def _kernel_start(operator: Operator, graph: Subgraph, word: int) -> int:
    """Bytes that the start of a kernel takes: views of its tensors, requests."""
    used = [graph.tensors[i] for i in (*operator.inputs, *operator.outputs) if i >= 0]
    views = [
        _sized(_OF_END, word) + _sized(_OF_GRID, word) + 4 * tensor.channels
        for tensor in used
    ]
    extra = 96 if operator.name in _CONVOLUTIONS else 0
    return sum(views) + _sized(_REQUESTS, word) + extra


def _planning(graphs: Sequence[Subgraph], buffers: int, word: int) -> int:
    """Bytes that the planner takes while it works."""
    tensors = sum(len(graph.tensors) for graph in graphs)
    size = tensors * _sized(_OF_LIFETIME, word) + len(graphs) * word
    return size + buffers * _sized(_OF_PLACE, word) + _sized(_REQUESTS, word)
