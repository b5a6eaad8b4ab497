"""`kacc.restructure`: a model of cheaper layers, in the place of those it had."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from kacc.core import attach
from kacc.core.cost import cost
from kacc.core.errors import UsageError
from kacc.core.graph import require_built, trace
from kacc.core.rebuild import Rebuild
from kacc.core.rules import Rule, checked, resolve
from kacc.core.samples import fitting
from kacc.core.shown import change
from kacc.restructuring import report as reporting
from kacc.restructuring.activations import swap
from kacc.restructuring.config import (
    CheaperActivations,
    FoldNormalization,
    GlobalPoolingHead,
    InsertBatchNormalization,
    RoundChannels,
    SeparableConvolutions,
    Width,
    options_of,
)
from kacc.restructuring.heads import pool
from kacc.restructuring.normalization import fold, insert
from kacc.restructuring.report import LayerReport
from kacc.restructuring.separable import separate
from kacc.restructuring.steps import Outcome, Source
from kacc.restructuring.widths import multiply, round_up

# What does what a config asks for.
HANDLERS: dict[type, Callable[[Any, Source], Outcome]] = {
    SeparableConvolutions: separate,
    CheaperActivations: swap,
    RoundChannels: round_up,
    Width: multiply,
    GlobalPoolingHead: pool,
    FoldNormalization: fold,
    InsertBatchNormalization: insert,
}


def restructure(
    model: keras.Model,
    options: Any,
    *,
    calibration: Any = None,
    rules: Sequence[Rule] = (),
) -> keras.Model:
    """Puts cheaper layers in the place of those that a model has.

    Options are applied one after another, each to what the one before it gave. Those of
    `kacc.restructuring` are

    - `SeparableConvolutions()`: depthwise and 1x1 convolutions for standard ones, with
      weights by least squares;
    - `CheaperActivations()`: swish to hard-swish, gelu to relu6, softplus to relu ...;
    - `RoundChannels(8)`: channels rounded up to a multiple, outputs equal;
    - `Width(0.5)`: the same architecture with a share of the channels;
    - `GlobalPoolingHead()`: global average pooling for Flatten and Dense;
    - `FoldNormalization()`: batch normalizations into the layers around them, outputs
      at inference equal;
    - `InsertBatchNormalization()`: batch normalizations where there are none, outputs
      at inference equal.

    Args:
        model: a built Keras 3 model, which stays as it is.
        options: one or several configs, or their names ("separable_convolutions",
            "cheaper_activations", "round_channels", "global_pooling_head",
            "fold_normalization", "insert_batch_normalization").
        calibration: up to 512 samples: arrays, (inputs, labels), or what yields
            batches. New weights are fitted to the outputs on them, and inserted
            normalizations get their statistics.
        rules: exceptions by path in `model`; with `skip=True` a layer stays as it is.

    Returns:
        A new plain Keras model, not compiled, of plain layers. What is nested or
        shared stays so; a subclassed model comes back as a functional one.
        `kacc.restructuring.plan` has the same arguments, and reports what was done to
        each layer.

    Raises:
        UsageError: for wrong arguments, an unbuilt model, or one with transforms of
            kacc attached.

    Example:
        >>> import keras, kacc
        >>> layers = [keras.Input((8, 8, 4)), keras.layers.Conv2D(16, 3, name="c")]
        >>> smaller = kacc.restructure(
        ...     keras.Sequential(layers), "separable_convolutions"
        ... )
        >>> [(layer.name, layer.count_params()) for layer in smaller.layers]
        [('c_depthwise', 36), ('c', 80)]
    """
    return plan(model, options, calibration=calibration, rules=rules).build()


@dataclass(frozen=True, eq=False)
class RestructuringPlan:
    """What becomes of a model; `print(plan)` shows it, a rich console as a table.

    Args:
        layers: what each option does to each layer that it is about, or why nothing.
        macs: multiply-accumulates for one sample, before and after.
        params: entries of all variables, before and after.
    """

    layers: tuple[LayerReport, ...]
    macs: tuple[int, int]
    params: tuple[int, int]
    _model: keras.Model

    def build(self) -> keras.Model:
        """The new model; the same one each time."""
        return self._model

    def __str__(self) -> str:
        return reporting.text(self._title, self.layers)

    def __rich__(self) -> Any:
        return reporting.rich_view(self._title, self.layers)

    @property
    def _title(self) -> str:
        macs, params = change(self.macs), change(self.params)
        return f"{self._model.name!r}: MACs {macs}, parameters {params}"


def plan(
    model: keras.Model,
    options: Any,
    *,
    calibration: Any = None,
    rules: Sequence[Rule] = (),
) -> RestructuringPlan:
    """Restructures a model and reports it; takes the arguments of `restructure`.

    Returns:
        The `RestructuringPlan`.

    Example:
        >>> import keras
        >>> layers = [keras.Input((4,)), keras.layers.Dense(6, "gelu", name="d"),
        ...           keras.layers.Dense(2, name="e")]
        >>> print(plan(keras.Sequential(layers, name="m"), "cheaper_activations"))
        'm': MACs 36, parameters 44
          CheaperActivations, d: gelu -> relu6, MACs 24, parameters 30
    """
    wanted = options_of(options)
    require_plain(model)
    graph = trace(model)
    paths = list(dict.fromkeys(call.path for call in graph.calls))
    found = resolve(checked(rules), paths)
    skipped = frozenset(path for path, rule in found.items() if rule.skip)
    samples: Sequence[Any] = ()
    if calibration is not None:
        samples = fitting(model, graph, calibration, what="calibration")
    rows: list[LayerReport] = []
    before, new = cost(model), model
    for option in wanted:
        left = skipped & {call.path for call in trace(new).calls}
        outcome = HANDLERS[type(option)](option, Source(new, left, samples))
        new = outcome.model
        rows += outcome.layers
    if new is model:  # nothing to do is no reason to hand the old one out
        new = Rebuild(model, trace(model)).model()
    after = cost(new)
    macs, params = (before.macs, after.macs), (before.params, after.params)
    return RestructuringPlan(tuple(rows), macs, params, new)


def require_plain(model: Any) -> None:
    """Raises a UsageError unless a model is built and has nothing of kacc attached."""
    require_built(model)
    if attach.is_attached(model):
        raise UsageError(
            "Plain models are restructured",
            received=f"{model.name!r} with transforms of kacc attached",
            fix="Call kacc.strip(model) first, and attach to the new model",
        )
