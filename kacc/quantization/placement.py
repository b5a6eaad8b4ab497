"""Where the integer file has tensors: which layer gets which ranges.

The file's operators swallow what can be fused: a batch normalization goes into the
convolution before it, a relu into the operator that it follows. Only what is left is a
tensor with a scale. This walks the flat graph once and decides it for each call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from kacc.core import registry
from kacc.core.graph import Call, Graph, Tensor
from kacc.core.registry import RELUS, LayerSpec, Output, RangeSpec

ANOTHER_PRELU = "another PReLU reads the same tensor; the converter makes one of both"


class _On(Enum):
    GRID = "grid"  # already integers in the file
    FUSED = "fused"  # swallowed by the operator that reads it
    FLOAT = "float"


@dataclass
class Placement:
    """Which tensors get a range.

    Args:
        ranges: id of each supported operation -> the tensors that get a range.
        operations: id -> (path, operation).
        folded: the batch normalization call that goes into a convolution's call.
        fused: the calls whose output is no tensor of the file -> the call that
            swallows it.
        fused_tensors: these outputs, also behind layers that are gone at inference.
        joined: the calls whose output has the range of a concatenation -> the
            concatenation, which alone reads it.
        entering: the float tensors that whoever reads them quantizes -> the operation
            that holds the range, and its name there. All readers have seen the same
            values; the first one's range serves them all, so that the file has one
            tensor and not one for each reader.
        skipped: path -> reason, for what stays in float.
    """

    ranges: dict[int, dict[str, RangeSpec]] = field(default_factory=dict)
    operations: dict[int, tuple[str, Any]] = field(default_factory=dict)
    folded: dict[Call, Call] = field(default_factory=dict)
    fused: dict[Call, Call] = field(default_factory=dict)
    fused_tensors: set[Tensor] = field(default_factory=set)
    joined: dict[Call, Call] = field(default_factory=dict)
    entering: dict[Tensor, tuple[Any, str]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def place(graph: Graph, skip: Callable[[Call], str | None]) -> Placement:
    """Decides the ranges for a graph.

    Args:
        graph: from `kacc.core.graph.trace`.
        skip: call -> a reason of its own to leave it in float, or None.

    Returns:
        The `Placement`.
    """
    return _Placer(graph, skip).run()


class _Placer:
    def __init__(self, graph: Graph, skip: Callable[[Call], str | None]) -> None:
        self.graph = graph
        self.consumers = graph.consumers()
        self.result = Placement()
        self.state: dict[Tensor, _On] = dict.fromkeys(graph.inputs, _On.FLOAT)
        # What layers that are gone at inference make, and the tensor that it is.
        self.same: dict[Tensor, Tensor] = {}
        self.reasons = {
            call: call.reason
            or skip(call)
            or registry.unsupported_reason(call.operation)
            for call in graph.calls
        }
        self.reasons.update(self._rivals())
        self.twins: dict[tuple[Any, ...], list[Call]] = {}
        for call in graph.calls:
            self.twins.setdefault(self._identity(call), []).append(call)
        self.fusing = self._at_every_call(self._fuses)
        self.joining = self._at_every_call(self._joins)

    def run(self) -> Placement:
        for call in self.graph.calls:
            self._visit(call)
        return self.result

    def _visit(self, call: Call) -> None:
        reason = self.reasons[call] or self._homeless_range(call)
        if reason:
            self.result.skipped.setdefault(call.path, reason)
            self._set(call, _On.FLOAT)
            return
        spec = registry.find(call.operation)
        assert spec is not None
        if spec.output is Output.IDENTITY:
            self._set(call, self.state[call.inputs[0]])
            self.same[call.outputs[0]] = self._source(call.inputs[0])
            if call.inputs[0] in self.result.fused_tensors:
                self.result.fused_tensors.update(call.outputs)
            return
        names = self._names(call) if call.lasting else {}
        for position, tensor in enumerate(call.inputs):
            real = tensor.dtype.startswith(("float", "bfloat"))
            if self.state[tensor] is _On.FLOAT and real and not spec.reads_indices:
                name = f"input_{position}"
                names[name] = RangeSpec()
                if call.lasting:
                    holder = (call.operation, name)
                    self.result.entering.setdefault(self._source(tensor), holder)
        if spec.output is Output.RANGE:
            self._place_output(call, spec, names)
        else:
            self._set(call, self._moved_state(call))

    def _rivals(self) -> dict[Call, str]:
        """The calls that one like them keeps the converter from knowing."""
        readers: dict[Tensor, list[Call]] = {}
        for call in self.graph.calls:
            spec = registry.find(call.operation)
            if spec is None or self.reasons[call]:
                continue
            if spec.output is Output.IDENTITY:
                self.same[call.outputs[0]] = self._source(call.inputs[0])
            elif spec.sole_relu:
                source = self._source(call.inputs[0])
                readers.setdefault(source, []).append(call)
        return {
            call: ANOTHER_PRELU
            for rivals in readers.values()
            for call in rivals
            if len({id(rival.operation) for rival in rivals}) > 1
        }

    def _source(self, tensor: Tensor) -> Tensor:
        return self.same.get(tensor, tensor)

    def _homeless_range(self, call: Call) -> str | None:
        """The reason against an operator inside a `call`, which lives for one call.

        The range of its output is held by the layer that reads it. Any other range
        has no home.
        """
        spec = registry.find(call.operation)
        if call.lasting or spec is None:
            return None
        from_grid = all(self.state[x] is not _On.FLOAT for x in call.inputs)
        held = from_grid or spec.output is Output.IDENTITY
        if spec.output is Output.SAME:
            held = held or self._read_by_layer(call)
        elif spec.output is Output.RANGE:
            ranges = spec.ranges(call.operation)
            simple = set(ranges) == {"output"} and not ranges["output"].fixed
            held = from_grid and simple and self._read_by_layer(call)
        if held:
            return None
        return "an operator inside a `call` cannot hold its ranges, a layer can"

    def _read_by_layer(self, call: Call) -> bool:
        """Whether a layer reads the output, maybe behind what leaves no tensor."""
        for reader, _ in self.consumers.get(call.outputs[0], []):
            spec = registry.find(reader.operation)
            if self.reasons[reader] or spec is None:
                continue
            fused = id(call.operation) in self.fusing and not reader.lasting
            moved = spec.output is Output.SAME and not reader.lasting
            if fused or moved or spec.output is Output.IDENTITY:
                return self._read_by_layer(reader)
            if reader.lasting:
                return True
        return False

    def _names(self, call: Call) -> dict[str, RangeSpec]:
        key = id(call.operation)
        self.result.operations.setdefault(key, (call.path, call.operation))
        return self.result.ranges.setdefault(key, {})

    def _place_output(
        self, call: Call, spec: LayerSpec, names: dict[str, RangeSpec]
    ) -> None:
        ranges = dict(spec.ranges(call.operation))
        everywhere = id(call.operation) in self.fusing
        # Read across a barrier, a copied operator keeps the range of its other calls.
        if everywhere or (self._fuses_relu(call) and not spec.copied_for_relu):
            if everywhere:
                del ranges["output"]
            self._set(call, _On.FUSED)
            follower = self._readers(call)[0]
            self.result.fused[call] = follower
            self.result.fused_tensors.update(call.outputs)
            after = registry.find(follower.operation)
            if after is not None and after.affine:
                self.result.folded[call] = follower
        elif self._joins(call):
            if id(call.operation) in self.joining:
                del ranges["output"]
            self._set(call, _On.GRID)
            self.result.joined[call] = self._readers(call)[0]
        else:
            # Nothing holds the range of an `x + y` inside a `call`: whoever reads the
            # tensor does.
            self._set(call, _On.GRID if call.lasting else _On.FLOAT)
        names.update(ranges)

    def _moved_state(self, call: Call) -> _On:
        if call.lasting:
            return _On.GRID
        return self.state[call.inputs[0]]

    def _set(self, call: Call, state: _On) -> None:
        self.state.update((tensor, state) for tensor in call.outputs)

    def _at_every_call(self, holds: Callable[[Call], bool]) -> set[int]:
        """The operations for all of whose calls something holds."""
        table: dict[int, bool] = {}
        for call in self.graph.calls:
            key = id(call.operation)
            table[key] = table.get(key, True) and holds(call)
        return {key for key, value in table.items() if value}

    def _joins(self, call: Call) -> bool:
        """Whether the output goes into a concatenation and nowhere else."""
        spec, follower = registry.find(call.operation), self._only_consumer(call)
        if self.reasons[call] or spec is None or follower is None:
            return False
        after = registry.find(follower.operation)
        if self.reasons[follower] or after is None or not after.joins_grids:
            return False
        if spec.output is not Output.RANGE or spec.joins_grids:
            return False
        return not spec.ranges(call.operation)["output"].kept

    def _fuses(self, call: Call) -> bool:
        spec = registry.find(call.operation)
        if self.reasons[call] or spec is None:
            return False
        ends_linear = spec.activation is None or (
            spec.activation(call.operation) == "linear"
        )
        follower = self._only_consumer(call)
        if follower is not None and not self.reasons[follower]:
            after = registry.find(follower.operation)
            if after is not None and after.affine:
                return spec.folds_batch_norm and ends_linear
        return self._fuses_relu(call)

    def _fuses_relu(self, call: Call) -> bool:
        spec = registry.find(call.operation)
        if self.reasons[call] or spec is None:
            return False
        linear = spec.activation is None or spec.activation(call.operation) == "linear"
        absorbs = spec.absorbs_relu and linear
        absorbs = absorbs or spec.activation_absorbs_relu(call.operation)
        return absorbs and self._only_relus_read(call)

    def _only_relus_read(self, call: Call) -> bool:
        """Whether all that reads the output are relus of one kind.

        The converter makes one of several, and fuses it.
        """
        kinds = {self._relu_kind(reader) for reader in self._readers(call)}
        return len(kinds) == 1 and None not in kinds

    def _relu_kind(self, call: Call) -> str | None:
        """The name of the relu that a call is and nothing else, or None."""
        spec = registry.find(call.operation)
        if self.reasons[call] or spec is None or spec.weights or not spec.activation:
            return None
        name = spec.activation(call.operation)
        return name if name in RELUS else None

    def _only_consumer(self, call: Call) -> Call | None:
        """The one call that reads the output, if there is just one and no other use."""
        readers = set(self._readers(call))  # a call may read it more than once
        return readers.pop() if len(readers) == 1 else None

    def _readers(self, call: Call) -> list[Call]:
        """All that reads the output, through layers that are gone at inference.

        Where a layer is called twice on a tensor, the converter makes one call of both.
        Empty if the output has another use, as an output of the model.
        """
        found: list[Call] = []
        for twin in self.twins[self._identity(call)]:
            if len(twin.outputs) != 1 or twin.outputs[0] in self.graph.outputs:
                return []
            for reader, _ in self.consumers.get(twin.outputs[0], []):
                spec = registry.find(reader.operation)
                gone = spec is not None and spec.output is Output.IDENTITY
                reads = gone and not self.reasons[reader]
                behind = self._readers(reader) if reads else []
                if gone and not behind:
                    return []
                found += behind or [reader]
        return found

    def _identity(self, call: Call) -> tuple[Any, ...]:
        """The same for all calls of a layer on the same tensors."""
        return (id(call.operation), *map(self._source, call.inputs))
