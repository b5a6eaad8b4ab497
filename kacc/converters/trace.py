"""A Keras model as one frozen TensorFlow graph, with layer paths as its names.

Every target starts from this graph: weights are constants, there are no calls of other
functions, and an operation that a layer made is called by the layer's path, such as
"model/block/conv/convolution". Converters carry these names into their files.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from kacc.converters import legacy, weights
from kacc.converters.frozen_graph import FrozenGraph
from kacc.converters.signature import (
    Signature,
    kind_of,
    output_names,
    require_model,
    signature_of,
)
from kacc.core.errors import ConversionError
from kacc.core.manifest import TensorInfo


def freeze(model: Any, batch: int | None = None, barriers: bool = False) -> FrozenGraph:
    """Traces a model's inference and makes its variables constants.

    Of a quantized model the graph holds weights and ranges as the file will have them.
    Models that compute in half precision are traced in float32.

    Args:
        model: a built Keras model, or one of tf_keras.
        batch: a fixed batch size, or None for any.
        barriers: whether layers that a rule leaves in float are to be kept so by
            operations that `islands.without_barriers` takes out of the file again.

    Returns:
        The graph.

    Raises:
        UsageError: if the model is not built.
        ConversionError: if the model cannot be traced.
    """
    import tensorflow as tf

    require_model(model)
    with _for_inference(model):
        signature = signature_of(model, batch)
        specs = [tf.TensorSpec(x.shape, x.dtype, x.name) for x in signature.inputs]
        infer, path_of = _inference(model, signature, barriers)
        structures: list[Any] = []
        layers: dict[str, str] = {}

        def forward(*flat: Any) -> list[Any]:
            import keras

            with layer_scopes(layers, path_of):
                outputs = infer(list(flat))
            structures.append(outputs)
            return keras.tree.flatten(outputs)

        try:
            traced = tf.function(forward, input_signature=specs, autograph=False)
            concrete = traced.get_concrete_function()
        except Exception as error:
            raise ConversionError(
                f"The model {model.name!r} must run on symbolic inputs",
                received=_first_line(error),
                fix="Call the model inside a tf.function to see the whole error",
            ) from error
        frozen, values = weights.frozen(concrete)
    graph = _graph_of(model, signature, frozen, structures[0], layers)
    apart = weights.take_apart(graph.graph_def.node) | values
    return replace(graph, weights=apart).settled()


# From a scope's name, the scope that it is opened in, and the scopes of layers so far,
# to the path of the layer that opens it; None for other scopes.
PathOf = Callable[[Any, str, dict[str, str]], str | None]


def _inference(
    model: Any, signature: Signature, barriers: bool
) -> tuple[Callable[[list[Any]], Any], PathOf]:
    """A function from flat inputs to outputs, and what tells the scopes of layers."""

    def plain(flat: list[Any]) -> Any:
        return model(signature.packed(flat), training=False)

    if legacy.is_legacy(model):
        return plain, legacy.path_of
    from kacc.quantization import scheme_of

    if scheme_of(model) is None:
        return plain, _path_by_keras
    from kacc.core.graph import trace
    from kacc.quantization.inference import inference_function

    paths = frozenset(call.path for call in trace(model).calls)

    def path_of(name: Any, outer: str, layers: dict[str, str]) -> str | None:
        return str(name) if not outer and name in paths else None

    return inference_function(model, barriers=barriers), path_of


def _path_by_keras(name: Any, outer: str, layers: dict[str, str]) -> str | None:
    # Private: the stack of name scopes tells a layer's scope from an operator's of the
    # same name. tests/converters/test_trace.py fails if it changes.
    from keras.src.backend.common import global_state

    stack = global_state.get_global_attribute("name_scope_stack") or [None]
    if stack[-1] is None or stack[-1].caller is None or stack[-1].name != name:
        return None
    return "/".join(entry.name for entry in stack[1:])


def _for_inference(model: Any) -> contextlib.AbstractContextManager[None]:
    if legacy.is_legacy(model):
        return legacy.for_inference(model)
    return _in_float32(model)


def _graph_of(
    model: Any, signature: Any, frozen: Any, structure: Any, layers: dict[str, str]
) -> FrozenGraph:
    import keras

    graph_def = frozen.graph.as_graph_def()
    with_constant_reshapes(graph_def)
    names = output_names(model, structure)
    # Freezing forgets the shapes of what a called function returns, as Keras calls
    # grouped convolutions; tracing knew them.
    traced = keras.tree.flatten(structure)
    outputs = tuple(
        TensorInfo(name, tuple(x.shape), x.dtype.name)
        for name, x in zip(names, traced, strict=True)
    )
    return FrozenGraph(
        graph_def=graph_def,
        inputs=signature.inputs,
        outputs=outputs,
        input_tensors=tuple(x.name for x in frozen.inputs),
        output_tensors=_behind_identities(frozen.outputs),
        input_structure=signature.kind,
        output_structure=kind_of(structure),
        layers=layers,
    )


def _behind_identities(outputs: Sequence[Any]) -> tuple[str, ...]:
    """Names of the tensors that the function returns, by the layer that made them.

    A tensor that is returned twice, or is an input, keeps its own Identity: a file
    needs a tensor of its own for each output.
    """
    names: list[str] = []
    for output in outputs:
        inner = output
        while inner.op.type == "Identity" and inner.op.inputs[0].op.type != (
            "Placeholder"
        ):
            inner = inner.op.inputs[0]
        names.append(output.name if inner.name in names else inner.name)
    return tuple(names)


def with_constant_reshapes(graph_def: Any) -> None:
    """Makes the shape of a Reshape constant if only one of its sizes is computed.

    A Keras Flatten reads the batch size from its input; the other sizes and the number
    of elements determine it, so -1 says the same. Files then need no integer side
    computation, which quantizers leave in float and runtimes run one by one.

    Args:
        graph_def: a GraphDef, changed in place.
    """
    import tensorflow as tf

    nodes = {node.name: node for node in graph_def.node}
    for node in list(graph_def.node):
        pack = nodes.get(_producer(node.input[1])) if node.op == "Reshape" else None
        if pack is None or pack.op != "Pack":
            continue
        sizes = [_constant(nodes.get(_producer(name))) for name in pack.input]
        if sizes.count(None) != 1 or 0 in sizes or -1 in sizes:
            continue
        shape = np.array([-1 if s is None else s for s in sizes], np.int32)
        constant = graph_def.node.add(op="Const", name=f"{node.name}/constant_shape")
        constant.attr["dtype"].type = tf.int32.as_datatype_enum
        constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(shape))
        node.attr["Tshape"].type = tf.int32.as_datatype_enum
        node.input[1] = constant.name


def _producer(tensor: str) -> str:
    return tensor.split(":")[0].removeprefix("^")


def _constant(node: Any) -> int | None:
    import tensorflow as tf

    if node is None or node.op != "Const":
        return None
    value = tf.make_ndarray(node.attr["value"].tensor)
    return int(value) if value.ndim == 0 else None


@contextlib.contextmanager
def layer_scopes(layers: dict[str, str], path_of: PathOf) -> Iterator[None]:
    """Gives each layer one name scope, and records which layer a scope belongs to.

    Keras opens a layer's scope twice per call, and TensorFlow numbers scopes that come
    again, so that "conv_1" may be the layer conv or the layer conv_1. Here a scope that
    a layer opens again is entered again; operations stay unique within it.

    Args:
        layers: is filled: scope -> path of the layer.
        path_of: tells which scopes are those of layers.
    """
    import tensorflow as tf

    graph = tf.compat.v1.get_default_graph()
    original = graph.name_scope
    entered: dict[tuple[str, str], str] = {}

    @contextlib.contextmanager
    def name_scope(name: Any) -> Iterator[Any]:
        outer = tf.get_current_name_scope()
        path = path_of(name, outer, layers)
        if path is None:
            with original(name) as scope:
                yield scope
            return
        with original(entered.get((outer, name), name)) as scope:
            entered[outer, name] = scope
            layers.setdefault(scope.rstrip("/"), path)
            yield scope

    graph.name_scope = name_scope
    try:
        yield
    finally:
        graph.name_scope = original


@contextlib.contextmanager
def _in_float32(model: Any) -> Iterator[None]:
    """Lets a model of half precision compute in float32 for the moment."""
    import keras

    # Private: Keras walks all layers, those inside composite layers too, only here,
    # and casts variables only by this scope. tests/converters/test_trace.py watches.
    from keras.src.backend import AutocastScope

    float32 = keras.DTypePolicy("float32")
    changed = []
    try:
        for layer in model._flatten_layers():
            if layer.compute_dtype in ("float16", "bfloat16", "float64"):
                changed.append((layer, layer.dtype_policy))
                layer.dtype_policy = float32
        with AutocastScope("float32") if changed else contextlib.nullcontext():
            yield
    finally:
        for layer, policy in changed:
            layer.dtype_policy = policy


def _first_line(error: Exception) -> str:
    """What an error says, without the frame that Keras puts around it."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # colours
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [""]
    if lines[0].startswith("Exception encountered") and len(lines) > 1:
        where = lines[0].removeprefix("Exception encountered when calling ")
        return f"{type(error).__name__} in {where.rstrip('.')}: {lines[1]}"
    return f"{type(error).__name__}: {lines[0]}"
