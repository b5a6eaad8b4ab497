"""The dependency graph: which channels of a model can only be removed together.

DepGraph (Fang et al. 2023, arXiv:2301.12900) for Keras, channel by channel: each
channel of a tensor or weight belongs to a class, and a class goes as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kacc.core import rules as rules_module
from kacc.core.channels.follow import Axis, Row, Trail, UnfollowedError, find_row
from kacc.core.channels.layer_rows import LAYERS
from kacc.core.channels.opening import follow_inside
from kacc.core.channels.operator_rows import OPERATORS
from kacc.core.graph import Call, Graph, Tensor, trace
from kacc.core.rules import Rule

ROWS: dict[type, Row] = {**LAYERS, **OPERATORS}


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that stand beside one another everywhere: any of them may go.

    Args:
        classes: the class of each channel.
        layers: paths of the layers that make the channels.
        copies: how often a class stands on an axis of each of these layers.
    """

    classes: np.ndarray
    layers: tuple[str, ...]
    copies: tuple[int, ...]

    def step(self, round_to: int) -> int:
        """How many classes must go at once, so that each layer keeps a multiple."""
        return math.lcm(*(round_to // math.gcd(round_to, n) for n in self.copies))


@dataclass(frozen=True, eq=False)
class DependencyGraph:
    """Which channels of a model go together, and which remain.

    Args:
        model: the model.
        graph: its flat graph.
        axes: the axes of variables that go with channels, with the class of each
            position.
        tensors: the class of each channel of each tensor.
        groups: the channels that may go.
        reasons: path of each layer or operator whose channels are left alone since
            they cannot be followed -> why.
    """

    model: keras.Model
    graph: Graph
    axes: tuple[Axis, ...]
    tensors: dict[Tensor, np.ndarray]
    groups: tuple[Group, ...]
    reasons: dict[str, str]

    def everything(self) -> np.ndarray:
        """A mask over all classes, True: what remains if nothing is cut."""
        return np.ones(
            1 + max((int(a.max()) for a in self._channels()), default=0), bool
        )

    def _channels(self) -> list[np.ndarray]:
        arrays = [*self.tensors.values(), *(axis.channels for axis in self.axes)]
        return [array for array in arrays if len(array)]


def dependencies(model: keras.Model, rules: Sequence[Rule] = ()) -> DependencyGraph:
    """Finds which channels of a model can only be removed together.

    Args:
        model: a built Keras 3 model.
        rules: exceptions by layer path; `skip=True` keeps all channels that a layer
            makes.

    Returns:
        The `DependencyGraph`.

    Raises:
        UsageError: for an unbuilt model, or a rule that matches nothing.

    Example:
        >>> import keras
        >>> x = inputs = keras.Input((8, 8, 3))
        >>> x = keras.layers.Conv2D(8, 3, padding="same", name="a")(x)
        >>> y = keras.layers.Conv2D(8, 3, padding="same", name="b")(x)
        >>> outputs = keras.layers.Conv2D(2, 1, name="c")(x + y)
        >>> graph = dependencies(keras.Model(inputs, outputs))
        >>> [(group.layers, len(group.classes)) for group in graph.groups]
        [(('a', 'b'), 8)]
    """
    graph = trace(model)
    builder = _Builder(graph, rules)
    builder.follow()
    return builder.finish(model)


class _Builder:
    def __init__(self, graph: Graph, rules: Sequence[Rule]) -> None:
        self.graph = graph
        self.trail = Trail()
        self.notes: list[tuple[Call, str]] = []
        self.paths: dict[int, str] = {}
        for call in graph.calls:
            self.paths.setdefault(id(call.operation), call.path)
        paths = dict.fromkeys(call.path for call in graph.calls)
        chosen = rules_module.resolve(rules_module.checked(rules), paths)
        self.skipped = {path for path, rule in chosen.items() if rule.skip}

    def follow(self) -> None:
        """Passes through all calls, and fixes what must remain."""
        trail = self.trail
        for tensor in self.graph.inputs:
            trail.tensors[tensor] = trail.fixed_channels(tensor)
        for call in self.graph.calls:
            try:
                outputs = self._outputs(call)
            except UnfollowedError as reason:
                outputs = self._left_alone(call, str(reason))
            trail.tensors.update(zip(call.outputs, outputs, strict=True))
        for tensor in self.graph.outputs:
            trail.fix(trail.read(tensor))
        for axis in trail.axes.values():
            if axis.produces and self.paths[id(axis.layer)] in self.skipped:
                trail.fix(axis.channels)

    def _outputs(self, call: Call) -> list[np.ndarray]:
        if call.reason is not None:
            raise UnfollowedError(call.reason.rstrip("."))
        if getattr(call.operation, "lora_enabled", False) or getattr(
            call.operation, "quantization_mode", None
        ):
            raise UnfollowedError("Keras has quantized it or given it a LoRA")
        row = find_row(call.operation, ROWS)
        if row is not None:
            found = row.follow(call, self.trail)
        else:
            found = follow_inside(call, self.trail, ROWS)
        outputs = found if isinstance(found, list) else [found]
        sizes = [x.shape[-1] or 0 if x.shape else 0 for x in call.outputs]
        if sizes != [len(channels) for channels in outputs]:
            raise UnfollowedError("its output has another number of channels")
        return outputs

    def _left_alone(self, call: Call, reason: str) -> list[np.ndarray]:
        self.notes.append((call, reason))
        for tensor in call.inputs:
            self.trail.fix(self.trail.read(tensor))
        return [self.trail.fixed_channels(tensor) for tensor in call.outputs]

    def finish(self, model: keras.Model) -> DependencyGraph:
        """Numbers the classes by their roots, and groups them."""
        roots = self.trail.classes.roots()
        fixed = (
            roots[sorted(self.trail.fixed)] if self.trail.fixed else np.array([], int)
        )
        axes = tuple(
            Axis(a.layer, a.attribute, a.axis, roots[a.channels], a.produces)
            for a in self.trail.axes.values()
        )
        made = {x for axis in axes if axis.produces for x in axis.channels.tolist()}
        boundary = {
            x
            for tensor in (*self.graph.inputs, *self.graph.outputs)
            for x in roots[self.trail.read(tensor)].tolist()
        }
        return DependencyGraph(
            model=model,
            graph=self.graph,
            axes=axes,
            tensors={t: roots[c] for t, c in self.trail.tensors.items()},
            groups=_groups(axes, set(fixed.tolist()), self.paths),
            reasons=self._reasons(roots, made - boundary),
        )

    def _reasons(self, roots: np.ndarray, free: set[int]) -> dict[str, str]:
        """Of what is left alone only where a layer's channels could have gone."""
        reasons = {}
        for call, reason in self.notes:
            if set(call.outputs) <= set(self.graph.outputs):
                continue  # a softmax at the end: its channels are the model's
            touched = [self.trail.read(t) for t in (*call.inputs, *call.outputs)]
            if any(free & set(roots[channels].tolist()) for channels in touched):
                reasons[call.path] = reason
        return reasons


def _groups(
    axes: Sequence[Axis], fixed: set[int], paths: dict[int, str]
) -> tuple[Group, ...]:
    """Classes that stand on the same axes, equally often."""
    places: dict[int, list[tuple[int, int]]] = {}
    for number, axis in enumerate(axes):
        found, counts = np.unique(axis.channels, return_counts=True)
        for root, count in zip(found.tolist(), counts.tolist(), strict=True):
            places.setdefault(root, []).append((number, count))
    members: dict[tuple[Any, ...], list[int]] = {}
    for root in sorted(places):
        makers = [place for place in places[root] if axes[place[0]].produces]
        if root not in fixed and makers:
            members.setdefault(tuple(places[root]), []).append(root)
    groups = []
    for signature, classes in members.items():
        makers = [place for place in signature if axes[place[0]].produces]
        groups.append(
            Group(
                np.array(classes),
                tuple(paths[id(axes[number].layer)] for number, _ in makers),
                tuple(count for _, count in makers),
            )
        )
    return tuple(groups)
