"""The operations of a model's graph that a tensor of its file may stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from kacc.converters.frozen_graph import FrozenGraph
from kacc.converters.samples import Samples

# Operations that converters fuse into the one before them.
_FUSED = frozenset(
    (
        *("Add", "AddV2", "BiasAdd", "Sub", "Mul", "Minimum", "Maximum"),
        *("Relu", "Relu6", "LeakyRelu", "FakeQuantWithMinMaxVars"),
        *("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"),
        *("Squeeze", "Reshape", "ExpandDims", "Identity"),
    )
)


class Chains:
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
            for consumer in dict.fromkeys(self.consumers[name]):
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
        for known in (name, self._scoped(name)):
            while known not in self.nodes and known[-1:].isdigit():
                known = known[:-1]
            if known in self.nodes:
                return known
        layer = self.graph.layer_of(name) or self.graph.layer_of(self._scoped(name))
        return self.ends.get(layer, [None])[-1] if layer else None

    def _scoped(self, name: str) -> str:
        """The name below the scope of its layer, where it starts with a layer's path.

        So start those in the file of a plain model that kacc quantized itself.
        """
        path = name
        while path and path not in self.scopes:
            path = path.rpartition("/")[0]
        return self.scopes[path] + name[len(path) :] if path else name

    @cached_property
    def scopes(self) -> Mapping[str, str]:
        """Path of a layer -> its scope."""
        return {path: scope for scope, path in self.graph.layers.items() if path}

    @cached_property
    def ends(self) -> Mapping[str, list[str]]:
        """Layer -> those of its operations that something outside it reads, in order.

        A shared layer has some for each call.
        """
        ordered = sorted(self.computed, key=lambda name: self.order[name])
        layers = {name: self.graph.layer_of(name) for name in ordered}
        outputs = {name.split(":")[0] for name in self.graph.output_tensors}
        found: dict[str, list[str]] = {}
        for name, layer in layers.items():
            readers = self.consumers[name]
            outside = any(layers.get(reader) != layer for reader in readers)
            if layer and (outside or name in outputs):
                found.setdefault(layer, []).append(name)
        return found
