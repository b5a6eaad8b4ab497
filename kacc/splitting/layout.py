"""Where the flat graph of a model can be cut, and which tensors cross each cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import keras

from kacc.converters.signature import signature_of, unique
from kacc.core import registry
from kacc.core.graph import Call, Graph, Tensor, trace
from kacc.quantization.model import placement_of, quantized
from kacc.quantization.placement import Placement, place
from kacc.quantization.transform import quantize_of


@dataclass(frozen=True, eq=False)
class Stretch:
    """The calls of one part.

    Args:
        start: number of its first call.
        stop: the number after its last.
        takes: the tensors that it reads and does not make, in the order of reading.
        gives: the tensors that it makes for later parts and for the model's outputs.
    """

    start: int
    stop: int
    takes: tuple[Tensor, ...]
    gives: tuple[Tensor, ...]


class Layout:
    """The calls of a model in their order, with what is between them.

    A cut at a position separates the calls before it from the call of that number on.

    Args:
        model: a built Keras 3 model.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.graph: Graph = trace(model)
        self.calls = self.graph.calls
        self.is_quantized = next(quantized(model), None) is not None
        self.placement: Placement = (
            placement_of(model, self.graph)
            if self.is_quantized
            else place(self.graph, lambda call: None)
        )
        self.input_names = [x.name for x in signature_of(model, None).inputs]
        self.names = operation_names(self.calls, self.input_names)
        self.tensor_names = self._tensor_names()
        self.made = {t: i for i, c in enumerate(self.calls) for t in c.outputs}
        self.reads: dict[Tensor, list[int]] = {}
        for i, call in enumerate(self.calls):
            for tensor in call.inputs:
                self.reads.setdefault(tensor, []).append(i)

    def stretches(self, cuts: Sequence[int]) -> list[Stretch]:
        """The parts between cuts at these positions, in order."""
        ends = [0, *cuts, len(self.calls)]
        return [self._stretch(a, b) for a, b in pairwise(ends)]

    def crossing(self, position: int) -> tuple[Tensor, ...]:
        """The tensors made before a cut that are needed after it.

        Inputs of the model, which are handed to the part that reads them, are none, and
        neither are its outputs, which stay with who runs the parts.
        """
        return tuple(
            tensor
            for tensor, maker in self.made.items()
            if maker < position <= self._last_read.get(tensor, -1)
        )

    def refusal(self, position: int) -> str | None:
        """Why parts cut here would not be what the model is, or None.

        Weights on both sides are another matter: see `shared`.
        """
        crossing = self.crossing(position)
        batch = [tensor.shape[:1] for tensor in self.graph.inputs]
        if any(tensor.shape[:1] not in batch for tensor in crossing):
            return "a tensor without a batch axis would cross the cut"
        if not self.takes(position, len(self.calls)):
            return "nothing that the model computes would cross the cut"
        return None

    def fused(self, position: int) -> tuple[str, str] | None:
        """The ends of an operator of the file that a cut would go through, or None."""
        for tensor in self.crossing(position):
            if tensor in self.placement.fused_tensors:
                first = self.calls[self.made[tensor]]
                last = first
                while last in self.placement.fused:
                    last = self.placement.fused[last]
                return first.path, last.path
        return None

    def shared(self, position: int) -> list[str]:
        """Paths of the layers with variables that are called on both sides of a cut."""
        return [
            self.calls[first].path
            for first, last in self._spread.values()
            if first < position <= last
        ]

    def has_weights(self, start: int, stop: int) -> bool:
        """Whether a stretch of a quantized model has weights that are integers."""
        return bool(self._weighted[stop] > self._weighted[start])

    def takes(self, start: int, stop: int) -> tuple[Tensor, ...]:
        """The tensors that calls read and do not make."""
        inside = {t for call in self.calls[start:stop] for t in call.outputs}
        read = (t for call in self.calls[start:stop] for t in call.inputs)
        return tuple(dict.fromkeys(t for t in read if t not in inside))

    def _stretch(self, start: int, stop: int) -> Stretch:
        outputs = set(self.graph.outputs)
        gives = (
            tensor
            for call in self.calls[start:stop]
            for tensor in call.outputs
            if tensor in outputs or self._last_read.get(tensor, -1) >= stop
        )
        takes = sorted(self.takes(start, stop), key=self._order)
        return Stretch(start, stop, tuple(takes), tuple(gives))

    def _order(self, tensor: Tensor) -> int:
        """Inputs of the model in its own order, then what calls make."""
        if tensor in self.made:
            return len(self.graph.inputs) + tensor.index
        return self.graph.inputs.index(tensor)

    @cached_property
    def _last_read(self) -> dict[Tensor, int]:
        return {tensor: readers[-1] for tensor, readers in self.reads.items()}

    @cached_property
    def _weighted(self) -> list[int]:
        """How many calls before each position are of quantized layers with weights."""
        counts = [0]
        for call in self.calls:
            spec = registry.find(call.operation)
            quantized = quantize_of(call.operation) is not None
            has = quantized and spec is not None and bool(spec.weights)
            counts.append(counts[-1] + has)
        return counts

    @cached_property
    def _spread(self) -> dict[int, tuple[int, int]]:
        """First and last call of each operation that has variables and several."""
        ends: dict[int, tuple[int, int]] = {}
        for i, call in enumerate(self.calls):
            if getattr(call.operation, "variables", ()):
                first, _ = ends.get(id(call.operation), (i, i))
                ends[id(call.operation)] = first, i
        return ends

    def _tensor_names(self) -> dict[Tensor, str]:
        """What each tensor is called: as the layer that makes it.

        Those of a layer with several calls or outputs get a number: a part that takes
        one may call the layer again, and Keras wants each name once.
        """
        named = dict(zip(self.graph.inputs, self.input_names, strict=True))
        outputs: dict[int, list[Tensor]] = {}
        for call in self.calls:
            outputs.setdefault(id(call.operation), []).extend(call.outputs)
        taken = {*self.input_names, *self.names.values()}
        for key, tensors in outputs.items():
            own = self.names[key]
            wanted = [own]
            if len(tensors) > 1:
                wanted = [f"{own}_output_{n}" for n in range(len(tensors))]
                wanted = unique([*taken, *wanted])[len(taken) :]
            taken.update(wanted)
            named.update(zip(tensors, wanted, strict=True))
        return named


def operation_names(calls: Sequence[Call], taken: Sequence[str] = ()) -> dict[int, str]:
    """A name for each operation that no other has: id -> name.

    The layer's own where that is the only one so called, else with the names of the
    models around it; Keras allows no "/" in them.

    Args:
        calls: of a graph.
        taken: names that are in use already.
    """
    paths: dict[int, str] = {}
    for call in calls:
        paths.setdefault(id(call.operation), call.path)
    short = [path.rpartition("/")[2] for path in paths.values()]
    wanted = [
        own if short.count(own) == 1 else path.replace("/", "_")
        for own, path in zip(short, paths.values(), strict=True)
    ]
    names = unique([*taken, *wanted])[len(taken) :]
    return dict(zip(paths, names, strict=True))


def number_of(value: Any) -> int:
    """How many entries a tensor has for one sample; a free size counts as one."""
    count = 1
    for size in value.shape[1:]:
        count *= size or 1
    return count
