"""Reading and changing TFLite files as FlatBuffers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from kacc.core.errors import ConversionError, KaccError
from kacc.core.manifest import TensorInfo

MANIFEST = "kacc.manifest"
_LARGEST = 2**31 - 2**16
_ALIGNMENT = 16  # what the schema demands of buffers, and Pack leaves out


@dataclass(frozen=True)
class Operator:
    """One operator of a file.

    Args:
        name: its type, such as "CONV_2D".
        inputs, outputs: indices of its tensors; -1 is an input that is left out.
        subgraph: the subgraph that it stands in.
        calls: the subgraphs that it runs, such as a loop's condition and body.
    """

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    subgraph: int = 0
    calls: tuple[int, ...] = ()


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file: its name, type ("INT8"), shape, and scale if it has one.

    Free sizes are None in the shape. `channels` counts the scales; a `variable` keeps
    its value from one run to the next.
    """

    name: str
    type: str
    shape: tuple[int | None, ...]
    scale: float | None
    zero_point: int | None
    constant: bool
    channels: int = 0
    variable: bool = False


@dataclass(frozen=True)
class Subgraph:
    """The operators of a file in the order they run in, and their tensors."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]

    def producer(self, tensor: int) -> Operator | None:
        """The operator that writes a tensor, or None for inputs and constants."""
        return next((op for op in self.operators if tensor in op.outputs), None)


def check_tflite(data: bytes, origin: object) -> None:
    """Raises a KaccError if bytes are not a TFLite file.

    Args:
        data: the content.
        origin: where it came from, for the message.

    Example:
        >>> check_tflite(b"PK", "model.keras")
        Traceback (most recent call last):
        ...
        kacc.core.errors.KaccError: The file must be a TFLite file. Received: ...
    """
    if data[4:8] != b"TFL3":
        raise KaccError(
            "The file must be a TFLite file",
            received=str(origin),
            fix="Name a file that kacc.convert or a TFLite converter wrote",
        )


def subgraphs(data: bytes) -> tuple[Subgraph, ...]:
    """The graphs of a file; the first is the model, others are bodies of loops."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(data, 0)
    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if k.isupper()}
    types = {v: k for k, v in vars(schema.TensorType).items() if k.isupper()}
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    kinds = [
        (c.CustomCode() or b"").decode()
        or names[max(c.BuiltinCode(), c.DeprecatedBuiltinCode())]
        for c in codes
    ]
    return tuple(
        _subgraph(model, index, kinds, types)
        for index in range(model.SubgraphsLength())
    )


def _subgraph(
    model: Any, index: int, kinds: list[str], types: dict[int, str]
) -> Subgraph:
    graph = model.Subgraphs(index)
    tensors = (graph.Tensors(i) for i in range(graph.TensorsLength()))
    operators = (graph.Operators(i) for i in range(graph.OperatorsLength()))
    return Subgraph(
        inputs=tuple(int(i) for i in graph.InputsAsNumpy()),
        outputs=tuple(int(i) for i in graph.OutputsAsNumpy()),
        tensors=tuple(_tensor(model, t, types) for t in tensors),
        operators=tuple(
            Operator(
                kinds[op.OpcodeIndex()],
                tuple(int(op.Inputs(i)) for i in range(op.InputsLength())),
                tuple(int(op.Outputs(i)) for i in range(op.OutputsLength())),
                index,
                _calls(kinds[op.OpcodeIndex()], op),
            )
            for op in operators
        ),
    )


def _calls(kind: str, operator: Any) -> tuple[int, ...]:
    """The subgraphs that an operator runs, in the order in which it runs them."""
    from ai_edge_litert import schema_py_generated as schema

    kinds: dict[str, tuple[Any, tuple[str, ...]]] = {
        "IF": (schema.IfOptions, ("ThenSubgraphIndex", "ElseSubgraphIndex")),
        "WHILE": (schema.WhileOptions, ("CondSubgraphIndex", "BodySubgraphIndex")),
        "CALL_ONCE": (schema.CallOnceOptions, ("InitSubgraphIndex",)),
    }
    if kind not in kinds:
        return ()
    make, readers = kinds[kind]
    table, options = operator.BuiltinOptions(), make()
    options.Init(table.Bytes, table.Pos)
    return tuple(int(getattr(options, reader)()) for reader in readers)


def _tensor(model: Any, tensor: Any, types: dict[int, str]) -> Tensor:
    quantization = tensor.Quantization()
    one_scale = quantization is not None and quantization.ScaleLength() == 1
    return Tensor(
        name=(tensor.Name() or b"").decode(),
        type=types[tensor.Type()],
        shape=_shape(tensor),
        scale=float(quantization.Scale(0)) if one_scale else None,
        zero_point=int(quantization.ZeroPoint(0)) if one_scale else None,
        constant=_has_content(model.Buffers(tensor.Buffer())),
        channels=0 if quantization is None else quantization.ScaleLength(),
        variable=bool(tensor.IsVariable()),
    )


def _has_content(buffer: Any) -> bool:
    return buffer.DataLength() > 0 or buffer.Size() > 0


def _shape(tensor: Any) -> tuple[int | None, ...]:
    free = tensor.ShapeSignatureLength() > 0
    read = tensor.ShapeSignature if free else tensor.Shape
    sizes = [int(read(i)) for i in range(tensor.ShapeLength())]
    return tuple(None if size < 0 else size for size in sizes)


