"""TFLite files: float32, float16, dynamic range and full integer."""

from __future__ import annotations

import functools
import re
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from kacc.converters import flatbuffer
from kacc.converters.chatter import logger, to_log
from kacc.converters.explicit import with_explicit_weights
from kacc.converters.frozen_graph import FrozenGraph
from kacc.converters.integer_io import with_integer_io
from kacc.converters.islands import without_barriers
from kacc.converters.post_training import BACKEND
from kacc.converters.requantize import with_direct_requantization
from kacc.converters.request import Converted, Request
from kacc.converters.runtime import LiteRuntime, from_grid, to_grid
from kacc.converters.samples import Samples
from kacc.converters.shapes import with_operands_of_shapes
from kacc.converters.widen import with_wide_activations
from kacc.core.errors import ConversionError, KaccError, UsageError

_SIGNATURE = "serving_default"
_BATCH = 32  # samples per step of calibration where the file leaves the size free


def to_float32(request: Request) -> Converted:
    """A file that computes in float32."""

    def options(converter: Any) -> None:
        converter.optimizations = _sparsity(request)

    return Converted(_convert(request.graph, options), "tflite")


def to_float16(request: Request) -> Converted:
    """A file with weights in float16, which is computed in float32 on most CPUs."""

    def options(converter: Any) -> None:
        import tensorflow as tf

        converter.optimizations = [tf.lite.Optimize.DEFAULT, *_sparsity(request)]
        converter.target_spec.supported_types = [tf.float16]

    return Converted(_convert(request.graph, options), "tflite")


def _sparsity(request: Request) -> list[Any]:
    import tensorflow as tf

    return [tf.lite.Optimize.EXPERIMENTAL_SPARSITY] if request.sparse else []


def to_dynamic(request: Request) -> Converted:
    """A file with int8 weights, whose activations are quantized while it runs."""

    def options(converter: Any) -> None:
        import tensorflow as tf

        converter.optimizations = [tf.lite.Optimize.DEFAULT]

    return Converted(_convert(request.graph, options), "tflite")


def to_int8(request: Request) -> Converted:
    """A file of integers only.

    A model with an attached scheme brings its ranges. Others are calibrated by
    TFLiteConverter, by ai-edge-quantizer and by kacc itself, and the file whose outputs
    lie nearest to the float model's on the calibration data is kept.
    """
    if request.scheme is not None:
        data = _integer(request, None)
        if request.by_tfmot and not _is_integer(data, request):
            data = _integer(request, request.calibration)
        _require_integer(data, request)
        return Converted(data, "tflite")
    makers: dict[str, Callable[[Request], bytes]] = {
        "tflite": _by_tflite,
        "ai-edge": _by_ai_edge,
    }
    if request.own is not None:
        makers[BACKEND] = _by_kacc(to_int8)
    return _of_plain(request, makers)


def _by_kacc(handler: Callable[[Request], Converted]) -> Callable[[Request], bytes]:
    """Makes a file of a quantized copy of the plain model, by the same handler."""

    def make(request: Request) -> bytes:
        if request.own is None:
            raise UsageError(
                f"The target {request.target!r} takes Keras 3 models only",
                received="a model of tf_keras",
                fix="Call kacc.from_tf_keras(model) first",
            )
        return handler(replace(request.own(), io=request.io)).data

    return make


def _of_plain(
    request: Request, makers: dict[str, Callable[[Request], bytes]]
) -> Converted:
    """The file of a plain model: by the backend that is forced, or the nearest one."""
    if request.backend is not None:
        makers = {request.backend: makers[request.backend]}
    if len(makers) == 1:
        ((name, make),) = makers.items()
        return Converted(make(request), name)
    return _nearest(request, makers)


def to_w4a8(request: Request) -> Converted:
    """A file of integers only, most weights of which have 4 bits.

    Plain models are quantized by kacc, as no other backend can.
    """
    if request.scheme is not None:
        return to_int8(request)
    return _of_plain(request, {BACKEND: _by_kacc(to_w4a8)})


