"""Where the converter must not work across a tensor of the graph that it is given.

It rewrites what it finds between quantized tensors, mostly to the better; here and
there other integers come of it. There the graph has an operation that it cannot
quantize, which `kacc.converters.islands` takes out of the file again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from kacc.core import registry
from kacc.core.graph import Call, Graph, Tensor
from kacc.core.registry import RELUS, LayerSpec, Output

# Starts the names of these operations.
BARRIER = "kacc_float"


def apart(value: Any) -> Any:
    """The value behind a barrier: a sine, which the converter cannot quantize."""
    return tf.sin(value, name=BARRIER) if value.dtype.is_floating else value


def is_copied(call: Call) -> bool:
    """Whether the converter computes a call again where a relu reads it."""
    spec = registry.find(call.operation)
    return spec is not None and spec.copied_for_relu


def joins_grids(call: Call) -> bool:
    """Whether a call copies integers of several tensors, such as a concatenation."""
    spec = registry.find(call.operation)
    return spec is not None and spec.joins_grids


class Readers:
    """What reads the tensors of a graph, through layers that are gone at inference."""

    def __init__(self, graph: Graph) -> None:
        self._producers = graph.producers()
        self._consumers = graph.consumers()

    def of(self, tensor: Tensor) -> list[Call]:
        """All calls that read a tensor."""
        found: list[Call] = []
        for reader, _ in self._consumers.get(tensor, []):
            gone = _is_gone(registry.find(reader.operation))
            found += self.of(reader.outputs[0]) if gone else [reader]
        return found

    def behind(self, tensor: Tensor) -> Tensor:
        """What a tensor is before layers that are gone at inference."""
        producer = self._producers.get(tensor)
        if producer is not None and _is_gone(registry.find(producer.operation)):
            return self.behind(producer.inputs[0])
        return tensor

    def source(self, tensor: Tensor) -> Call | None:
        """The call that makes a tensor, or None of an input of the graph."""
        return self._producers.get(self.behind(tensor))


def barred_inputs(
    call: Call, ranges: Mapping[Tensor, tuple[float, float]], readers: Readers
) -> list[int]:
    """The inputs that a call reads across a barrier.

    Args:
        call: one of the graph.
        ranges: ends of the range of each tensor that has one.
        readers: of the graph's tensors.

    Returns:
        Positions in the inputs of the call.
    """
    spec = registry.find(call.operation)
    if spec is None or spec.output is not Output.RANGE:
        return []
    if spec.joins_grids:
        return _requantized(call, ranges, readers)
    crossed = (_rectifies_copy, _rectifies_moved, _rectifies_beside)
    if any(found(call, spec, readers) for found in crossed):
        return [0] if call.inputs[0] in ranges else []
    return _alike(call, spec, ranges)


def _requantized(
    call: Call, ranges: Mapping[Tensor, tuple[float, float]], readers: Readers
) -> list[int]:
    """The inputs of a concatenation that have a range of their own.

    Before a reshape the converter forgets the range of the concatenation, and gives it
    that of an input; where all that reads an input are concatenations of one
    range, it gives that to the input, as it does where only one reads it. It has to be
    shown the change of scale, also behind an operator that works on its own range only,
    and where it knows the largest of a tensor and its multiple as a leaky relu.
    """
    if call.outputs[0] not in ranges:
        return []
    specs = [registry.find(reader.operation) for reader in readers.of(call.outputs[0])]
    moved = any(spec is not None and spec.output is Output.SAME for spec in specs)
    return [
        position
        for position, tensor in enumerate(call.inputs)
        if tensor in ranges
        and (
            moved
            or _agree(readers.of(tensor), ranges)
            or _is_kept(readers.source(tensor))
            or any(_is_multiple(other, tensor, readers) for other in call.inputs)
        )
    ]


def _is_kept(producer: Call | None) -> bool:
    """Whether an operator keeps its range, of which the converter may not know that.

    It knows those of 8 bits that the TFLite specification prescribes, and no others.
    """
    spec = None if producer is None else registry.find(producer.operation)
    if producer is None or spec is None or spec.output is not Output.RANGE:
        return False
    output = spec.ranges(producer.operation).get("output")
    return output is not None and output.kept


def _agree(joins: list[Call], ranges: Mapping[Tensor, tuple[float, float]]) -> bool:
    """Whether several concatenations, and nothing else, read on one range."""
    ends = {ranges.get(call.outputs[0]) for call in joins}
    return len(set(joins)) > 1 and len(ends) == 1 and all(map(joins_grids, joins))


def _is_multiple(tensor: Tensor, of: Tensor, readers: Readers) -> bool:
    """Whether a tensor is made of one other by arithmetic with a number."""
    producer = readers.source(tensor)
    spec = None if producer is None else registry.find(producer.operation)
    if producer is None or spec is None or spec.weights or spec.activation:
        return False
    return spec.output is Output.RANGE and [*map(readers.behind, producer.inputs)] == [
        readers.behind(of)
    ]


def _rectifies_copy(call: Call, spec: LayerSpec, readers: Readers) -> bool:
    """Whether the converter would compute the input of an activation again.

    It fuses a relu into a copy of the operator, which never has the rounded values.
    """
    if spec.activation is None or spec.weights or spec.requantizes:
        return False
    producer = readers.source(call.inputs[0])
    return producer is not None and is_copied(producer)


def _rectifies_moved(call: Call, spec: LayerSpec, readers: Readers) -> bool:
    """Whether the converter may take a relu before what moves or averages its input.

    A pooling swallows the relu behind it, and others change places with it: then the
    relu's range is where the model has another one, also before an average. What is
    known by a relu inside is torn apart.
    """
    if not spec.sole_relu and not _is_relu(call, spec):
        return False
    producer = readers.source(call.inputs[0])
    before = None if producer is None else registry.find(producer.operation)
    return before is not None and before.output in (Output.SAME, Output.ROUNDED)


def _rectifies_beside(call: Call, spec: LayerSpec, readers: Readers) -> bool:
    """Whether others read what a call reads that is known by a relu inside.

    If one of them has a relu inside too, the converter makes one relu of both.
    """
    beside = readers.of(readers.behind(call.inputs[0]))
    return spec.sole_relu and any(r.operation is not call.operation for r in beside)


def _is_relu(call: Call, spec: LayerSpec) -> bool:
    if spec.activation is None or spec.weights:
        return False
    return spec.activation(call.operation) in RELUS


def _alike(
    call: Call, spec: LayerSpec, ranges: Mapping[Tensor, tuple[float, float]]
) -> list[int]:
    """The inputs that have the range of one before them.

    The converter takes an operator on two reshaped tensors of one type before the
    reshape, and gives it their range.
    """
    known = [ranges.get(tensor) for tensor in call.inputs]
    return [
        position
        for position, ends in enumerate(known)
        if ends is not None and (spec.squares or ends in known[:position])
    ]


def _is_gone(spec: LayerSpec | None) -> bool:
    return spec is not None and spec.output is Output.IDENTITY
