"""Refitting the last factor of each layer to the outputs of the whole model.

Layer by layer, from the inputs on: what enters a factor is what the factored model
makes, errors of the layers before included; the outputs are those of the whole one
(Zhang et al. 2015, arXiv:1505.06798, section 3.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kacc.core.graph import fill
from kacc.core.refitting import Values, solved
from kacc.core.samples import flat_inputs, run, sampled
from kacc.factorization.candidates import Target
from kacc.factorization.rebuild import Factored
from kacc.factorization.rows import ROWS


def refit(rebuild: Factored, batches: Sequence[Any]) -> None:
    """Refits the last factors in place in the factored model.

    Args:
        rebuild: whose model was built.
        batches: of inputs, or of (inputs, labels).
    """
    graph = rebuild.graph
    inputs = [flat_inputs(rebuild.old, batch) for batch in batches]
    old = Values(graph.calls, graph.inputs, inputs)
    new = Values(graph.calls, graph.inputs, inputs)
    for call in graph.calls:
        target, _ = rebuild.chosen.get(id(call.operation), (None, None))
        if target is not None and _can_refit(target):
            layers = rebuild.standing(call.operation)
            _refit_one(target, layers, old.of(call), new.of(call))
        old.advance(
            call, lambda values, call=call: run(call.operation, *fill(call, values))
        )
        new.advance(
            call,
            lambda values, call=call: _chain(
                rebuild.standing(call.operation), *fill(call, values)
            ),
        )


def _can_refit(target: Target) -> bool:
    """Of a shared layer one call says too little; a table reads what it always did."""
    is_table = isinstance(target.layer, keras.layers.Embedding)
    return len(target.calls) == 1 and not is_table


def _chain(operations: Any, args: Any, kwargs: Any) -> Any:
    """What an operation computes, or a row of layers."""
    if not isinstance(operations, tuple):
        return run(operations, args, kwargs)
    first, *others = operations
    value = run(first, args, kwargs)
    for layer in others:
        value = run(layer, (value,), {})
    return value


def _refit_one(
    target: Target, layers: Any, whole: list[list[Any]], small: list[list[Any]]
) -> None:
    *before, last = layers
    row, matrix = ROWS[type(last)], target.kernel.reshape(-1, target.kernel.shape[-1])
    present = row.kernel(last).reshape(-1, matrix.shape[1])
    x, y = [], []
    for number, (old, new) in enumerate(zip(whole, small, strict=True)):
        features = _chain(tuple(before), (new[0],), {})
        pairs = (target.layer, target.row, old[0]), (last, row, features)
        rows = [
            sampled(one.inputs(layer, value), np.random.default_rng(number), len(whole))
            for layer, one, value in pairs
        ]
        y.append(rows[0] @ matrix)
        x.append(rows[1])
    inputs, outputs = np.concatenate(x), np.concatenate(y)
    free = target.has_bias and target.row.bias_is_free(target.layer)
    means = (inputs.mean(0), outputs.mean(0)) if free else (0.0, 0.0)
    weights = solved(inputs - means[0], outputs - means[1], present)
    last.kernel.assign(weights.reshape(last.kernel.shape))
    if free:
        bias = np.asarray(target.layer.bias)
        shift = np.asarray(means[1] - means[0] @ weights)
        last.bias.assign(bias + shift.reshape(bias.shape))