def to_int16x8(request: Request) -> Converted:
    """A file of 16 bit activations, 8 bit weights and 64 bit biases.

    Plain models are quantized by kacc.
    """
    if request.scheme is None:
        return _of_plain(request, {BACKEND: _by_kacc(to_int16x8)})
    data = _integer(replace(request, wide=True), None)
    _require_integer(data, request)
    return Converted(with_wide_activations(data, request.constants()), "tflite")


def _nearest(
    request: Request, makers: dict[str, Callable[[Request], bytes]]
) -> Converted:
    """The candidate with the least distance to the float model; the first on a tie."""
    assert request.calibration is not None
    wanted = request.graph.run(request.calibration.inputs)
    best: tuple[float, Converted] | None = None
    first_error: KaccError | None = None
    for name, make in makers.items():
        try:
            data = make(request)
        except KaccError as error:
            logger.info("backend %s is out: %s", name, error)
            first_error = first_error or error
            continue
        distance = _distance(data, request, wanted)
        logger.info("backend %s: distance %.6g from the float outputs", name, distance)
        if best is None or distance < best[0]:
            best = distance, Converted(data, name)
    if best is None:
        assert first_error is not None
        raise first_error
    return best[1]


def _distance(data: bytes, request: Request, wanted: list[np.ndarray]) -> float:
    """Mean squared error of a file's outputs in shares of their variance, summed."""
    assert request.calibration is not None
    inputs, outputs = flatbuffer.signature(data)
    infos = [outputs[info.name] for info in request.graph.outputs]
    into = [inputs[info.name] for info in request.graph.inputs]
    feeds = [
        to_grid(array, info) if info.dtype == "int8" else array
        for array, info in zip(request.calibration.inputs, into, strict=True)
    ]
    values = LiteRuntime(data, into, infos).run(feeds)
    total = 0.0
    for value, info, want in zip(values, infos, wanted, strict=True):
        got = from_grid(value, info) if info.dtype == "int8" else value
        error = np.mean(np.square(got.astype(np.float64) - want))
        total += float(error / (np.var(want, dtype=np.float64) or 1.0))
    return total


def _by_tflite(request: Request) -> bytes:
    data = _integer(request, request.calibration)
    _require_integer(data, request)
    return data


def _integer(request: Request, calibration: Samples | None) -> bytes:
    data = _convert(request.graph, _integer_options(request, calibration))
    data = with_operands_of_shapes(data)
    data = with_direct_requantization(without_barriers(data))
    if request.io != "float32":
        data = with_integer_io(data)
    return with_explicit_weights(data, request.kernels, wide=request.wide)


def _integer_options(
    request: Request, calibration: Samples | None
) -> Callable[[Any], None]:
    def options(converter: Any) -> None:
        import tensorflow as tf

        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if calibration is not None:
            # Float operators are let through, so that `_require_integer` names them.
            converter.target_spec.supported_ops = [
                tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
                tf.lite.OpsSet.TFLITE_BUILTINS,
            ]
            feeds = functools.partial(_feeds, request.graph, calibration)
            converter.representative_dataset = feeds

    return options


def _feeds(graph: FrozenGraph, calibration: Samples) -> Any:
    size = graph.inputs[0].shape[0] or min(_BATCH, len(calibration))
    names = [info.name for info in graph.inputs]
    for batch in calibration.batches(size):
        yield dict(zip(names, batch, strict=True))


def _by_ai_edge(request: Request) -> bytes:
    assert request.calibration is not None
    data = _convert(request.graph)
    with to_log():
        from ai_edge_quantizer import qtyping, quantizer, recipe

        tool = quantizer.Quantizer(memoryview(data), recipe.static_wi8_ai8())
        if request.io == "float32":
            for operation in ("INPUT", "OUTPUT"):
                tool.update_quantization_recipe(
                    regex=".*",
                    operation_name=qtyping.TFLOperationName[operation],
                    algorithm_key=quantizer.AlgorithmName.NO_QUANTIZE,
                )
        try:
            feeds = list(_feeds(request.graph, request.calibration))
            ranges = tool.calibrate({_SIGNATURE: feeds}, num_threads=1)
            quantized = bytes(tool.quantize(ranges).quantized_model)
        except Exception as error:
            raise _failed(error, request.graph, "ai-edge-quantizer") from error
    _require_integer(quantized, request)
    return quantized


