"""What stretches of a graph cost: multiply-accumulates, weights, memory, transfer."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import keras
import numpy as np

from kacc.core import cost, registry
from kacc.core.graph import Call, Tensor
from kacc.core.registry import Output
from kacc.core.remake import variables_of
from kacc.quantization.model import quantized
from kacc.splitting.layout import Layout, number_of

# What they make is their input in other order of axes only on paper: one memory.
_VIEWS = (keras.layers.Flatten, keras.layers.Reshape)


class Usage:
    """What each stretch of a model's calls costs.

    Activations of a quantized model count with the bytes of its integers. A relu that
    the file fuses has no tensor before it, here as there.

    Args:
        layout: of the model.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.calls = layout.calls
        scheme = next((t.scheme for _, t in quantized(layout.model)), None)
        self._width = scheme.activation_bits // 8 if scheme else None
        self.macs = np.array([cost.macs_of(call) or 0 for call in self.calls], float)
        self.weights = [_weight_bytes(call) for call in self.calls]
        self._root: dict[Tensor, Tensor] = {}
        self._born: dict[Tensor, int] = {}
        self._begun: dict[Tensor, int] = {}  # fused -> where its operator begins
        self._unite()

    def bytes_of(self, tensor: Tensor) -> int:
        """Bytes of a tensor, for one sample."""
        real = tensor.dtype.startswith(("float", "bfloat"))
        if real and self._width is not None:
            return number_of(tensor) * self._width
        size = 2 if tensor.dtype == "bfloat16" else np.dtype(tensor.dtype).itemsize
        return number_of(tensor) * size

    def transfer(self, position: int) -> int:
        """Bytes that cross a cut, for one sample."""
        return sum(self.bytes_of(t) for t in self.layout.crossing(position))

    def params_bytes(self, start: int, stop: int) -> int:
        """Bytes of the variables of a stretch's layers, each once."""
        held = {
            id(self.calls[i].operation): self.weights[i] for i in range(start, stop)
        }
        return sum(held.values())

    def peak(self, start: int, stop: int) -> int:
        """The most bytes of activations alive at once while a stretch runs."""
        return next(p for end, p in self.peaks(start) if end == stop)

    def peaks(self, start: int) -> Iterator[tuple[int, int]]:
        """(stop, peak) of every stretch that begins at a position.

        What a part takes is there from its beginning up to where it is read last; what
        it gives stays to its end.
        """
        count = len(self.calls)
        load = np.zeros(count - start, np.int64)
        for tensor, (born, last) in self._lives.items():
            if born >= start:
                load[born - start : last - start + 1] += self.bytes_of(tensor)
        until: dict[Tensor, int] = {}  # of what is taken: the end of its life so far
        for i in range(start, count):
            for tensor in self.calls[i].inputs:
                root = self._root.get(tensor, tensor)
                born = self._born.get(root, self._begun.get(root, -1))
                if born < start:
                    load[until.get(root, 0) : i - start + 1] += self.bytes_of(root)
                    until[root] = i - start + 1
            yield i + 1, int(load[: i - start + 1].max())

    @cached_property
    def _lives(self) -> dict[Tensor, tuple[int, int]]:
        """For each tensor that has memory the calls that make it and read it last."""
        lives = {t: (born, born) for t, born in self._born.items()}
        for i, call in enumerate(self.calls):
            for tensor in call.inputs:
                root = self._root.get(tensor, tensor)
                if root in lives:
                    lives[root] = lives[root][0], i
        for tensor in self.layout.graph.outputs:
            root = self._root.get(tensor, tensor)
            if root in lives:
                lives[root] = lives[root][0], len(self.calls) - 1
        return lives

    def _unite(self) -> None:
        """Finds the tensors that have no memory of their own."""
        fused = self.layout.placement.fused_tensors
        for i, call in enumerate(self.calls):
            source = call.inputs[0] if call.inputs else None
            start = self._begun.get(source, i) if source is not None else i
            for tensor in call.outputs:
                if tensor in fused:
                    self._begun[tensor] = start
                elif source is not None and _is_view(call):
                    self._root[tensor] = self._root.get(source, source)
                else:
                    self._born[tensor] = start


def _is_view(call: Call) -> bool:
    spec = registry.find(call.operation)
    gone = spec is not None and spec.output is Output.IDENTITY
    return gone or isinstance(call.operation, _VIEWS)


def _weight_bytes(call: Call) -> int:
    held = variables_of(call.operation)
    return sum(int(np.prod(v.shape)) * cost.itemsize(v) for v in held)
