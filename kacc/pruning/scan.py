"""How much each layer suffers from pruning, and sparsities that follow from it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kacc.core.errors import UsageError
from kacc.core.graph import trace
from kacc.core.registry import matrix_weights
from kacc.core.rules import Rule
from kacc.pruning import functional
from kacc.pruning.config import Method, method_named, sparsity_checked
from kacc.pruning.placement import place

LEVELS = (0.25, 0.5, 0.75, 0.9)
_HALVINGS = 60  # of the interval in which the common loss is looked for


@dataclass(frozen=True)
class Sensitivity:
    """The loss of a model with one layer pruned, for each layer and sparsity.

    Args:
        baseline: the loss of the model as it is.
        losses: path -> sparsity -> loss.
        sizes: path -> how many weights.
    """

    baseline: float
    losses: Mapping[str, Mapping[float, float]]
    sizes: Mapping[str, int]

    def rules(self, sparsity: float) -> list[Rule]:
        """Sparsities per layer that reach one of all layers at the least loss.

        Each layer is pruned so far that its own loss comes to the same level, linear
        between the sparsities that were tried.

        Args:
            sparsity: of the weights of all layers of the scan together.

        Returns:
            A rule for each layer, for `kacc.callbacks.Pruning(rules=...)`.

        Raises:
            UsageError: if it lies above the highest sparsity of the scan.

        Example:
            >>> losses = {"a": {0.5: 1.0, 0.9: 9.0}, "b": {0.5: 1.0, 0.9: 1.0}}
            >>> scan = Sensitivity(0.0, losses, {"a": 100, "b": 100})
            >>> [(rule.pattern, round(rule.sparsity, 3)) for rule in scan.rules(0.7)]
            [('a', 0.5), ('b', 0.9)]
        """
        sparsity = sparsity_checked(sparsity)
        curves = {path: self._curve(path) for path in self.losses}
        total = sum(self.sizes[path] for path in curves)

        def reached(level: float) -> dict[str, float]:
            return {path: _highest(*curve, level) for path, curve in curves.items()}

        def share(level: float) -> float:
            at = reached(level)
            return sum(at[path] * self.sizes[path] for path in at) / total

        # Below the loss as it is no layer is pruned at all, not even where it is flat.
        low = float(np.nextafter(self.baseline, -np.inf))
        high = max(float(rises[-1]) for _, rises in curves.values())
        if share(high) < sparsity - 1e-9:
            raise UsageError(
                "The scan must reach the sparsity",
                received=sparsity,
                fix=f"Pass at most {share(high):.3g}, or higher levels to the scan",
            )
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if share(middle) >= sparsity else (middle, high)
        return _rules(reached(low), reached(high), self.sizes, sparsity * total)

    def _curve(self, path: str) -> tuple[np.ndarray, np.ndarray]:
        """Sparsities and losses from the unpruned layer on, the losses rising."""
        levels = sorted(self.losses[path])
        losses = [self.baseline, *(self.losses[path][level] for level in levels)]
        return np.array([0.0, *levels]), np.maximum.accumulate(losses)

    def __str__(self) -> str:
        levels = sorted({level for curve in self.losses.values() for level in curve})
        width = max(len(path) for path in self.losses)
        lines = [" " * width + "".join(f"{level:>10g}" for level in levels)]
        for path, curve in self.losses.items():
            figures = "".join(f"{curve[level]:>10.4f}" for level in levels)
            lines.append(f"{path:<{width}}{figures}")
        return "\n".join([f"loss as it is: {self.baseline:.4f}", *lines])


def _highest(levels: np.ndarray, losses: np.ndarray, level: float) -> float:
    """The highest sparsity whose loss is not above a level."""
    last = int(np.searchsorted(losses, level, side="right")) - 1
    if last < 0:
        return 0.0
    if last == len(levels) - 1:
        return float(levels[last])
    step = (level - losses[last]) / (losses[last + 1] - losses[last])
    return float(levels[last] + step * (levels[last + 1] - levels[last]))


def _rules(
    below: Mapping[str, float],
    above: Mapping[str, float],
    sizes: Mapping[str, int],
    wanted: float,
) -> list[Rule]:
    """Rules between two neighbouring levels that add up to the weights wanted.

    They differ where the loss of a layer is flat: any sparsity costs it the same.
    """
    low = sum(below[path] * sizes[path] for path in sizes)
    high = sum(above[path] * sizes[path] for path in sizes)
    part = (wanted - low) / (high - low) if high > low else 1.0
    return [
        Rule(re.escape(path), sparsity=below[path] + part * (above[path] - below[path]))
        for path in sizes
    ]


def sensitivity(
    model: keras.Model,
    data: Any,
    levels: Sequence[float] = LEVELS,
    method: Any = "magnitude",
    rules: Sequence[Rule] = (),
    keep_ends: bool = True,
) -> Sensitivity:
    """Prunes one layer at a time and measures the loss (Han et al. 2015, section 5).

    The model is as before when it is done.

    Args:
        model: a built and compiled model, not pruned; its loss is what is measured.
        data: what `model.evaluate` takes: a dataset of (inputs, labels), or a tuple of
            arrays. Some hundred samples will do.
        levels: the sparsities to try.
        method: as in `kacc.prune`.
        rules: layers to leave out, by `kacc.Rule(pattern, skip=True)`.
        keep_ends: whether to leave out the first and the last layer.

    Returns:
        The losses, whose `rules(sparsity)` are sparsities by layer.

    Raises:
        UsageError: for a model that is not compiled, a level out of range, or a loss
            that is not finite.

    Example:
        >>> import numpy as np, keras, kacc
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> model.compile(loss="mse")
        >>> data = np.ones((16, 8)), np.ones((16, 4))
        >>> scan = kacc.pruning.sensitivity(model, data, keep_ends=False)
        >>> [rule.sparsity for rule in scan.rules(0.5)]
        [0.5]
    """
    chosen = method_named(method)
    levels = sorted({sparsity_checked(level, "A level") for level in levels})
    if not levels or not getattr(model, "compiled", False):
        raise UsageError(
            "A sensitivity scan needs levels, and a model that is compiled with a loss",
            received=f"levels {levels}, model {getattr(model, 'name', model)!r}",
            fix="Call model.compile(loss=...)",
        )
    layers = place(trace(model), chosen, rules, keep_ends).layers
    if not layers:
        raise UsageError(
            "The model must have a layer to prune",
            received=model.name,
            fix="Pass keep_ends=False to try the first and the last layer too",
        )
    baseline = _finite(_loss(model, data), "the model as it is")
    losses = {
        path: {
            level: _finite(
                _pruned_loss(model, data, layer, level, chosen),
                f"{path!r} pruned to {level:g}",
            )
            for level in levels
        }
        for path, layer in layers.items()
    }
    sizes = {
        path: sum(int(np.prod(v.shape)) for _, v in matrix_weights(layer))
        for path, layer in layers.items()
    }
    return Sensitivity(baseline, losses, sizes)


def _finite(loss: float, of: str) -> float:
    """The loss, which could not be ranked beside others if it were NaN or infinite."""
    if not np.isfinite(loss):
        raise UsageError(
            "A sensitivity scan compares losses, which must be finite",
            received=f"a loss of {loss} for {of}",
            fix="Pass data and a model whose loss is finite: see model.evaluate",
        )
    return loss


def _pruned_loss(
    model: keras.Model, data: Any, layer: Any, level: float, method: Method
) -> float:
    before = [(variable, variable.numpy()) for _, variable in matrix_weights(layer)]
    try:
        for weight, variable in matrix_weights(layer):
            variable.assign(_pruned(method, weight, variable.numpy(), level))
        return _loss(model, data)
    finally:
        for variable, value in before:
            variable.assign(value)


def _pruned(method: Method, weight: Any, value: Any, level: float) -> np.ndarray:
    units = method.units(value.astype("float32"), weight, None)
    count = functional.count_of(level, int(units.sizes.sum()))
    free = int(units.sizes[np.isfinite(units.scores)].sum())
    zeros = units.expand(
        functional.smallest(units.scores, min(count, free), units.sizes)
    )
    return np.where(zeros, 0, value).astype(value.dtype)


def _loss(model: keras.Model, data: Any) -> float:
    parts = data if isinstance(data, tuple) else (data,)
    return float(model.evaluate(*parts, verbose=0, return_dict=True)["loss"])
