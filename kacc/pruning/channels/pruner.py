"""`kacc.prune_channels`: a smaller model that computes nearly the same."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kacc.core import attach
from kacc.core.budget import Budget, budget_of
from kacc.core.channels.graph import DependencyGraph, Group, dependencies
from kacc.core.cost import cost_called
from kacc.core.errors import UsageError
from kacc.core.graph import require_built
from kacc.core.rules import Rule
from kacc.core.samples import fitting
from kacc.pruning.channels import importance as scoring
from kacc.pruning.channels.ledger import Ledger
from kacc.pruning.channels.rebuild import Rebuild
from kacc.pruning.channels.reconstruction import reconstruction
from kacc.pruning.channels.refit import refit
from kacc.pruning.channels.rounding import Rounding
from kacc.pruning.channels.selection import (
    TOLERANCE,
    approach,
    chunks_of,
    highest,
    select_globally,
    select_locally,
)

IMPORTANCES = ("l1", "l2", "bn_scale", "taylor", "reconstruction")
SCOPES = {"global": select_globally, "local": select_locally}
NEEDS_DATA = ("taylor", "reconstruction")
_TRIALS = 8  # models that are built and measured for a cost that is a callable


def prune_channels(
    model: keras.Model,
    *,
    macs: float | None = None,
    params: float | None = None,
    bytes: float | None = None,
    latency: float | None = None,
    cost: str | Callable[[keras.Model], float] | None = None,
    share: float | None = None,
    importance: str | Callable[[DependencyGraph], list[np.ndarray]] = "l2",
    round_to: int = 8,
    scope: str = "global",
    data: Any = None,
    rules: Sequence[Rule] = (),
) -> keras.Model:
    """Removes the channels that matter least, until a share of the cost is left.

    Exactly one share is given, between 0 and 1: `macs`, `params`, `bytes` or `latency`,
    or `share` of `cost`.

    Args:
        model: a built Keras 3 model, which stays as it is. Compiled only for
            importance="taylor".
        macs: share of the multiply-accumulates to keep.
        params: share of the variables' entries to keep.
        bytes: share of the variables' bytes to keep.
        latency: share to keep of what `cost` measures, by default the median latency
            of one sample in a float32 LiteRT file on one thread of this machine.
        cost: "macs", "params", "bytes", or a callable model -> float, such as
            `kacc.converters.ethos.cycles(...)`, for `share` or `latency`. A callable is
            called on some ten candidates.
        share: share of `cost` to keep.
        importance: "l1", "l2" (norms of the weights of a group), "bn_scale", "taylor"
            (needs `data` with labels), "reconstruction" (needs `data`; what is left of
            the kernels is then refitted to it, so that little fine-tuning is needed),
            or a callable that gives scores for each group of a `DependencyGraph`.
        round_to: each layer keeps a multiple of so many channels, or all that it has:
            of 12 a layer keeps 8 or 12 where this is 8, of 7 all. If its channels go
            in several groups, as behind a split, the sum counts; a layer that cannot
            come to a multiple so keeps all.
        scope: "global" removes the least important channels wherever they are, "local"
            nearly the same share everywhere.
        data: samples that the last two kinds of importance are measured on, up to 512:
            arrays, (inputs, labels), or what yields batches.
        rules: exceptions by layer path; with `skip=True` a layer keeps all channels
            that it makes.

    Returns:
        A new plain Keras model, not compiled. Sequential and functional models stay
        what they are; a subclassed one comes back as a functional model. A warning
        names the layers that could not be followed, and a budget that was missed.

    Raises:
        UsageError: for wrong arguments, an unbuilt model, or one with transforms of
            kacc attached.

    Example:
        >>> import keras, kacc
        >>> conv = keras.layers.Conv2D
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), conv(32, 3), conv(8, 3)])
        >>> kacc.prune_channels(model, macs=0.5).layers[0].filters
        16
    """
    plan = plan_channels(
        model,
        macs=macs,
        params=params,
        bytes=bytes,
        latency=latency,
        cost=cost,
        share=share,
        importance=importance,
        round_to=round_to,
        scope=scope,
        data=data,
        rules=rules,
    )
    if plan.report:
        warnings.warn(plan.report, stacklevel=2)
    return plan.build()


@dataclass(frozen=True, eq=False)
class ChannelPlan:
    """What is to be removed.

    Args:
        dependencies: of the model.
        kept: for each group how many channels it keeps.
        remaining: for each class of channels whether it remains.
        achieved: the share of the cost that is left.
        wanted: the share that was asked for.
        batches: that kernels are refitted to, or nothing.
    """

    dependencies: DependencyGraph
    kept: np.ndarray
    remaining: np.ndarray
    achieved: float
    wanted: float
    batches: Sequence[Any] = ()

    def build(self) -> keras.Model:
        """The smaller model."""
        rebuild = Rebuild(self.dependencies, self.remaining)
        model = rebuild.model()
        if len(self.batches):
            refit(rebuild, self.batches)
        return model

    @property
    def report(self) -> str:
        """What was not followed, and how far the budget was missed; "" if nothing."""
        parts = []
        if self.dependencies.reasons:
            listed = self.dependencies.reasons.items()
            text = "; ".join(f"{path} ({reason})" for path, reason in listed)
            parts.append(f"kacc keeps all channels that reach: {text}")
        if abs(self.achieved / self.wanted - 1) > TOLERANCE:
            parts.append(
                f"{self.achieved:.3f} of the cost is left where {self.wanted:.3f} was "
                f"asked for; {self._limits()}"
            )
        return ". ".join(parts)

    def _limits(self) -> str:
        groups = zip(self.dependencies.groups, self.kept, strict=True)
        whole = [
            "+".join(group.layers) for group, n in groups if n == len(group.classes)
        ]
        if self.achieved < self.wanted:
            return "channels go in steps of `round_to`"
        text = ", ".join(whole) if whole else "none"
        return f"groups that kept all channels: {text}; the others are at their least"


def plan_channels(
    model: keras.Model,
    *,
    importance: str | Callable[[DependencyGraph], list[np.ndarray]] = "l2",
    round_to: int = 8,
    scope: str = "global",
    data: Any = None,
    rules: Sequence[Rule] = (),
    **budget: Any,
) -> ChannelPlan:
    """Decides what `prune_channels` removes, whose arguments it takes.

    Returns:
        The `ChannelPlan`.

    Example:
        >>> import keras
        >>> dense = keras.layers.Dense
        >>> model = keras.Sequential([keras.Input((4,)), dense(32), dense(2)])
        >>> plan_channels(model, macs=0.5).kept.tolist()
        [16]
    """
    require_plain(model)
    check_options(importance, round_to, scope, data)
    wanted = budget_of(**budget)
    found = dependencies(model, rules)
    samples = fitting(model, found.graph, data) if importance in NEEDS_DATA else []
    scores = score(found, importance, samples)
    planner = Planner(found, scores, importance in NEEDS_DATA, round_to, scope)
    kept, achieved = planner.meet(wanted)
    remaining = planner.remaining(kept)
    refitted = samples if importance == "reconstruction" else ()
    return ChannelPlan(found, kept, remaining, achieved, wanted.share, refitted)


def require_plain(model: Any) -> None:
    """Raises a UsageError unless a model is built and has nothing of kacc attached."""
    require_built(model)
    if attach.is_attached(model):
        raise UsageError(
            "Channels are removed from plain models",
            received=f"{model.name!r} with transforms of kacc attached",
            fix="Call kacc.strip(model) first, and attach to the smaller model",
        )


def score(
    found: DependencyGraph, importance: Any, samples: Sequence[Any]
) -> list[np.ndarray]:
    """The scores of each group's channels."""
    if callable(importance):
        return _checked(importance(found), found.groups)
    rules: dict[str, Callable[[], list[np.ndarray]]] = {
        "l1": lambda: scoring.normalized(scoring.magnitude(found, 1)),
        "l2": lambda: scoring.normalized(scoring.magnitude(found, 2)),
        "bn_scale": lambda: scoring.normalized(scoring.batch_norm_scale(found)),
        "taylor": lambda: scoring.taylor(found, samples),
        "reconstruction": lambda: reconstruction(found, samples),
    }
    return rules[importance]()


