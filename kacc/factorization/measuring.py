"""What layers multiply, measured on samples that run through the model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from kacc.core.graph import Call, Graph, fill
from kacc.core.samples import ROWS, flat_inputs, run, sampled
from kacc.factorization.candidates import Target
from kacc.factorization.inputs import looked_up, measured

LARGEST = 5000  # inputs of a kernel, taps included; their moments take 200 MB


def measure_inputs(
    model: keras.Model, graph: Graph, targets: Sequence[Target], batches: Iterable[Any]
) -> None:
    """Tells each target what it multiplies, as far as its kernel is not too large.

    Args:
        model: whose graph it is.
        graph: is run on the batches.
        targets: get `inputs`.
        batches: of inputs, or of (inputs, labels).
    """
    sums = {
        id(target.layer): _sums(target)
        for target in targets
        if isinstance(target.layer, keras.layers.Embedding)
        or target.kernel[..., 0].size <= LARGEST
    }
    held = list(batches)

    def apply(call: Call, values: list[Any]) -> Any:
        if id(call.operation) in sums:
            sums[id(call.operation)].add(values[0], len(held))
        return run(call.operation, *fill(call, values))

    for batch in held:
        graph.run(flat_inputs(model, batch), apply)
    for target in targets:
        if id(target.layer) in sums:
            target.inputs = sums[id(target.layer)].inputs()


def _sums(target: Target) -> Any:
    is_table = isinstance(target.layer, keras.layers.Embedding)
    return _Counts(target) if is_table else _Products(target)


class _Products:
    """Sums over the rows that a kernel multiplies."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.random = np.random.default_rng(0)
        size = target.kernel[..., 0].size
        self.most = max(ROWS, 2 * size)
        self.products = np.zeros((size, size))
        self.sums = np.zeros(size)
        self.count = 0

    def add(self, value: Any, parts: int) -> None:
        rows = self.target.row.inputs(self.target.layer, value)
        sample = sampled(rows, self.random, parts, self.most)
        self.products += sample.T @ sample
        self.sums += sample.sum(axis=0)
        self.count += len(sample)

    def inputs(self) -> Any:
        target = self.target
        free = target.has_bias and target.row.bias_is_free(target.layer)
        return measured(self.products, self.sums, self.count, free)


class _Counts:
    """How often each row of a table is looked up."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.counts = np.zeros(target.kernel.shape[0])

    def add(self, value: Any, parts: int) -> None:
        numbers = np.asarray(self.target.row.inputs(self.target.layer, value))
        self.counts += np.bincount(numbers, minlength=len(self.counts))

    def inputs(self) -> Any:
        return looked_up(self.counts)
