"""ONNX files, written by tf2onnx: float, or int8 in QDQ form."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np

from kacc.converters import flatbuffer, onnx_weights, tflite
from kacc.converters.chatter import to_log
from kacc.converters.export import for_export
from kacc.converters.formats.onnx import require_room
from kacc.converters.onnx_rounding import with_rounded_averages
from kacc.converters.request import Converted, Request
from kacc.converters.runtime import real
from kacc.core.errors import ConversionError
from kacc.core.manifest import TensorInfo

OPSETS = tuple(range(13, 19))  # per-channel QDQ form begins with the first
DEFAULT = 17
_FLOAT = np.dtype("float32")


def to_onnx(request: Request) -> Converted:
    """An ONNX file in float; quantization of a quantized model as QDQ pairs."""
    from tf2onnx import convert

    graph = for_export(request)
    require_room(graph.weight_bytes)
    graph_def, weights = onnx_weights.with_inputs(graph)
    _use_known_operators(graph_def)
    tensors = {f"{name}:0": value for name, value in weights.items()}

    def make() -> Any:
        return convert.from_graph_def(
            graph_def,
            input_names=[*graph.input_tensors, *tensors],
            output_names=list(graph.output_tensors),
            opset=request.export.opset or DEFAULT,
        )

    model = _converted(make, request)
    moved = onnx_weights.without_moves(model, tensors)
    names = _rename(model, graph.inputs, graph.outputs)
    moved = {names.get(name, name): value for name, value in moved.items()}
    _check(model, request, moved)
    onnx_weights.store(model, moved)
    return Converted(model, "tf2onnx", {"macs": request.macs})


def to_onnx_int8(request: Request) -> Converted:
    """An ONNX file in QDQ form, with the numbers of the int8 TFLite file."""
    from tf2onnx import convert

    converted = tflite.to_int8(replace(request, io="int8"))
    inputs, outputs = flatbuffer.signature(converted.data)

    def make() -> Any:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.tflite"
            path.write_bytes(converted.data)
            return convert.from_tflite(str(path), opset=request.export.opset or DEFAULT)

    model = _converted(make, request)
    into = tuple(inputs[info.name] for info in request.graph.inputs)
    out = tuple(outputs[info.name] for info in request.graph.outputs)
    with_rounded_averages(model)
    _rename(model, into, out)
    if request.io == "float32":
        _with_real_numbers(model, "input", into)
        _with_real_numbers(model, "output", out)
        into, out = tuple(map(real, into)), tuple(map(real, out))
    _check(model, request)
    notes = {**converted.notes, "macs": request.macs}
    return Converted(model, converted.backend, notes, inputs=into, outputs=out)


def _use_known_operators(graph_def: Any) -> None:
    """Writes what tf2onnx does not know by what it knows.

    That is the complementary error function of an exact GELU: erfc(x) = 1 - erf(x).

    Args:
        graph_def: is changed.
    """
    import tensorflow as tf

    for node in [node for node in graph_def.node if node.op == "Erfc"]:
        inner = graph_def.node.add(op="Erf", name=f"{node.name}/erf", input=node.input)
        inner.attr["T"].CopyFrom(node.attr["T"])
        one = graph_def.node.add(op="Const", name=f"{node.name}/one")
        one.attr["dtype"].CopyFrom(node.attr["T"])
        value = tf.make_tensor_proto(1.0, node.attr["T"].type)
        one.attr["value"].tensor.CopyFrom(value)
        node.op = "Sub"
        node.input[:] = [one.name, inner.name]


def _converted(make: Callable[[], Any], request: Request) -> Any:
    """The model that tf2onnx makes, or an error that names what it lacks."""
    with to_log():
        try:
            return _made(make)
        except Exception as error:  # tf2onnx raises whatever its parts raise
            raise _failed(error, request) from error


def _made(make: Callable[[], Any]) -> Any:
    """The model, if need be with the copies by which optimizers may fail."""
    try:
        with _without_copies():
            model, _ = make()
    except Exception:  # of one of the optimizers, or for good: then again
        model, _ = make()
    return model


@contextlib.contextmanager
def _without_copies() -> Iterator[None]:
    """Inside, tf2onnx keeps no copy of the model to go back to.

    It makes one, weights and all, before each of its optimizers, to survive their
    errors: gigabytes for a model of a hundred megabytes.
    """
    name = "TF2ONNX_CATCH_ERRORS"
    before = os.environ.get(name)
    os.environ[name] = "FALSE"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _failed(error: Exception, request: Request) -> ConversionError:
    line = next((x.strip() for x in str(error).splitlines() if x.strip()), "")
    return ConversionError(
        "tf2onnx must be able to convert the model",
        received=f"{type(error).__name__}: {line}"[:300],
        fix="Set the logger 'kacc.converters' to DEBUG to see what it printed",
    )


def _rename(
    model: Any, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]
) -> dict[str, str]:
    """Gives inputs and outputs their names in the Keras model; new names by old ones.

    Tensors inside that have such a name get another one.
    """
    graph = model.graph
    names = {
        value.name: info.name
        for values, infos in ((graph.input, inputs), (graph.output, outputs))
        for value, info in zip(values, infos, strict=True)
    }
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    for name in (taken - set(names)) & set(names.values()):
        names[name] = f"{name}__inner"
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    return names


def _with_real_numbers(model: Any, kind: str, infos: Sequence[TensorInfo]) -> None:
    """Quantizes a model's integer inputs in the model, or dequantizes its outputs.

    Args:
        model: is changed.
        kind: "input" or "output".
        infos: those of the model, as it has them.
    """
    from onnx import helper

    nodes, is_input = model.graph.node, kind == "input"
    values = model.graph.input if is_input else model.graph.output
    known = {info.name: info for info in infos if info.is_quantized}
    for value in [value for value in values if value.name in known]:
        inner = f"{value.name}__quantized"
        _reroute(model, value.name, inner)
        pair = _grid(model, known[value.name])
        operator = "QuantizeLinear" if is_input else "DequantizeLinear"
        source, result = (value.name, inner) if is_input else (inner, value.name)
        node = helper.make_node(operator, [source, *pair], [result])
        nodes.insert(0 if is_input else len(nodes), node)
        value.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(_FLOAT)


def _reroute(model: Any, name: str, other: str) -> None:
    for node in model.graph.node:
        node.input[:] = [other if n == name else n for n in node.input]
        node.output[:] = [other if n == name else n for n in node.output]


def _grid(model: Any, info: TensorInfo) -> tuple[str, str]:
    """Constants with a tensor's scale and zero point."""
    from onnx import numpy_helper

    pair = f"{info.name}__scale", f"{info.name}__zero_point"
    numbers = np.array(info.scale, _FLOAT), np.array(info.zero_point, info.dtype)
    model.graph.initializer.extend(map(numpy_helper.from_array, numbers, pair))
    return pair


def _check(
    model: Any, request: Request, weights: Mapping[str, np.ndarray] | None = None
) -> None:
    """Notes each node's layer, and raises unless the model is one of known nodes.

    Args:
        model: is changed.
        request: tells the layers.
        weights: what the model still lacks, by name.
    """
    import onnx

    for node in model.graph.node:
        scopes = [part.split(":")[0] for part in node.name.split(";")]
        layers = [request.graph.layer_of(scope) for scope in scopes]
        node.doc_string = next((layer for layer in layers if layer), "")
    lacking = sorted(
        f"{node.op_type} from {node.doc_string or node.name}"
        for node in model.graph.node
        if not onnx.defs.has(node.op_type, node.domain)
    )
    if lacking:
        raise ConversionError(
            "Every operator must have an ONNX operator",
            received=", ".join(dict.fromkeys(lacking)),
            fix="Replace these layers, or convert to another target",
        )
    inputs = model.graph.input
    count = len(inputs)
    inputs.extend(starmap(onnx_weights.declared, (weights or {}).items()))
    onnx.checker.check_model(model, full_check=True)
    del inputs[count:]
