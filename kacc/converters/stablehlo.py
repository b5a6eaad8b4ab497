"""StableHLO modules: what XLA compilers of any platform take."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from kacc.converters.export import for_export
from kacc.converters.formats.base import Folder
from kacc.converters.formats.stablehlo import SIGNATURE
from kacc.converters.graph_listing import operations
from kacc.converters.lowering import lower
from kacc.converters.request import Converted, Request
from kacc.converters.stablehlo_weights import Module
from kacc.core.manifest import TensorInfo

PLATFORMS = ("cpu", "cuda", "tpu")  # as JAX names them
# How TensorFlow names what it lowers for. Without a TPU it has no kernels for one; the
# modules for a GPU hold the same StableHLO.
_LOWERED_AS = {"cpu": "CPU", "cuda": "GPU", "tpu": "GPU"}


def to_stablehlo(request: Request) -> Converted:
    """A folder with a module for each platform, and a JSON of their signature.

    Equal modules are written once. Shapes are fixed; the batch size is 1 by default.
    """
    graph = for_export(request)
    size = graph.inputs[0].shape[0] or 1
    platforms = tuple(request.export.platforms or PLATFORMS)
    names = sorted({_LOWERED_AS[platform] for platform in platforms})
    lowered = lower(graph, names, size, request.target)
    inputs, outputs = (
        tuple(replace(info, shape=(size, *info.shape[1:])) for info in infos)
        for infos in (graph.inputs, graph.outputs)
    )
    files: dict[str, str] = {}
    contents: dict[str, Module] = {}
    for platform in platforms:
        data = lowered[_LOWERED_AS[platform]]
        same = [name for name, known in contents.items() if known == data]
        files[platform] = same[0] if same else f"model.{platform}.stablehlo"
        contents[files[platform]] = data
    signature = {
        "modules": files,
        "inputs": [_argument(info) for info in inputs],
        "outputs": [_argument(info) for info in outputs],
    }

    def fill(folder: Path) -> None:
        for name, data in contents.items():
            data.write(folder / name)
        (folder / SIGNATURE).write_text(json.dumps(signature, indent=2))

    notes = {"macs": request.macs, "platforms": list(platforms)}
    content = Folder(fill, operations(graph))
    return Converted(content, "xla", notes, inputs=inputs, outputs=outputs)


def _argument(info: TensorInfo) -> dict[str, Any]:
    return {"name": info.name, "shape": list(info.shape), "dtype": info.dtype}
