"""Large SavedModels, run with weights as arguments of their functions.

`tf.saved_model.load` and a first run hold 20 times the weights of a model, since
TensorFlow copies what is in a function whenever it looks at it. A server has that room;
to compare a file of a gigabyte on a laptop there must be another way.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kacc.converters.frozen_graph import FrozenGraph
from kacc.converters.weights import take_apart
from kacc.core.manifest import LIST, Manifest


def signatures(path: Path, manifest: Manifest) -> dict[str, Callable[..., Any]]:
    """The signatures of a SavedModel that kacc wrote, weights apart.

    Operations, their order and the weights are the file's; what TensorFlow prepares
    for constant kernels only, it does in each run.

    Args:
        path: the version folder.
        manifest: its manifest.

    Returns:
        By name a function from inputs by name to outputs by name.
    """
    import tensorflow as tf

    graph = _frozen(path, manifest)
    whole = graph.function(graph.output_tensors)
    compiled = manifest.report.get("xla", {})
    inputs = [info.name for info in graph.inputs]
    outputs = [info.name for info in graph.outputs]

    def signature(name: str) -> Callable[..., Any]:
        function = tf.function(
            lambda *values: whole(*values),
            jit_compile=compiled.get(name, True),
            autograph=False,
        )

        def call(**feeds: Any) -> dict[str, Any]:
            values = function(*[feeds[key] for key in inputs])
            return dict(zip(outputs, values, strict=True))

        return call

    return {name: signature(name) for name in _names(path)}


def _names(path: Path) -> list[str]:
    keys = _saved(path).meta_graphs[0].signature_def
    return [key for key in keys if key != "__saved_model_init_op"]


def _saved(path: Path) -> Any:
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    return SavedModel.FromString((path / "saved_model.pb").read_bytes())


def _frozen(path: Path, manifest: Manifest) -> FrozenGraph:
    """The graph of the one function that all signatures call."""
    import tensorflow as tf

    # Private: what reads the names in a function's body.
    # tests/converters/test_memory.py fails when it goes away.
    from tensorflow.python.framework.function_def_to_graph import (
        function_def_to_graph_def,
    )

    function, others, weights = _taken(_saved(path).meta_graphs[0].graph_def.library)
    known = tf.compat.v1.GraphDef()
    known.library.function.extend(others)
    with tf.Graph().as_default():  # functions are looked up in it
        tf.graph_util.import_graph_def(known)
        body, tensors = function_def_to_graph_def(function)
    body.library.CopyFrom(known.library)
    returned = [function.ret[arg.name] for arg in function.signature.output_arg]
    return FrozenGraph(
        graph_def=body,
        inputs=manifest.inputs,
        outputs=manifest.outputs,
        input_tensors=tuple(f"{a.name}:0" for a in function.signature.input_arg),
        output_tensors=tuple(tensors[name] for name in returned),
        input_structure=LIST,
        output_structure=LIST,
        layers={},
        weights=weights,
    )


def _taken(library: Any) -> tuple[Any, list[Any], dict[str, np.ndarray]]:
    """The function with the weights, those that it calls, and the weights."""
    functions = {f.signature.name: f for f in library.function}
    name = max(functions, key=lambda key: _stored(functions[key]))
    weights = take_apart(functions[name].node_def)
    # Copies, since what was taken out leaves no room in the originals; names of their
    # own, since the process may have others of these names.
    names = [name, *_called(functions, name)]
    texts = [functions[key].SerializeToString() for key in names]
    copies = [type(functions[name]).FromString(text) for text in texts]
    mark = secrets.token_hex(4)
    for copy in copies:
        copy.signature.name += f"_{mark}"
        for called in _calls(copy):
            called.name += f"_{mark}" if called.name in names else ""
    return copies[0], copies[1:], weights


def _stored(function: Any) -> int:
    """Bytes of the constants of a function."""
    constants = (node for node in function.node_def if node.op == "Const")
    return sum(len(node.attr["value"].tensor.tensor_content) for node in constants)


def _called(functions: dict[str, Any], name: str) -> list[str]:
    """The functions that one calls, and that these call."""
    found: dict[str, None] = {}
    waiting = [name]
    while waiting:
        for called in _calls(functions[waiting.pop()]):
            if called.name in functions and called.name not in found:
                found[called.name] = None
                waiting.append(called.name)
    return list(found)


def _calls(function: Any) -> Iterator[Any]:
    """Where a function names others."""
    for node in function.node_def:
        for attr in node.attr.values():
            if attr.HasField("func"):
                yield attr.func
            yield from attr.list.func if attr.HasField("list") else ()
