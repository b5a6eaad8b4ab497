"""`kacc.factorize`: layers as products of smaller ones, under a budget."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from kacc.core import attach
from kacc.core.cost import NAMED, cost_called, macs_of, variables
from kacc.core.errors import UsageError
from kacc.core.graph import Graph, require_built, trace
from kacc.core.rules import Rule, checked, resolve
from kacc.core.samples import fitting
from kacc.factorization import report as reporting
from kacc.factorization.candidates import Option, Target, targets_of
from kacc.factorization.choice import (
    Chosen,
    at_energy,
    at_ranks,
    under_budget,
    why_left,
)
from kacc.factorization.config import Rank, Request, request_of
from kacc.factorization.measuring import measure_inputs
from kacc.factorization.rebuild import Factored
from kacc.factorization.refit import refit
from kacc.factorization.report import LayerReport

SAMPLES = 1024  # of the calibration data, at most
REFITTED = 16  # batches of them that last factors are refitted to


def factorize(
    model: keras.Model,
    *,
    macs: float | None = None,
    params: float | None = None,
    bytes: float | None = None,
    latency: float | None = None,
    share: float | None = None,
    energy: float | None = None,
    ranks: Rank | Mapping[str, Rank] | None = None,
    cost: str | Callable[[keras.Model], float] | None = None,
    method: str = "auto",
    calibration: Any = None,
    round_to: int = 1,
    rules: Sequence[Rule] = (),
) -> keras.Model:
    """Puts two or three smaller layers in the place of one, where that saves.

    Dense, EinsumDense and Embedding by truncated singular value decomposition; Conv1D
    and Conv2D by a "spatial" one (columns of taps, then rows), a "channel" one (fewer
    inputs or outputs by a 1x1 convolution) or "tucker" (1x1, taps, 1x1). Depthwise,
    separable, transposed and grouped convolutions stay as they are.

    Exactly one of `macs`, `params`, `bytes`, `latency`, `share`, `energy` and `ranks`
    says how far.

    Args:
        model: a built Keras 3 model, which stays as it is.
        macs: share of the multiply-accumulates to keep, 0 to 1. Under a budget ranks
            are chosen over all layers so that the product of the energies kept is the
            highest.
        params: share of the variables' entries to keep.
        bytes: share of the variables' bytes to keep.
        latency: share to keep of what `cost` measures, by default the median latency
            of one sample in a float32 LiteRT file on one thread of this machine.
        share: share of `cost` to keep.
        energy: share of its own energy that each layer keeps, at the least rank.
        ranks: an integer, a share of the full rank (a float; 1.0 keeps everything), or
            for "tucker" a pair (inputs, outputs); for all layers, or in a dictionary
            by regular expressions of paths, of which the last that fits counts. They
            are taken even where they save nothing. Without `method`, a pair means
            "tucker"; else convolutions larger than 1x1 are split spatially.
        cost: "macs", "params", "bytes", or a callable model -> float for `share` or
            `latency`, which is called on some ten candidates. With `energy`: what
            factors have to save, by default MACs (of embeddings: parameters).
        method: of convolutions larger than 1x1: "channel", "spatial", "tucker", or
            "auto", which takes for each layer what keeps the most at its cost.
        calibration: samples, of which up to 1,024 are taken: arrays, (inputs, labels),
            or what yields batches. Then the errors of outputs are minimized instead of
            those of weights, biases make up for constant ones, and each last factor is
            refitted to what the model with factors before it makes, so that less
            fine-tuning is needed. Kernels of more than 5,000 inputs go without.
        round_to: ranks of a budget or energy are multiples of it.
        rules: exceptions by layer path; with `skip=True` a layer stays as it is.

    Returns:
        A new plain Keras model, not compiled, of plain layers. The last layer in the
        place of another has its name, bias and activation. Sequential and functional
        models stay what they are, and shared layers stay shared; a subclassed model
        comes back as a functional one if something in it is factored. A warning says
        where a budget was missed. `kacc.factorization.plan` has the same arguments,
        and reports what is done to each layer.

    Raises:
        UsageError: for wrong arguments, an unbuilt model, or one with transforms of
            kacc attached.

    Example:
        >>> import keras, kacc
        >>> dense = keras.layers.Dense
        >>> model = keras.Sequential([keras.Input((64,)), dense(64, name="d")])
        >>> smaller = kacc.factorize(model, macs=0.5)
        >>> [(layer.name, layer.units) for layer in smaller.layers]
        [('d_reduce', 16), ('d', 64)]
    """
    found = plan(
        model,
        macs=macs,
        params=params,
        bytes=bytes,
        latency=latency,
        share=share,
        energy=energy,
        ranks=ranks,
        cost=cost,
        method=method,
        calibration=calibration,
        round_to=round_to,
        rules=rules,
    )
    if found.warning:
        warnings.warn(found.warning, stacklevel=2)
    return found.build()


@dataclass(frozen=True, eq=False)
class FactorizationPlan:
    """What is to be factored; `print(plan)` shows it, in a rich console as a table.

    Args:
        model: the old one.
        graph: of it.
        chosen: the layers that are factored.
        layers: what is done to each layer with kernels, or why nothing.
        achieved: the share of the cost that is left; None without a budget.
        wanted: the share that was asked for.
        batches: that the last factors are refitted to, or nothing.
    """

    model: keras.Model
    graph: Graph
    chosen: Sequence[Chosen]
    layers: tuple[LayerReport, ...]
    achieved: float | None = None
    wanted: float | None = None
    batches: Sequence[Any] = ()

    def build(self) -> keras.Model:
        """The factored model."""
        return built(self.model, self.graph, self.chosen, self.batches)

    @property
    def warning(self) -> str:
        """How far the budget was missed; "" if it was met."""
        if self.achieved is None or self.wanted is None:
            return ""
        if self.achieved <= self.wanted * (1 + 1e-6):
            return ""
        return (
            f"{self.achieved:.3f} of the cost is left where {self.wanted:.3f} was "
            "asked for: the layers that can be factored are at their least rank"
        )

    def __str__(self) -> str:
        return reporting.text(self._title, self.layers)

    def __rich__(self) -> Any:
        return reporting.rich_view(self._title, self.layers)

    @property
    def _title(self) -> str:
        return f"{self.model.name!r}: {len(self.chosen)} layers factored"


def plan(
    model: keras.Model,
    *,
    macs: float | None = None,
    params: float | None = None,
    bytes: float | None = None,
    latency: float | None = None,
    share: float | None = None,
    energy: float | None = None,
    ranks: Rank | Mapping[str, Rank] | None = None,
    cost: str | Callable[[keras.Model], float] | None = None,
    method: str = "auto",
    calibration: Any = None,
    round_to: int = 1,
    rules: Sequence[Rule] = (),
) -> FactorizationPlan:
    """Decides what `factorize` does, whose arguments it takes.

    Returns:
        The `FactorizationPlan`.

    Example:
        >>> import keras
        >>> dense = keras.layers.Dense(64, name="d")
        >>> model = keras.Sequential([keras.Input((64,)), dense], name="small")
        >>> print(plan(model, ranks=8))
        'small': 1 layers factored
          d: svd, rank 8 of 64, MACs 4,096 -> 1,024, parameters 4,160 -> 1,088, ...
    """
    shares = {"macs": macs, "params": params, "bytes": bytes}
    shares |= {"latency": latency, "share": share}
    request = request_of(shares, cost, energy, ranks, method, round_to)
    require_plain(model)
    graph = trace(model)
    paths = [call.path for call in graph.calls]
    targets, others = targets_of(graph, resolve(checked(rules), paths))
    _require_matches(request, paths)
    samples = []
    if calibration is not None:
        samples = fitting(model, graph, calibration, SAMPLES, "calibration")
    if samples:
        measure_inputs(model, graph, targets, samples)
    chosen, achieved = _choose(model, graph, targets, request)
    layers = _reports(graph, targets, chosen, others, request)
    wanted = request.budget.share if request.budget else None
    return FactorizationPlan(
        model, graph, chosen, layers, achieved, wanted, samples[:REFITTED]
    )


def built(
    model: keras.Model,
    graph: Graph,
    chosen: Sequence[Chosen],
    batches: Sequence[Any] = (),
) -> keras.Model:
    """A model with the chosen layers factored, and refitted if there are batches."""
    table = {id(one.target.layer): (one.target, one.option) for one in chosen}
    rebuild = Factored(model, graph, table)
    smaller = rebuild.model()
    if len(batches):
        refit(rebuild, batches)
    return smaller


def require_plain(model: Any) -> None:
    """Raises a UsageError unless a model is built and has nothing of kacc attached."""
    require_built(model)
    if attach.is_attached(model):
        raise UsageError(
            "Plain models are factored",
            received=f"{model.name!r} with transforms of kacc attached",
            fix="Call kacc.strip(model) first, and attach to the factored model",
        )


def _require_matches(request: Request, paths: Sequence[str]) -> None:
    resolve([Rule(pattern) for pattern in request.ranks or {}], paths)


def _choose(
    model: keras.Model, graph: Graph, targets: Sequence[Target], request: Request
) -> tuple[list[Chosen], float | None]:
    """The layers to factor, and the share of the cost that is left."""
    if request.ranks is not None:
        return at_ranks(targets, request), None
    if request.energy is not None:
        return at_energy(targets, request), None
    assert request.budget is not None
    name, share = request.budget.cost, request.budget.share
    if isinstance(name, str):
        whole = float(NAMED[name](model))
        chosen, left = under_budget(targets, request, name, share, whole)
        return chosen, left / (whole or 1.0)
    return _measured(model, graph, targets, request)


_TRIALS = 8  # models that are built and measured for a cost that is a callable
_NEAR = 0.01  # of the budget: near enough


def _measured(
    model: keras.Model, graph: Graph, targets: Sequence[Target], request: Request
) -> tuple[list[Chosen], float]:
    """Halves the interval of MACs until what a callable measures fits."""
    assert request.budget is not None
    measure, share = cost_called(request.budget.cost), request.budget.share
    whole, macs = float(measure(model)), float(NAMED["macs"](model))
    best: list[Chosen] = []
    achieved, low, high = 1.0, 0.0, 1.0
    for _ in range(_TRIALS if share < 1 else 0):
        middle = (low + high) / 2
        chosen, _ = under_budget(targets, request, "macs", middle, macs)
        reached = float(measure(built(model, graph, chosen))) / whole
        fits = reached <= share
        if (reached > achieved) == fits or (fits and achieved > share):
            best, achieved = chosen, reached
        low, high = (middle, high) if fits else (low, middle)
        if fits and reached >= share * (1 - _NEAR):
            break
    return best, achieved


def _untouched(layer: Any, path: str, macs: int, reason: str) -> LayerReport:
    size = sum(math.prod(v.shape) for v in variables(layer))
    kind = type(layer).__name__
    same = (macs, macs), (size, size)
    return LayerReport(path, kind, None, (), (), *same, 1.0, reason)


def _row(target: Target, option: Option | None, request: Request) -> LayerReport:
    before = target.costs
    if option is None:
        reason = why_left(target, request)
        return _untouched(target.layer, target.path, int(before["macs"]), reason)
    return LayerReport(
        target.path,
        type(target.layer).__name__,
        option.method,
        option.ranks,
        target.full(option.method),
        (int(before["macs"]), int(option.costs["macs"])),
        (int(before["params"]), int(option.costs["params"])),
        option.kept,
    )


def _reports(
    graph: Graph,
    targets: Sequence[Target],
    chosen: Sequence[Chosen],
    others: Mapping[str, tuple[Any, str]],
    request: Request,
) -> tuple[LayerReport, ...]:
    """A row for each layer with kernels, in the order of the model."""
    options = {one.target.path: one.option for one in chosen}
    rows = {t.path: _row(t, options.get(t.path), request) for t in targets}
    for path, (layer, reason) in others.items():
        calls = [call for call in graph.calls if call.operation is layer]
        count = sum(macs_of(call) or 0 for call in calls)
        rows[path] = _untouched(layer, path, count, reason)
    order = list(dict.fromkeys(call.path for call in graph.calls))
    return tuple(rows[path] for path in order if path in rows)
