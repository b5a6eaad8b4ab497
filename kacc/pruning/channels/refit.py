"""Refitting what is left of each kernel to the outputs of the whole model.

Layer by layer, from the inputs on: the inputs are those of the smaller model, the
outputs those of the whole one (He et al. 2017, arXiv:1707.06168, section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kacc.core.graph import Call, fill
from kacc.core.refitting import Values, solved
from kacc.core.samples import flat_inputs, run, sampled
from kacc.pruning.channels import features
from kacc.pruning.channels.rebuild import Rebuild
from kacc.pruning.channels.reconstruction import taker_of_constants


def refit(rebuild: Rebuild, batches: Sequence[Any]) -> list[str]:
    """Refits the kernels that lost inputs, in place in the smaller model.

    Args:
        rebuild: whose model was built.
        batches: of inputs, or of (inputs, labels).

    Returns:
        The paths of the layers that were refitted.
    """
    dependencies = rebuild.dependencies
    graph = dependencies.graph
    readers = {
        id(axis.layer): axis
        for axis in dependencies.axes
        if features.is_reader(axis) and not rebuild.remaining[axis.channels].all()
    }
    calls: dict[int, list[Call]] = {}
    for call in graph.calls:
        calls.setdefault(id(call.operation), []).append(call)
    inputs = [flat_inputs(dependencies.model, batch) for batch in batches]
    old = Values(graph.calls, graph.inputs, inputs)
    new = Values(graph.calls, graph.inputs, inputs)
    done = []
    for call in graph.calls:
        key = id(call.operation)
        if key in readers and len(calls[key]) == 1:
            _refit_one(rebuild, call, old.of(call), new.of(call))
            done.append(call.path)
        old.advance(
            call, lambda values, call=call: run(call.operation, *fill(call, values))
        )
        new.advance(
            call,
            lambda values, call=call: run(
                rebuild.standing(call.operation), *rebuild.arguments(call, values)
            ),
        )
    return done


def _refit_one(
    rebuild: Rebuild, call: Call, whole: list[list[Any]], small: list[list[Any]]
) -> None:
    old, new = call.operation, rebuild.operation(call.operation)
    made = rebuild.kept(call.outputs[0]).astype(bool)
    target = features.matrix(old)[:, made]
    present = features.matrix(new)
    parts = len(whole)
    x, y = [], []
    for number, (before, after) in enumerate(zip(whole, small, strict=True)):
        sample = [
            sampled(
                features.rows(layer, value[0]), np.random.default_rng(number), parts
            )
            for layer, value in ((old, before), (new, after))
        ]
        y.append(sample[0] @ target)
        x.append(sample[1])
    inputs, outputs = np.concatenate(x), np.concatenate(y)
    shift = _shift_of(rebuild, call)
    means = (inputs.mean(0), outputs.mean(0)) if shift else (0.0, 0.0)
    weights = solved(inputs - means[0], outputs - means[1], present)
    features.assign(new, weights)
    if shift:
        shift(means[1] - means[0] @ weights)


def _shift_of(rebuild: Rebuild, call: Call) -> Any:
    """A function that adds a constant to a layer's product, or None."""
    consumers = rebuild.dependencies.graph.consumers()
    taker = taker_of_constants(call, consumers)
    if taker is None:
        return None
    new = rebuild.operation(taker)
    if taker is call.operation:
        return lambda constant: new.bias.assign_add(constant.astype("float32"))
    return lambda constant: new.moving_mean.assign_sub(constant.astype("float32"))