def signature(data: bytes) -> tuple[dict[str, TensorInfo], dict[str, TensorInfo]]:
    """The inputs and outputs of a file by name, in the file's order.

    Names are those of the first signature, or the tensors' own without one. Floats of
    an integer file have the grid of the QUANTIZE or DEQUANTIZE that they meet.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(data, 0)
    graph = subgraphs(data)[0]
    inputs = {graph.tensors[i].name: i for i in graph.inputs}
    outputs = {graph.tensors[i].name: i for i in graph.outputs}
    if model.SignatureDefsLength():
        entry = model.SignatureDefs(0)
        maps = [entry.Inputs(i) for i in range(entry.InputsLength())]
        inputs = {m.Name().decode(): m.TensorIndex() for m in maps}
        maps = [entry.Outputs(i) for i in range(entry.OutputsLength())]
        outputs = {m.Name().decode(): m.TensorIndex() for m in maps}
    return (
        {name: _info(name, i, graph) for name, i in inputs.items()},
        {name: _info(name, i, graph) for name, i in outputs.items()},
    )


def _info(name: str, index: int, graph: Subgraph) -> TensorInfo:
    tensor = graph.tensors[index]
    grid = tensor
    # An integer tensor has a grid of its own, also where a QUANTIZE reads it.
    for operator in graph.operators if tensor.type == "FLOAT32" else ():
        if operator.name == "QUANTIZE" and operator.inputs[0] == index:
            grid = graph.tensors[operator.outputs[0]]
        if operator.name == "DEQUANTIZE" and operator.outputs[0] == index:
            grid = graph.tensors[operator.inputs[0]]
    if grid.type == "FLOAT16":  # of a constant that is stored so, not of a grid
        grid = tensor
    info = TensorInfo(
        name, tensor.shape, tensor.type.lower(), grid.scale, grid.zero_point
    )
    return info if grid is tensor else replace(info, integers=grid.type.lower())


def float_operators(data: bytes, float_io: bool) -> Iterator[tuple[Operator, Subgraph]]:
    """The operators that read or write floats.

    Args:
        data: a TFLite file.
        float_io: whether a QUANTIZE of an input and a DEQUANTIZE of an output are
            allowed.

    Yields:
        Each operator that is not integer, with the subgraph that it stands in.
    """
    for graph in subgraphs(data):
        for operator in graph.operators:
            used = [i for i in (*operator.inputs, *operator.outputs) if i >= 0]
            if not any(_is_float(graph.tensors[i]) for i in used):
                continue
            if float_io and _at_boundary(operator, graph):
                continue
            yield operator, graph


def _is_float(tensor: Tensor) -> bool:
    return "FLOAT" in tensor.type


def _at_boundary(operator: Operator, graph: Subgraph) -> bool:
    if operator.name == "QUANTIZE":
        return operator.inputs[0] in graph.inputs
    return operator.name == "DEQUANTIZE" and operator.outputs[0] in graph.outputs


def read_metadata(data: bytes, name: str) -> bytes | None:
    """The metadata entry of a file, or None."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(data, 0)
    for index in range(model.MetadataLength()):
        entry = model.Metadata(index)
        if entry.Name() == name.encode():
            return bytes(model.Buffers(entry.Buffer()).DataAsNumpy())
    return None


def with_metadata(data: bytes, name: str, content: bytes) -> bytes:
    """A copy of a TFLite file that carries a metadata entry.

    Args:
        data: the file.
        name: the entry's name; an entry of this name is replaced.
        content: the entry.

    Returns:
        The new file, its buffers inside the FlatBuffer and aligned as the schema
        demands.

    Raises:
        ConversionError: if the file is above 2 GB, the limit of a FlatBuffer.
    """
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    if len(data) > _LARGEST:
        raise ConversionError(
            "A TFLite file must stay below 2 GB",
            received=f"{len(data):,} bytes",
            fix="Make the model smaller",
        )
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    for buffer in model.buffers:
        if buffer.offset > 1:  # behind the FlatBuffer, as ai-edge-quantizer writes
            end = buffer.offset + buffer.size
            buffer.data = np.frombuffer(data[buffer.offset : end], np.uint8)
            buffer.offset = buffer.size = 0
    kept = [m for m in model.metadata or [] if m.name not in (name, name.encode())]
    entry = schema.MetadataT(name=name, buffer=len(model.buffers))
    model.buffers.append(schema.BufferT(data=np.frombuffer(content, np.uint8)))
    model.metadata = [*kept, entry]
    return pack(model, len(data) + len(content))


def operator_kinds(model: Any) -> list[int]:
    """The built-in operator of each code of a `ModelT` of the schema's object API.

    Kinds below 127 stand in the older field too, and those beyond in the newer one.
    """
    return [max(c.builtinCode, c.deprecatedBuiltinCode) for c in model.operatorCodes]


def pack(model: Any, size: int) -> bytes:
    """Serializes a `ModelT` of the schema's object API.

    Args:
        model: the model; its buffers are left as they are.
        size: about how long the result will be, in bytes.

    Returns:
        The file's content.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    class AlignedBuffer(schema.BufferT):
        """Runtimes map constants where they lie, so they must lie aligned."""

        def Pack(self, builder: Any) -> Any:  # noqa: N802
            if self.data is not None:
                builder.Prep(_ALIGNMENT, len(self.data))
            return super().Pack(builder)

    buffers = model.buffers
    model.buffers = [AlignedBuffer(b.data, b.offset, b.size) for b in buffers]
    try:
        builder = flatbuffers.Builder(size + 4096)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())
    finally:
        model.buffers = buffers
