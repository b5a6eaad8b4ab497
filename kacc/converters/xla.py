"""SavedModels whose serving functions XLA compiles, for CPU, GPU and TPU.

Every signature calls one frozen function, so that the weights are in the file once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kacc.converters import weights
from kacc.converters.chatter import to_log
from kacc.converters.export import for_export
from kacc.converters.formats.base import Folder
from kacc.converters.formats.saved_model import DEFAULT
from kacc.converters.formats.stablehlo import MODULES
from kacc.converters.frozen_graph import FrozenGraph
from kacc.converters.graph_listing import operations
from kacc.converters.lowering import lower
from kacc.converters.request import Converted, Request
from kacc.converters.stablehlo_weights import Module
from kacc.converters.timing import interleaved
from kacc.converters.warmup import warmup_requests
from kacc.converters.weights import put_into_saved_model, require_room
from kacc.core.errors import ConversionError
from kacc.core.manifest import TensorInfo
from kacc.core.memory import release

SIZES = (1, 8, 32)  # batch sizes with functions of their own
_LANES, _SUBLANES = 128, 8  # of a TPU's vector registers (Jouppi et al. 2023, TPU v4)
_ROUNDS = 30  # of timing a function with and without XLA


def to_xla_cpu(request: Request) -> Converted:
    """A SavedModel for servers with CPUs: each function with or without XLA."""
    graph = for_export(request)
    require_room(graph.weight_bytes)
    sizes = tuple(request.export.batch_sizes or _sizes(request, SIZES))
    mode = request.export.xla or "auto"
    chosen, times = _faster(graph, sizes) if mode == "auto" else ({}, {})
    frozen = graph.outline.function(graph.output_tensors)
    both = {jit: _functions(graph, frozen, sizes, jit) for jit in (False, True)}
    chosen = chosen or dict.fromkeys(both[True], mode == "always")
    functions = {name: both[jit][name] for name, jit in chosen.items()}
    notes = {"xla": chosen, "milliseconds": times, "macs": request.macs}
    return Converted(_writer(graph, functions), "xla", notes)


def to_xla_gpu(request: Request) -> Converted:
    """A SavedModel for GPUs; whether XLA has its operators for one is checked here."""
    graph = for_export(request)
    require_room(graph.weight_bytes)
    sizes = tuple(request.export.batch_sizes or _sizes(request, SIZES))
    lower(graph, ["GPU"], sizes[0], request.target)
    frozen = graph.outline.function(graph.output_tensors)
    functions = _functions(graph, frozen, sizes, jit=True)
    return Converted(_writer(graph, functions), "xla", {"macs": request.macs})


def to_xla_tpu(request: Request) -> Converted:
    """A SavedModel of fixed shapes for TPUs, with its StableHLO beside it.

    Batches are padded to the 8 sublanes of a TPU's registers. TensorFlow without a TPU
    cannot lower for one; what is lowered for a GPU is the same StableHLO, which
    `kacc inspect --tpu` gives to the TPU's own compiler.
    """
    graph = for_export(request)
    require_room(graph.weight_bytes)
    asked = request.export.batch_sizes or _sizes(request, (_SUBLANES,))
    sizes = tuple(dict.fromkeys(_padded(size) for size in asked))
    modules = {n: lower(graph, ["GPU"], n, request.target)["GPU"] for n in sizes}
    frozen = graph.outline.function(graph.output_tensors)
    functions = _functions(graph, frozen, sizes, jit=True)
    functions[DEFAULT] = functions[f"batch_{sizes[0]}"]
    notes = {
        "macs": request.macs,
        "padded_batches": {str(n): _padded(n) for n in asked if n != _padded(n)},
        "lanes": lane_waste(graph),
    }
    fill = _writer(graph, functions, modules)
    return Converted(
        fill,
        "xla",
        notes,
        inputs=_fixed(graph.inputs, sizes[0]),
        outputs=_fixed(graph.outputs, sizes[0]),
    )


def lane_waste(graph: FrozenGraph) -> dict[str, dict[str, Any]]:
    """Products whose channels do not fill the 128 lanes of a TPU.

    Args:
        graph: the model's inference.

    Returns:
        By layer path: its output channels, and the share of the lanes that idle.
    """
    import tensorflow as tf

    constants = {n.name: n for n in graph.graph_def.node if n.op == "Const"}
    found: dict[str, dict[str, Any]] = {}
    for node in graph.graph_def.node:
        if node.op not in ("Conv2D", "MatMul", "Conv3D", "BatchMatMulV2"):
            continue
        kernel = constants.get(node.input[1].split(":")[0])
        if kernel is None:
            continue
        shape = tf.TensorShape(kernel.attr["value"].tensor.tensor_shape).as_list()
        channels = shape[-2] if node.attr["transpose_b"].b else shape[-1]
        idle = 1 - channels / (math.ceil(channels / _LANES) * _LANES)
        if idle:
            layer = graph.layer_of(node.name) or node.name
            found[layer] = {"channels": channels, "idle": round(idle, 4)}
    return found


def _sizes(request: Request, default: tuple[int, ...]) -> tuple[int, ...]:
    batch = request.graph.inputs[0].shape[0]
    return default if batch is None else (batch,)


def _padded(size: int) -> int:
    return math.ceil(size / _SUBLANES) * _SUBLANES


def _fixed(infos: Sequence[TensorInfo], size: int) -> tuple[TensorInfo, ...]:
    return tuple(replace(info, shape=(size, *info.shape[1:])) for info in infos)


def _functions(
    graph: FrozenGraph, frozen: Any, sizes: Sequence[int], jit: bool
) -> dict[str, Callable[..., Any]]:
    """A function by signature: the default one, and one for each batch size."""
    import tensorflow as tf

    names = [info.name for info in graph.inputs]

    def call(**inputs: Any) -> dict[str, Any]:
        values = frozen(*[inputs[name] for name in names])
        return {
            info.name: tf.ensure_shape(value, [None, *info.shape[1:]])
            for info, value in zip(graph.outputs, values, strict=True)
        }

    batch = graph.inputs[0].shape[0]
    shapes: dict[str, int | None] = {DEFAULT: batch}
    shapes |= {f"batch_{size}": size for size in sizes}
    return {
        name: tf.function(call, jit_compile=jit, autograph=False).get_concrete_function(
            **{i.name: tf.TensorSpec((n, *i.shape[1:]), i.dtype) for i in graph.inputs}
        )
        for name, n in shapes.items()
    }


def _faster(
    graph: FrozenGraph, sizes: Sequence[int]
) -> tuple[dict[str, bool], dict[str, dict[str, float]]]:
    """Which functions are faster with XLA on this machine, and the times.

    The default function, whose batch size is free, is compiled anew for each size that
    comes, so that it stays without XLA unless every size is faster with it.
    """
    chosen: dict[str, bool] = {}
    times: dict[str, dict[str, float]] = {}
    for size in sizes:
        name = f"batch_{size}"
        plain, jitted = np.median(_timed(graph, size), axis=1)
        release(graph.weight_bytes)
        chosen[name] = bool(jitted < plain)
        times[name] = {
            "tensorflow": round(plain * 1e3, 4),
            "xla": round(jitted * 1e3, 4),
        }
    return {DEFAULT: all(chosen.values()), **chosen}, times


def _timed(graph: FrozenGraph, size: int) -> np.ndarray:
    """Seconds without and with XLA, of functions that have the weights in them.

    Those of large models take them as arguments.
    """
    import tensorflow as tf

    feeds = _random_feeds(graph, size)
    call, calls = graph.calling, []
    if graph.weight_bytes >= weights.LARGE:
        call = graph.function(graph.output_tensors).__call__
    for jit in (False, True):
        function = tf.function(call, jit_compile=jit, autograph=False)
        calls.append(functools.partial(function.get_concrete_function(*feeds), *feeds))
    return interleaved(calls, _ROUNDS)


def _random_feeds(graph: FrozenGraph, size: int) -> list[Any]:
    import tensorflow as tf

    random = np.random.default_rng(0)
    shapes = [(size, *[n or 1 for n in info.shape[1:]]) for info in graph.inputs]
    return [
        tf.constant(random.uniform(size=shape), info.dtype)
        for info, shape in zip(graph.inputs, shapes, strict=True)
    ]


def _writer(
    graph: FrozenGraph,
    functions: Mapping[str, Any],
    modules: Mapping[int, Module] | None = None,
) -> Folder:
    """What fills a version folder."""

    def fill(folder: Path) -> None:
        import tensorflow as tf

        module = tf.Module()
        # Nothing is trained with the file; gradients of swish and the like would be
        # saved with tensors of the graph that they were traced in.
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        with to_log():
            try:
                tf.saved_model.save(module, str(folder), dict(functions), options)
            except ValueError as error:
                raise ConversionError(
                    "TensorFlow must be able to save the model, which must have less "
                    "than 2 GiB of weights",
                    received=str(error)[:200],
                ) from error
        put_into_saved_model(folder, graph.weights)
        extra = folder / MODULES
        extra.mkdir()
        sizes = [n for n in functions if n != DEFAULT]
        requests = {name: int(name.removeprefix("batch_")) for name in sizes}
        warmup_requests(extra / "tf_serving_warmup_requests", graph.inputs, requests)
        for size, data in (modules or {}).items():
            data.write(extra / f"batch_{size}.stablehlo")

    return Folder(fill, operations(graph))