def _convert(
    graph: FrozenGraph, options: Callable[[Any], None] = lambda converter: None
) -> bytes:
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder, to_log():
        saved = f"{folder}/model"
        graph.save(saved)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            saved, signature_keys=[_SIGNATURE]
        )
        options(converter)
        try:
            return bytes(converter.convert())
        except Exception as error:
            raise _failed(error, graph, "TFLiteConverter") from error


def _failed(error: Exception, graph: FrozenGraph, tool: str) -> ConversionError:
    text = str(error)
    unknown = {
        f"{kind} from {graph.layer_of(operation) or operation}"
        for operation, kind in re.findall(
            r"""loc\((?:fused\[.*?)?"([^"]+)"\]?\): '(tf\.\w+)' op is neither""", text
        )
    }
    if unknown:
        return ConversionError(
            "Every operation must have a TFLite operator",
            received=", ".join(sorted(unknown)),
            fix="Replace these operations in the model",
        )
    if "TensorListReserve" in text:
        return ConversionError(
            "A recurrent layer must know the batch size",
            received=f"{tool}: TensorListReserve of any size",
            fix="Pass batch=1",
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return ConversionError(
        f"{tool} must be able to convert the model",
        received=f"{type(error).__name__}: {lines[0] if lines else ''}"[:300],
        fix="Set the logger 'kacc.converters' to DEBUG to see what it printed",
    )


def _is_integer(data: bytes, request: Request) -> bool:
    return not any(flatbuffer.float_operators(data, request.io == "float32"))


def _require_integer(data: bytes, request: Request) -> None:
    """Raises unless every operator is integer, naming the others and their layers.

    Those of layers that a rule skips are named in a warning.
    """
    found = list(flatbuffer.float_operators(data, request.io == "float32"))
    # A QUANTIZE and a DEQUANTIZE stand around whatever stayed in float.
    culprits = [x for x in found if x[0].name not in ("QUANTIZE", "DEQUANTIZE")]
    layer_of = request.graph.layer_of
    origins = [(op.name, origin(op, graph, layer_of)) for op, graph in culprits]
    unasked = [x for x in origins if x[1] not in request.skipped]
    if not unasked and request.skipped:
        _warn_of_floats(origins)
    elif found:
        if not culprits:
            unasked = [(op.name, origin(op, graph, layer_of)) for op, graph in found]
        names = [f"{kind} from {layer}" for kind, layer in unasked]
        raise ConversionError(
            f"Every operator of a {request.target} file must be integer",
            received="in float: " + ", ".join(dict.fromkeys(names)),
            fix=_way_out(request, {kind for kind, _ in unasked}),
        )


def _warn_of_floats(origins: list[tuple[str, str]]) -> None:
    """Says what a file has in float, as rules asked for."""
    if origins:
        names = dict.fromkeys(f"{kind} from {origin}" for kind, origin in origins)
        warnings.warn(
            f"The file computes in float, as rules say: {', '.join(names)}",
            stacklevel=2,
        )


def _way_out(request: Request, kinds: set[str]) -> str:
    if kinds == {"SHAPE"}:
        return "Pass batch=1: operators read the shape where the batch may be any"
    if request.scheme is None:
        return "Replace these layers, or convert to 'tflite-dynamic'"
    if request.by_tfmot and request.calibration is None:
        return "Pass calibration= for the layers that tfmot has left out"
    if request.by_tfmot:
        return "Replace these layers"
    return (
        "Replace these layers, or skip them by a rule: then the file has floats there"
    )


def origin(
    operator: flatbuffer.Operator,
    graph: flatbuffer.Subgraph,
    layer_of: Callable[[str], str | None],
) -> str:
    """The layer that an operator of a file came from, or its tensor's name."""
    name = graph.tensors[operator.outputs[0]].name
    for part in name.split(";"):
        layer = layer_of(part.split(":")[0])
        if layer:
            return layer
    return name
