"""A model's inference as a TensorFlow graph of constants, large ones beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kacc.converters import weights
from kacc.converters.samples import Samples
from kacc.core.manifest import TensorInfo

_BATCH = 64  # of graphs that leave the batch size free


@dataclass(frozen=True)
class FrozenGraph:
    """A model's inference as a graph of constants.

    Args:
        graph_def: the TensorFlow GraphDef, large constants of which are stand-ins.
        inputs, outputs: in the model's order.
        input_tensors, output_tensors: their tensors' names in the graph.
        input_structure, output_structure: "single", "list" or "dict".
        layers: scope that a layer's operations stand in -> the layer's path, from
            below the model ("block/conv").
        weights: the values of these constants, by the names of their nodes.
    """

    graph_def: Any
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    input_tensors: tuple[str, ...]
    output_tensors: tuple[str, ...]
    input_structure: str
    output_structure: str
    layers: Mapping[str, str]
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)

    @cached_property
    def _function(self) -> Any:
        return self.function(self.output_tensors)

    def function(self, fetches: Sequence[str]) -> Any:
        """A TensorFlow function from the inputs to any tensors of the graph.

        It reads the large constants from beside the graph.
        """
        import tensorflow as tf

        # Tensors of outside, which the graph's function captures as its arguments.
        given = {f"{n}:0": tf.constant(self.weights[n]) for n in self.read_weights}

        def build() -> None:
            capture = tf.compat.v1.get_default_graph().capture
            values = {name: capture(tensor) for name, tensor in given.items()}
            tf.graph_util.import_graph_def(self.graph_def, values, name="")

        imported = tf.compat.v1.wrap_function(build, [])
        element = imported.graph.as_graph_element
        return imported.prune(
            [element(name) for name in self.input_tensors],
            [element(name) for name in fetches],
        )

    @property
    def weight_bytes(self) -> int:
        """Bytes of the constants that stand beside the graph."""
        return sum(value.nbytes for value in self.weights.values())

    @property
    def read_weights(self) -> list[str]:
        """Names of the constants beside the graph that an operation of it reads."""
        read = {source for node in self.graph_def.node for source in node.input}
        return [name for name in self.weights if {name, f"{name}:0"} & read]

    @property
    def outline(self) -> FrozenGraph:
        """The graph with stand-ins only, for files that values are put into."""
        return replace(self, weights={})

    def settled(self) -> FrozenGraph:
        """The graph with constants in it that are outputs: nothing reads them."""
        made = {name.split(":")[0] for name in self.output_tensors}
        found = {k: v for k, v in self.weights.items() if k in made}
        weights.put_back(self.graph_def.node, found)
        rest = {k: v for k, v in self.weights.items() if k not in made}
        return replace(self, weights=rest)

    def calling(self, *inputs: Any) -> list[Any]:
        """Builds the graph, large constants in it, where a function is traced.

        Args:
            inputs: symbolic tensors.

        Returns:
            The outputs.
        """
        given = dict(zip(self.input_tensors, inputs, strict=True))
        return self.given(given, self.weights)

    def given(
        self, tensors: Mapping[str, Any], values: Mapping[str, np.ndarray] | None = None
    ) -> list[Any]:
        """Builds the graph where a function is traced, with some tensors given to it.

        Args:
            tensors: symbolic tensors by the names of those whose place they take.
            values: of large constants, by name.

        Returns:
            The outputs.
        """
        import tensorflow as tf

        names = {name.split(":")[0] for name in tensors}
        rest = self.graph_def.__class__()
        rest.versions.CopyFrom(self.graph_def.versions)
        rest.library.CopyFrom(self.graph_def.library)
        rest.node.extend(n for n in self.graph_def.node if n.name not in names)
        weights.put_back(rest.node, values or {})
        outputs = tf.graph_util.import_graph_def(
            rest, dict(tensors), self.output_tensors, ""
        )
        return list(outputs)

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Computes the outputs of any number of samples, in float."""
        import tensorflow as tf

        length = len(arrays[0])
        size = self.inputs[0].shape[0] or min(length, _BATCH)
        dtypes = [info.dtype for info in self.inputs]
        parts = []
        for batch in Samples(list(arrays)).batches(size):
            feeds = [
                tf.constant(a, dtype=d) for a, d in zip(batch, dtypes, strict=True)
            ]
            parts.append([np.asarray(value) for value in self._function(*feeds)])
        return [np.concatenate(part)[:length] for part in zip(*parts, strict=True)]

    def save(self, folder: str) -> None:
        """Writes the graph as a SavedModel with one signature, names kept."""
        import tensorflow as tf

        v1 = tf.compat.v1
        with tf.Graph().as_default() as graph:
            tf.graph_util.import_graph_def(self.graph_def, name="")
            named = [
                {
                    info.name: graph.get_tensor_by_name(tensor)
                    for info, tensor in zip(infos, tensors, strict=True)
                }
                for infos, tensors in (
                    (self.inputs, self.input_tensors),
                    (self.outputs, self.output_tensors),
                )
            ]
            with v1.Session(graph=graph) as session:
                v1.saved_model.simple_save(session, folder, *named)
        weights.put_into_saved_model(Path(folder), self.weights)

    def layer_of(self, operation: str) -> str | None:
        """The innermost layer that an operation of this name belongs to, if any."""
        scope = operation
        while scope:
            if scope in self.layers:
                return self.layers[scope] or None
            scope = scope.rpartition("/")[0]
        return None