def _checked(scores: Any, groups: Sequence[Group]) -> list[np.ndarray]:
    arrays = [np.asarray(s, float) for s in scores]
    if [s.shape for s in arrays] != [(len(group.classes),) for group in groups]:
        raise UsageError(
            "`importance` must give an array for each group, with a score for each "
            "channel",
            received=[s.shape for s in arrays],
        )
    return arrays


class Planner:
    """Finds how many channels each group keeps under a budget.

    Args:
        found: the dependency graph.
        scores: of each group's channels.
        priced: whether scores are weighed against what a channel costs, which shares
            of a loss can be; those in shares of their group are ranked as they are.
        round_to: layers keep a multiple of so many channels.
        scope: "global" or "local".
    """

    def __init__(
        self,
        found: DependencyGraph,
        scores: Sequence[np.ndarray],
        priced: bool,
        round_to: int,
        scope: str,
    ) -> None:
        self.found = found
        self.scores = scores
        self.priced = priced
        self.scope = scope
        self.steps = [group.step(round_to) for group in found.groups]
        self.widths = np.array([len(group.classes) for group in found.groups], int)
        self.rounding = Rounding(found, self.steps, round_to)
        self._ledgers: dict[str, Ledger] = {}

    def meet(self, budget: Budget) -> tuple[np.ndarray, float]:
        """The channels that each group keeps, and the share of the cost left."""
        if isinstance(budget.cost, str):
            kept = self.at_share(budget.cost, budget.share)
            return kept, self.share(budget.cost, kept)
        return self._measured(budget)

    def at_share(
        self, name: str, share: float, start: np.ndarray | None = None
    ) -> np.ndarray:
        """The channels that each group keeps of those at the start; all by default."""
        start = self.widths if start is None else start
        if share >= 1 or not len(self.widths):
            return start.copy()
        ledger = self._ledger(name)
        worth = (
            ledger.savings(self.widths) if self.priced else np.ones(len(self.widths))
        )
        worth = np.maximum(worth, 1e-12)
        chunks = [
            [
                chunk
                for chunk in group
                if chunk.before <= start[chunk.group]
                and not self.rounding.fixed[chunk.group]
            ]
            for group in chunks_of(self.found.groups, self.scores, self.steps, worth)
        ]
        target = share * ledger.cost(self.widths)

        def cost(kept: np.ndarray) -> float:
            return ledger.cost(self.rounding(kept))

        kept = SCOPES[self.scope](start, chunks, cost, target)
        return self.rounding(approach(kept, chunks, cost, target))

    def share(self, name: str, kept: np.ndarray) -> float:
        """The share of a named cost that is left."""
        ledger = self._ledger(name)
        return ledger.cost(kept) / (ledger.cost(self.widths) or 1.0)

    def _ledger(self, name: str) -> Ledger:
        if name not in self._ledgers:
            self._ledgers[name] = Ledger(self.found, name)
        return self._ledgers[name]

    def remaining(self, kept: np.ndarray) -> np.ndarray:
        """For each class whether it remains."""
        mask = self.found.everything()
        for group, scores, count in zip(
            self.found.groups, self.scores, kept, strict=True
        ):
            mask[group.classes] = highest(scores, count)
        return mask

    def _measured(self, budget: Budget) -> tuple[np.ndarray, float]:
        """Halves the interval of MACs until what a callable measures fits."""
        measure = cost_called(budget.cost)
        whole = float(measure(self.found.model))
        best, achieved = self.widths.copy(), 1.0
        if budget.share >= 1:
            return best, achieved
        low, high, seen = 0.0, 1.0, set()
        for _ in range(_TRIALS):
            middle = (low + high) / 2
            kept = self.at_share("macs", middle)
            if tuple(kept) in seen:
                break
            seen.add(tuple(kept))
            built = Rebuild(self.found, self.remaining(kept)).model()
            reached = float(measure(built)) / whole
            fits = reached <= budget.share
            if _nearer(reached, achieved, budget.share):
                best, achieved = kept, reached
            low, high = (middle, high) if fits else (low, middle)
            if fits and reached >= budget.share * (1 - TOLERANCE / 3):
                break
        return best, achieved


def _nearer(reached: float, before: float, share: float) -> bool:
    """Whether a measurement is better: below the budget, and the highest there."""
    if reached > share:
        return reached < before
    return before > share or reached > before


def check_options(importance: Any, round_to: Any, scope: Any, data: Any) -> None:
    """Raises a UsageError for options of `prune_channels` that are wrong."""
    if not callable(importance) and importance not in IMPORTANCES:
        raise UsageError(
            f"`importance` must be one of {IMPORTANCES}, or a callable",
            received=importance,
        )
    if importance in NEEDS_DATA and data is None:
        raise UsageError(
            f"importance={importance!r} is measured on `data`",
            received="data=None",
            fix="Pass some hundred samples, or importance='l2'",
        )
    if isinstance(round_to, bool) or not isinstance(round_to, int) or round_to < 1:
        raise UsageError("`round_to` must be a positive integer", received=round_to)
    if scope not in SCOPES:
        raise UsageError(f"`scope` must be one of {sorted(SCOPES)}", received=scope)
