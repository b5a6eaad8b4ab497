"""Weights beside the graph that they belong to.

TensorFlow copies a graph for whatever it does with it, weights and all: freezing,
importing and saving held 10 to 40 times the bytes of a model. So large constants stand
in a frozen graph as one number of their shape, and their values beside it, once. They
are put into a graph, or a file, when there is nothing left to do but to use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kacc.core.errors import ConversionError

LEAST = 4097  # elements of a constant that stands beside its graph
# Bytes of weights that a function takes as arguments where it is run here: with so many
# constants, TensorFlow would take 20 times their memory.
LARGE = 640 * 2**20
_LARGEST = 2**31 - 1  # bytes of a protocol buffer


def stand_in(shape: tuple[int, ...], dtype: Any) -> Any:
    """A TensorProto of a shape that takes a few bytes.

    Its number is one that spoils every result, should it ever be computed with.
    """
    import tensorflow as tf

    kind = tf.as_dtype(dtype)
    number = np.inf if kind.is_floating else kind.max
    return tf.make_tensor_proto(number, kind, shape)


def stands_apart(shape: tuple[int, ...], dtype: Any) -> bool:
    """Whether a constant of a shape and a type is one to stand beside its graph."""
    import tensorflow as tf

    kind = tf.as_dtype(dtype)
    numeric = kind.is_floating or (kind.is_integer and not kind.is_quantized)
    return bool(numeric and np.prod(shape, dtype=np.int64) >= LEAST)


def take_apart(nodes: Any) -> dict[str, np.ndarray]:
    """Takes the values of large constants out of a graph.

    Args:
        nodes: NodeDefs, which are changed.

    Returns:
        The values by the names of their nodes.
    """
    import tensorflow as tf

    taken: dict[str, np.ndarray] = {}
    for node in nodes:
        if node.op != "Const" or not node.attr["value"].tensor.tensor_content:
            continue
        tensor = node.attr["value"].tensor
        shape = tuple(d.size for d in tensor.tensor_shape.dim)
        if stands_apart(shape, tensor.dtype):
            taken[node.name] = tf.make_ndarray(tensor)
            tensor.CopyFrom(stand_in(shape, tensor.dtype))
    return taken


def put_back(nodes: Any, weights: Mapping[str, np.ndarray]) -> set[str]:
    """Puts values into the nodes that stand for them.

    Args:
        nodes: NodeDefs, which are changed.
        weights: values by the names of their nodes.

    Returns:
        The names that were among the nodes.
    """
    from tensorflow.core.framework.tensor_pb2 import TensorProto

    found: set[str] = set()
    for node in nodes:
        value = weights.get(node.name) if node.op == "Const" else None
        tensor = node.attr["value"].tensor if value is not None else None
        # A function may have another constant of this name.
        if tensor is not None and _stands_for(tensor, value):
            tensor.CopyFrom(
                TensorProto(dtype=tensor.dtype, tensor_shape=tensor.tensor_shape)
            )
            tensor.tensor_content = np.ascontiguousarray(value).tobytes()
            found.add(node.name)
    return found


def _stands_for(tensor: Any, value: Any) -> bool:
    shape = tuple(dimension.size for dimension in tensor.tensor_shape.dim)
    return not tensor.tensor_content and shape == value.shape


def put_into_saved_model(folder: Path, weights: Mapping[str, np.ndarray]) -> None:
    """Puts values into the constants of a SavedModel that stand for them.

    Args:
        folder: of the SavedModel, whose graph or functions have nodes of these names.
        weights: values by the names of their nodes.

    Raises:
        ConversionError: if the file would be larger than a protocol buffer can be.
    """
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    # Private: what writes the hashes of a SavedModel's content beside it.
    # tests/converters/test_memory.py fails when it goes away.
    from tensorflow.python.saved_model.fingerprinting_utils import write_fingerprint

    if not weights:
        return
    path = folder / "saved_model.pb"
    saved = SavedModel.FromString(path.read_bytes())
    found: set[str] = set()
    for meta_graph in saved.meta_graphs:
        graph_def = meta_graph.graph_def
        found |= put_back(graph_def.node, weights)
        for function in graph_def.library.function:
            found |= put_back(function.node_def, weights)
    lost = set(weights) - found
    assert not lost, f"weights without a place in the file: {sorted(lost)}"
    require_room(saved.ByteSize())
    path.write_bytes(saved.SerializeToString())
    del saved
    if (folder / "fingerprint.pb").is_file():
        write_fingerprint(str(folder))


def require_room(size: int) -> None:
    """Raises unless so many bytes fit the file of a SavedModel."""
    if size > _LARGEST:
        raise ConversionError(
            "TensorFlow must be able to save the model, which must have less than "
            "2 GiB of weights",
            received=f"{size:,} bytes",
            fix="Split the model with kacc.split, or pass compute='bfloat16'",
        )


def values_of(variable: Any) -> np.ndarray:
    """The values of a variable, as it has them now; not copied where that can be.

    A variable that is written to later takes other memory as long as this is held.
    """
    tensor = variable.read_value()
    try:
        return np.asarray(memoryview(tensor))
    except (TypeError, ValueError, BufferError):  # no buffers of bfloat16
        return np.asarray(tensor.numpy())


class StoredVariable:
    """A variable as freezing asks for it, with a stand-in for its values.

    Args:
        variable: the variable of TensorFlow.
    """

    def __init__(self, variable: Any) -> None:
        self.handle = variable.handle
        self.shape = tuple(variable.shape)
        self.dtype = variable.dtype

    def numpy(self) -> StoredVariable:
        """What `tf.make_tensor_proto` takes for an array of its shape."""
        return self

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        number = np.inf if self.dtype.is_floating else self.dtype.max
        return np.array([number], dtype or self.dtype.as_numpy_dtype)


def frozen(concrete: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """Makes the variables of a function constants, large ones beside its graph.

    Args:
        concrete: a ConcreteFunction, which is not to be called any more.

    Returns:
        The function without variables, and the values of its large constants by name.
    """
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    large = {
        id(variable.handle): variable
        for variable in concrete.graph.variables
        if variable.shape.is_fully_defined()
        and stands_apart(tuple(variable.shape), variable.dtype)
    }
    weights = {
        inner.op.name: values_of(large[id(outer)])
        for outer, inner in concrete.graph.captures
        if id(outer) in large
    }
    # A graph asks its variables for their handles and, when frozen, for their values.
    asked = [
        StoredVariable(variable) if id(variable.handle) in large else variable
        for variable in concrete.graph.variables
    ]
    concrete.graph.variables = asked
    # Loops stay whole, since converters know While but not its low-level parts.
    made = convert_variables_to_constants_v2(concrete, lower_control_flow=False)
    return made, weights
