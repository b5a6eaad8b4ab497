"""A frozen graph while passes change it: who makes and who reads each tensor.

Tensors are named as inputs of nodes name them: "a" is the first output of the node a,
"a:1" its second one, "^a" no tensor but an order of execution.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from kacc.converters.frozen_graph import FrozenGraph
from kacc.converters.weights import stand_in, stands_apart

Shape = tuple[int | None, ...] | None

# Values of constants beyond this many elements determine no shapes.
_LARGEST_SHAPE = 4096


def producer_of(tensor: str) -> str:
    """The name of the node that makes a tensor, or that a control input names."""
    return tensor.removeprefix("^").partition(":")[0]


def canonical(tensor: str) -> str:
    """A tensor's name as inputs of nodes have it."""
    return tensor.removesuffix(":0")


class Graph:
    """A copy of a frozen graph that passes change in place.

    Constants are never changed but replaced, so that those of the frozen graph are
    shared until `frozen` copies what is left, once.

    Args:
        source: stays as it is.
    """

    def __init__(self, source: FrozenGraph) -> None:
        self.source = source
        self.library = source.graph_def.library
        self.weights = dict(source.weights)
        self.nodes = {n.name: _own(n) for n in source.graph_def.node}
        self.inputs = [canonical(name) for name in source.input_tensors]
        self.outputs = [canonical(name) for name in source.output_tensors]
        self._readers: dict[str, list[tuple[str, int]]] = {}
        self._followed: Counter[str] = Counter()
        self._uses: Counter[str] = Counter()
        for node in self.nodes.values():
            for index, tensor in enumerate(node.input):
                self._link(node.name, index, tensor)
        self.prune()

    def frozen(self) -> FrozenGraph:
        """The graph as it now is, for good."""
        graph_def = self.empty()
        for node in self.ordered():
            graph_def.node.add().CopyFrom(node)
        outputs = tuple(t if ":" in t else f"{t}:0" for t in self.outputs)
        found = replace(
            self.source,
            graph_def=graph_def,
            output_tensors=outputs,
            weights=self.weights,
        )
        return found.settled()

    def empty(self) -> Any:
        """A GraphDef without nodes that has the same functions."""
        graph_def = self.source.graph_def.__class__()
        graph_def.versions.CopyFrom(self.source.graph_def.versions)
        graph_def.library.CopyFrom(self.library)
        return graph_def

    def ordered(self) -> list[Any]:
        """The nodes, each behind those that it reads."""
        order: dict[str, Any] = {}
        started: set[str] = set()
        for first in self.nodes:
            stack = [first]
            while stack:
                name = stack[-1]
                waiting = []
                if name not in started:
                    started.add(name)
                    waiting = [producer_of(t) for t in self.nodes[name].input]
                    waiting = [x for x in waiting if x not in started]
                if waiting:
                    stack += waiting
                else:
                    order.setdefault(stack.pop(), self.nodes[name])
        return list(order.values())

    # What there is.

    def producer(self, tensor: str) -> Any:
        """The node that makes a tensor."""
        return self.nodes[producer_of(tensor)]

    def readers(self, tensor: str) -> list[tuple[Any, int]]:
        """Nodes that read a tensor, each with the index of its input."""
        found = self._readers.get(tensor, ())
        return [(self.nodes[name], index) for name, index in found]

    def only_reader(self, tensor: str) -> tuple[Any, int] | None:
        """The node that reads a tensor, if there is one and nobody else sees it."""
        found = self.readers(tensor)
        if len(found) != 1 or tensor in self.outputs:
            return None
        return found[0]

    def is_tied(self, node: Any) -> bool:
        """Whether more than its data determines when a node runs."""
        return self._followed[node.name] > 0 or any(t[0] == "^" for t in node.input)

    def of(self, *kinds: str) -> Iterator[Any]:
        """The nodes of some kinds, also while nodes come and go."""
        for node in self.ordered():
            if node.op in kinds and node.name in self.nodes:
                yield node

    def is_constant(self, tensor: str) -> bool:
        """Whether a tensor is a stored constant."""
        node = self.producer(tensor)
        return bool(node.op == "Const" and not node.input)

    def value(self, tensor: str) -> np.ndarray | None:
        """The value of a stored constant, None of other tensors."""
        import tensorflow as tf

        if not self.is_constant(tensor):
            return None
        if (name := producer_of(tensor)) in self.weights:
            return self.weights[name]
        return tf.make_ndarray(self.producer(tensor).attr["value"].tensor)

    def shape(self, tensor: str) -> Shape:
        """The sizes of a tensor as far as they are known, None if its rank is not."""
        return self._shapes.get(tensor)

    def type(self, tensor: str) -> Any:
        """TensorFlow's type of a tensor that no pass has made since the last one."""
        _ = self._shapes
        return self._types[tensor]

    def refine(self, tensor: str, shape: Shape) -> None:
        """Tells the shape of a tensor, of which less was known."""
        self._shapes[tensor] = shape

    def tensors_of(self, node: Any) -> list[str]:
        """All outputs of a node."""
        found = [str(node.name)]
        while (tensor := f"{node.name}:{len(found)}") in self._shapes:
            found.append(tensor)
        return found if node.name in self._shapes else []

    @cached_property
    def _shapes(self) -> dict[str, Shape]:
        import tensorflow as tf

        graph_def = self.empty()
        for node in self.nodes.values():
            _add_without_weights(graph_def, node)
        with tf.Graph().as_default() as graph:
            tf.graph_util.import_graph_def(graph_def, name="")
        tensors = [x for op in graph.get_operations() for x in op.outputs]
        self._types = {canonical(x.name): x.dtype for x in tensors}
        return {canonical(x.name): _sizes(x.shape) for x in tensors}

    # What changes it.

    def add(
        self, kind: str, name: str, inputs: Sequence[str], shape: Shape, **attrs: Any
    ) -> str:
        """Adds a node.

        Args:
            kind: of operation.
            name: is numbered if it is taken.
            inputs: tensors.
            shape: of its output.
            attrs: by name: a type as TensorFlow's number, or bytes.

        Returns:
            Its output.
        """
        node = self._new(kind, name)
        for index, tensor in enumerate(inputs):
            node.input.append(tensor)
            self._link(node.name, index, tensor)
        for key, attr in attrs.items():
            if isinstance(attr, bytes):
                node.attr[key].s = attr
            else:
                node.attr[key].type = attr
        self._shapes[node.name] = shape
        return str(node.name)

    def add_constant(self, name: str, value: np.ndarray) -> str:
        """Adds a constant, whose name is numbered if it is taken."""
        import tensorflow as tf

        node = self._new("Const", name)
        if stands_apart(value.shape, value.dtype):
            self.weights[node.name] = value
            proto = stand_in(value.shape, value.dtype)
        else:
            proto = tf.make_tensor_proto(value)
        node.attr["dtype"].type = proto.dtype
        node.attr["value"].tensor.CopyFrom(proto)
        self._shapes[node.name] = value.shape
        return str(node.name)

    def _new(self, kind: str, name: str) -> Any:
        from tensorflow.core.framework.node_def_pb2 import NodeDef

        number, free = 0, name
        while free in self.nodes:
            number += 1
            free = f"{name}_{number}"
        # Shapes are those of the graph before: to be asked once a node is there.
        _ = self._shapes
        self.nodes[free] = NodeDef(op=kind, name=free)
        return self.nodes[free]

    def set_input(self, node: Any, index: int, tensor: str) -> None:
        """Lets a node read another tensor; what nobody reads any more goes."""
        before = node.input[index]
        if before == tensor:
            return
        self._readers[before].remove((node.name, index))
        self._uses[producer_of(before)] -= 1
        node.input[index] = tensor
        self._link(node.name, index, tensor)
        self._discard(producer_of(before))

    def replace(self, old: str, new: str) -> None:
        """Lets all that read a tensor, the model's outputs too, read another one."""
        self.outputs = [new if name == old else name for name in self.outputs]
        for node, index in self.readers(old):
            self.set_input(node, index, new)
        self._discard(producer_of(old))

    def bypass(self, old: str, new: str) -> bool:
        """As `replace`, but outputs stay tensors of their own: no inputs or constants.

        Returns:
            Whether the old tensor is gone.
        """
        if old in self.outputs:
            taken = new in self.outputs or self.outputs.count(old) > 1
            if taken or self.producer(new).op in ("Placeholder", "Const"):
                for node, index in self.readers(old):
                    self.set_input(node, index, new)
                return False
        self.replace(old, new)
        return True

    def prune(self) -> None:
        """Takes out what no output needs; inputs stay."""
        roots = [producer_of(name) for name in (*self.outputs, *self.inputs)]
        needed: set[str] = set()
        while roots:
            name = roots.pop()
            if name not in needed:
                needed.add(name)
                roots += [producer_of(t) for t in self.nodes[name].input]
        for name in [name for name in self.nodes if name not in needed]:
            self._unlink(self.nodes.pop(name))

    def inline(self, name: str, nodes: Iterable[Any], result: str) -> None:
        """Puts nodes in the place of one, whose first output was what `result` is."""
        for node in nodes:
            self.nodes[node.name] = node
            for index, tensor in enumerate(node.input):
                self._link(node.name, index, tensor)
        self.forget_shapes()
        self.replace(name, result)

    def forget_shapes(self) -> None:
        """Lets shapes be found anew, after changes that tell more about them."""
        self.__dict__.pop("_shapes", None)

    def _discard(self, name: str) -> None:
        """Takes a node out if nobody needs it, and what it alone needed."""
        waiting = [name]
        kept = {producer_of(t) for t in (*self.outputs, *self.inputs)}
        while waiting:
            name = waiting.pop()
            node = self.nodes.get(name)
            if node is None or name in kept or self._uses[name]:
                continue
            self._unlink(self.nodes.pop(name))
            waiting += [producer_of(t) for t in node.input]

    def _link(self, name: str, index: int, tensor: str) -> None:
        made = producer_of(tensor)
        self._uses[made] += 1
        if tensor[0] == "^":
            self._followed[made] += 1
        else:
            self._readers.setdefault(tensor, []).append((name, index))

    def _unlink(self, node: Any) -> None:
        self.weights.pop(node.name, None)
        for index, tensor in enumerate(node.input):
            made = producer_of(tensor)
            self._uses[made] -= 1
            if tensor[0] == "^":
                self._followed[made] -= 1
            else:
                self._readers[tensor].remove((node.name, index))


Pass = Callable[[Graph], None]


def _own(node: Any) -> Any:
    """A copy of a node that may change; constants do not."""
    if node.op == "Const" and not node.input:
        return node
    copy = type(node)()
    copy.CopyFrom(node)
    for index, tensor in enumerate(copy.input):
        copy.input[index] = canonical(tensor)
    return copy


def _add_without_weights(graph_def: Any, node: Any) -> None:
    tensor = node.attr["value"].tensor if node.op == "Const" else None
    if tensor is None or elements(tensor) <= _LARGEST_SHAPE:
        graph_def.node.add().CopyFrom(node)
        return
    placeholder = graph_def.node.add(op="Placeholder", name=node.name)
    placeholder.attr["dtype"].type = tensor.dtype
    placeholder.attr["shape"].shape.CopyFrom(tensor.tensor_shape)


def elements(tensor: Any) -> int:
    """How many elements a TensorProto has."""
    count = 1
    for dimension in tensor.tensor_shape.dim:
        count *= dimension.size
    return count


def _sizes(shape: Any) -> Shape:
    return None if shape.rank is None else tuple(shape.as_list())
