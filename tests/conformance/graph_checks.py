"""Packs of graphs: quantized, converted, and compared with their file.

A conversion takes about as long for ten small graphs as for one, so they are branches
of one model. What fails is traced back to its branch.
"""

from __future__ import annotations

import tempfile
import traceback
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

import kacc
from kacc.converters.layer_table import layer_table
from kacc.converters.parity import simulated_outputs
from kacc.converters.samples import Samples
from kacc.core.graph import trace
from kacc.core.registry import lacks_wide
from kacc.quantization import calibrate
from kacc.quantization.placement import ANOTHER_PRELU, place
from tests.conformance.random_graphs import SAMPLES, Branch, Grown, grow

KERNELS = ("xnnpack", "builtin", "reference")

# How a pack is quantized: the arguments of `quantize`, and the target.
RECIPES: dict[str, tuple[dict[str, Any], str]] = {
    "int8": ({"scheme": "int8"}, "tflite-int8"),
    "int8-learned": ({"scheme": "int8", "learned_steps": True}, "tflite-int8"),
    "w4a8": ({"scheme": "w4a8"}, "tflite-w4a8"),
    "int16x8": ({"scheme": "int16x8"}, "tflite-int16x8"),
}

# Why a graph may have no integer file: what kacc says when it leaves a layer in float.
EXCLUDED = (
    "an operator inside a `call` cannot hold its ranges, a layer can",
    ANOTHER_PRELU,
    "it resizes images that are smaller",
)


@dataclass
class Pack:
    """A model with a graph in each branch, and one dense layer beside them.

    Args:
        model: the model; its outputs are called "<branch>_<number>".
        graphs: by number of the branch.
        excluded: number of the branch -> the reason why it is not in the model.
    """

    model: Any
    graphs: dict[int, Grown]
    excluded: dict[int, str]

    def data(self, seed: int, spread: float = 1.0) -> list[np.ndarray]:
        """Normally distributed inputs."""
        seeds = [g.branch.seed for g in self.graphs.values() for _ in g.inputs]
        return [
            spread
            * np.random.default_rng((own, seed))
            .normal(size=(SAMPLES, *x.shape[1:]))
            .astype("float32")
            for own, x in zip([*seeds, 0], self.model.inputs, strict=True)
        ]


@dataclass(frozen=True)
class Failure:
    """A graph whose file is not what it has to be."""

    number: int
    graph: Grown
    kernels: str
    what: str

    def __str__(self) -> str:
        return f"branch {self.number} on {self.kernels}: {self.what}\n{self.graph}"


def pack(branches: Iterable[Branch], recipe: str = "int8") -> Pack:
    """The model of those branches that came to anything and can have a file."""
    grown = {i: grow(branch) for i, branch in enumerate(branches)}
    graphs = {i: g for i, g in grown.items() if g.outputs}
    excluded = {i: r for i, g in graphs.items() if (r := _exclusion(g, recipe))}
    graphs = {i: g for i, g in graphs.items() if i not in excluded}
    anchor = keras.Input((2,))  # `quantize` refuses a model without weights
    inputs = [*(x for g in graphs.values() for x in g.inputs), anchor]
    outputs = {
        f"{i}_{n}": y for i, g in graphs.items() for n, y in enumerate(g.outputs)
    }
    outputs["anchor"] = keras.layers.Dense(2)(anchor)
    return Pack(keras.Model(inputs, outputs), graphs, excluded)


def _exclusion(graph: Grown, recipe: str) -> str | None:
    """The reason against an integer file, or None."""
    calls = trace(keras.Model(graph.inputs, graph.outputs))
    found = [
        reason
        for reason in place(calls, lambda call: None).skipped.values()
        if reason in EXCLUDED
    ]
    if recipe == "int16x8":
        found += filter(None, (lacks_wide(call.operation) for call in calls.calls))
    return found[0] if found else None


def check(
    branches: Sequence[Branch],
    kernels: Sequence[str] = KERNELS,
    recipe: str = "int8",
) -> list[Failure]:
    """Every failure of the branches' graphs."""
    packed = pack(branches, recipe)
    try:
        return _compared(packed, kernels, recipe)
    except Exception as error:
        if len(packed.graphs) > 1:
            return _each_alone(branches, packed, kernels, recipe)
        what = f"{type(error).__name__}: {error}"
        if not isinstance(error, kacc.KaccError):
            what += "\n" + traceback.format_exc()
        [(number, graph)] = packed.graphs.items() or [(-1, grow(Branch()))]
        return [Failure(number, graph, "none", what)]


def _each_alone(
    branches: Sequence[Branch], packed: Pack, kernels: Sequence[str], recipe: str
) -> list[Failure]:
    found = []
    for number in packed.graphs:
        alone = check([branches[number]], kernels, recipe)
        found += [replace(failure, number=number) for failure in alone]
    if not found:
        what = "fails only together with others:\n" + traceback.format_exc()
        found = [Failure(n, g, "none", what) for n, g in packed.graphs.items()]
    return found


def _compared(packed: Pack, kernels: Sequence[str], recipe: str) -> list[Failure]:
    options, target = RECIPES[recipe]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kacc.quantize(packed.model, **options)
    said = [str(w.message) for w in caught if "in float" in str(w.message)]
    if said:
        raise AssertionError(said[0])
    calibrate(packed.model, [packed.data(1)])
    data = packed.data(2, spread=1.3)  # beyond the ranges too, where everything clips
    found = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tflite")
        artifact = kacc.convert(packed.model, path, target)
        for name in kernels:
            found += _differences(packed, artifact, data, name)
    return found


def _differences(
    packed: Pack, artifact: Any, data: list[np.ndarray], kernels: str
) -> list[Failure]:
    samples = Samples(data)
    want = simulated_outputs(packed.model, kernels, samples)
    got = artifact.predict(data, kernels=kernels)
    wrong: dict[int, list[str]] = {}
    for info, values in zip(artifact.manifest.outputs, want, strict=True):
        file = got[info.name]
        if not np.array_equal(values, file):
            steps = np.rint(np.abs(values - file) / info.scale).max()
            share = np.mean(values == file)
            number = int(info.name.split("_")[0])
            line = f"output {info.name}: {share:.4f} equal, up to {steps:.0f} steps"
            wrong.setdefault(number, []).append(line)
    if not wrong:
        return []
    table = layer_table(packed.model, artifact, samples, kernels)
    return [
        Failure(
            n, packed.graphs[n], kernels, _described(lines, packed.graphs[n], table)
        )
        for n, lines in wrong.items()
    ]


def _described(lines: list[str], graph: Grown, table: Iterable[Any]) -> str:
    paths = {c.path for c in trace(keras.Model(graph.inputs, graph.outputs)).calls}
    first = [r for r in table if r.layer in paths and r.differs][:2]
    lines += [
        f"first differs {r.layer} ({r.operator}): {r.equal:.4f} equal, "
        f"up to {r.largest_lsb} steps"
        for r in first
    ]
    return "; ".join(lines)
