"""Random graphs of the registry's layers, many of them as branches of one model.

A graph is described by numbers (`Branch`, `Step`), which hypothesis and numpy both
draw. Any numbers make a valid graph: what a step cannot be at its place is left out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.conformance.rows import OPERATORS, rows

SAMPLES = 16
SHAPES = ((6, 6, 3), (8, 3), (5,), (4, 4, 4), (8, 5, 2), (12, 4))
FORMS = ("flat", "nested", "twice", "subclassed")
LARGEST = 1000  # numbers of a tensor: what is tried is the graph, not its size

# A grid of values beyond these says little: small ones vanish beside others.
FARTHEST, NEAREST = 1e3, 1e-3


@dataclass(frozen=True)
class Step:
    """One layer or operator, by numbers of any size.

    Args:
        kind: which one.
        sources: which tensors it reads: how far back, among those that fit.
        reuse: how far back is the layer that is called again; 0 makes a new one.
        shown: whether the result is an output of the model, whoever reads it.
    """

    kind: int
    sources: tuple[int, int, int] = (0, 0, 0)
    reuse: int = 0
    shown: bool = False


@dataclass(frozen=True)
class Branch:
    """A graph of its own.

    Args:
        shape: of its input, by number.
        form: how its layers are put together, by number in `FORMS`.
        steps: its operations.
        seed: of its weights and data.
    """

    shape: int = 0
    form: int = 0
    steps: tuple[Step, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Kind:
    """An operation that a step can be: one example of a row of the registry.

    Args:
        name: of its type.
        ranks: of its inputs, without the batch.
        make: makes the function of tensors, and its layer, anew; None for operators.
        common: whether networks are mostly made of it: it has weights, or joins.
    """

    name: str
    ranks: tuple[int, ...]
    make: Callable[[], tuple[Callable[..., Any], Any]]
    common: bool = False


@functools.cache
def kinds() -> tuple[Kind, ...]:
    """All operations, in the order of the registry: it is plain layers that begin it.

    An embedding is none: its input is made of indices.
    """
    found = []
    for row in rows():
        spec, name = row.spec, row.spec.type.__name__
        # Not what other tests have registered: the same numbers make the same graph.
        if spec.reads_indices or not spec.type.__module__.startswith("keras."):
            continue
        common = bool(spec.weights) or spec.affine is not None
        if issubclass(spec.type, keras.Layer):
            found += [_of_layer(name, example, common) for example in spec.examples]
            continue
        found += [
            Kind(f"ops.{name}", tuple(map(len, shapes)), lambda f=f: (f, None))
            for shapes, f in OPERATORS[name]
        ]
    return tuple(found)


def _of_layer(name: str, example: Callable[[], Any], common: bool) -> Kind:
    def make() -> tuple[Callable[..., Any], Any]:
        layer, shapes = example()
        # Layers that augment do it in a call of their own, unless told otherwise.
        options = {"training": False} if layer._call_has_training_arg else {}

        def function(*x: Any) -> Any:
            return layer(x[0] if len(shapes) == 1 else list(x), **options)

        return function, layer

    ranks = tuple(len(shape) for shape in example()[1])
    return Kind(name, ranks, make, common or len(ranks) > 1)


@functools.cache
def _types(rank: int) -> list[list[Kind]]:
    """The kinds that read a tensor of a rank, by type; common types several times."""
    table: dict[str, list[Kind]] = {}
    for kind in kinds():
        if kind.ranks[0] == rank:
            table.setdefault(kind.name, []).append(kind)
    common = [found for found in table.values() if found[0].common]
    return [*table.values(), *3 * common]


def _chosen(number: int, rank: int) -> Kind:
    types = _types(rank)
    found = types[number % len(types)]
    return found[number // len(types) % len(found)]


@dataclass
class _Tensor:
    """A tensor while a graph grows: its symbol, and its values by Keras."""

    symbol: Any
    values: np.ndarray
    name: str
    read: bool = False
    shown: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape[1:]


@dataclass
class Grown:
    """A graph that was grown.

    Args:
        branch: its description.
        inputs: its symbolic inputs.
        outputs: its symbolic outputs.
        program: a line for each operation that came to be.
        names: of its layers.
        kinds: names of the types of its operations.
    """

    branch: Branch
    inputs: list[Any]
    outputs: list[Any]
    program: list[str]
    names: list[str] = field(default_factory=list)
    kinds: set[str] = field(default_factory=set)

    def __str__(self) -> str:
        return "\n".join(f"    {line}" for line in [repr(self.branch), *self.program])


class _Grower:
    """Applies steps to symbols, beside them to values, which say what is sensible."""

    def __init__(self, branch: Branch) -> None:
        self.rng = np.random.default_rng(branch.seed)
        shape = SHAPES[branch.shape % len(SHAPES)]
        values = self.rng.normal(size=(SAMPLES, *shape)).astype("float32")
        self.input = keras.Input(shape)
        self.tensors = [_Tensor(self.input, values, "t0")]
        self.made: list[tuple[Kind, Callable[..., Any], Any]] = []
        self.calls: list[tuple[Callable[..., Any], list[int]]] = []
        self.joins: set[tuple[str, frozenset[str]]] = set()
        self.kinds: set[str] = set()
        self.program = [f"t0 = Input({shape})"]

    def step(self, step: Step) -> None:
        """Adds an operation, if one of the step's kind can be here."""
        first = self.tensors[-1 - step.sources[0] % len(self.tensors)]
        reused = self._reused(step)
        kind = reused[0] if reused else _chosen(step.kind, len(first.shape))
        if kind.ranks[0] != len(first.shape):
            return
        sources = [first, *self._others(first, len(kind.ranks) - 1, step.sources)]
        if len(sources) < len(kind.ranks) or self._is_joined(kind, sources):
            return
        function, layer = reused[1:] if reused is not None else kind.make()
        result = self._applied(function, layer, sources, reused is not None)
        if result is None:
            return
        if reused is None and layer is not None:
            self.made.append((kind, function, layer))
        for source in sources:
            source.read = True
        result.shown = step.shown
        self.kinds.add(kind.name)
        self.calls.append((function, [self.tensors.index(x) for x in sources]))
        self.tensors.append(result)
        name = kind.name if layer is None else layer.name
        read = ", ".join(source.name for source in sources)
        self.program.append(f"{result.name} = {name}({read})  # {result.shape}")

    def _is_joined(self, kind: Kind, sources: list[_Tensor]) -> bool:
        """Whether the same tensors are joined by that kind already.

        The converter makes one operator of both, of which the second loses its range.
        """
        join = kind.name, frozenset(source.name for source in sources)
        known = join in self.joins
        if len(sources) > 1:
            self.joins.add(join)
        return known

    def _reused(self, step: Step) -> Any:
        # Only layers with weights are called again: nobody shares a sum.
        shared = [made for made in self.made if made[2].weights]
        if step.reuse == 0 or not shared:
            return None
        return shared[-1 - (step.reuse - 1) % len(shared)]

    def _others(
        self, first: _Tensor, count: int, numbers: Sequence[int]
    ) -> list[_Tensor]:
        """Further inputs, of shapes that go with the first one's: other tensors.

        The sum of a tensor and itself is nothing that networks have.
        """
        alike = [
            t
            for t in self.tensors
            if t is not first and _go_together(first.shape, t.shape)
        ]
        found = []
        for number in numbers[1 : 1 + min(count, len(alike))]:
            found.append(alike.pop(-1 - number % len(alike)))
        return found

    def _applied(
        self, function: Any, layer: Any, sources: list[_Tensor], again: bool
    ) -> _Tensor | None:
        """The result, or None where Keras refuses it or its values say nothing."""
        try:
            symbol = function(*[source.symbol for source in sources])
            if layer is not None and not again:
                self._fill_weights(layer)
            values = np.asarray(function(*[source.values for source in sources]))
        except (ValueError, TypeError, IndexError, tf.errors.OpError):
            return None
        if values.shape[1:] != symbol.shape[1:] or values.shape[0] != SAMPLES:
            return None
        if values[0].size > LARGEST:
            return None
        size = np.abs(values).max(initial=0.0)
        if not NEAREST < size < FARTHEST or np.ptp(values) == 0:
            return None
        return _Tensor(symbol, values, f"t{len(self.tensors)}")

    def _fill_weights(self, layer: Any) -> None:
        """Random weights, some channels of them zero; statistics that fit nothing."""
        for variable in layer.weights:
            if not variable.dtype.startswith("float"):
                continue
            fan = int(np.prod(variable.shape[:-1])) or 1
            if "variance" in variable.path:
                value = self.rng.uniform(0.3, 2.0, variable.shape)
            elif len(variable.shape) < 2:
                value = self.rng.uniform(-1, 1, variable.shape)
                value *= self.rng.random(variable.shape) > 0.05
            else:
                value = self.rng.normal(size=variable.shape) / np.sqrt(fan)
                kept = self.rng.random(variable.shape[-1:]) > 0.05
                value *= kept if kept.any() else 1.0
            variable.assign(value)


def _go_together(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether two shapes broadcast, or may be concatenated."""
    return len(a) == len(b) and sum(m != n for m, n in zip(a, b, strict=True)) <= 2


def grow(branch: Branch) -> Grown:
    """The graph that a branch describes."""
    grower = _Grower(branch)
    for step in branch.steps:
        grower.step(step)
    # XNNPACK crashes where an input is an output too, with operators that read it.
    x = grower.tensors[0].values
    shown = [
        t
        for t in grower.tensors[1:]
        if (t.shown or not t.read) and not np.array_equal(t.values, x)
    ]
    outputs = [t.symbol for t in shown]
    names = [layer.name for _, _, layer in grower.made]
    inputs = [grower.input]
    grown = Grown(branch, inputs, outputs, grower.program, names, grower.kinds)
    if outputs:
        _FORMING[FORMS[branch.form % len(FORMS)]](grown, grower, shown)
        numbers = ", ".join(t.name for t in shown)
        form = FORMS[branch.form % len(FORMS)]
        grown.program.append(f"outputs {numbers}; {form}")
    return grown


def _flat(grown: Grown, grower: _Grower, shown: list[_Tensor]) -> None:
    """The graph as it is."""


def _nested(grown: Grown, grower: _Grower, shown: list[_Tensor]) -> None:
    """As a model that is called in the outer one."""
    inner = keras.Model(grown.inputs, grown.outputs)
    grown.inputs = [keras.Input(grower.input.shape[1:])]
    grown.outputs = keras.tree.flatten(inner(grown.inputs))
    grown.names.append(inner.name)


def _twice(grown: Grown, grower: _Grower, shown: list[_Tensor]) -> None:
    """As a model that is called on two inputs: all its layers are shared."""
    inner = keras.Model(grown.inputs, grown.outputs)
    grown.inputs = [keras.Input(grower.input.shape[1:]) for _ in range(2)]
    grown.outputs = [y for x in grown.inputs for y in keras.tree.flatten(inner(x))]
    grown.names.append(inner.name)


def _subclassed(grown: Grown, grower: _Grower, shown: list[_Tensor]) -> None:
    """As a subclassed model, whose operators live for one call; all results in it."""
    wanted = [grower.tensors.index(t) for t in shown]
    block = Block(grower.calls, [layer for _, _, layer in grower.made], wanted)
    grown.inputs = [keras.Input(grower.input.shape[1:])]
    grown.outputs = keras.tree.flatten(block(grown.inputs[0]))
    grown.names.append(block.name)


_FORMING = {
    "flat": _flat,
    "nested": _nested,
    "twice": _twice,
    "subclassed": _subclassed,
}


class Block(keras.Model):
    """A subclassed model that runs a program."""

    def __init__(self, calls: Any, made: list[Any], wanted: list[int]) -> None:
        super().__init__()
        self.calls, self.made, self.wanted = calls, made, wanted

    def call(self, x: Any) -> Any:
        values = [x]
        for function, sources in self.calls:
            values.append(function(*[values[i] for i in sources]))
        return [values[i] for i in self.wanted]


def random_branch(rng: np.random.Generator, most_steps: int = 9) -> Branch:
    """A branch drawn by numpy."""

    def step() -> Step:
        sources = tuple(int(n) for n in rng.geometric(0.5, 3) - 1)
        reuse = int(rng.integers(1, 4)) if rng.random() < 0.12 else 0
        kind = int(rng.integers(2**16))
        return Step(kind, sources, reuse, bool(rng.random() < 0.1))

    return Branch(
        int(rng.integers(len(SHAPES))),
        int(rng.choice(len(FORMS), p=[0.6, 0.15, 0.1, 0.15])),
        tuple(step() for _ in range(int(rng.integers(2, most_steps + 1)))),
        int(rng.integers(2**31)),
    )


def random_branches(seed: int, count: int) -> Iterator[Branch]:
    """Branches by a seed; each has one of its own, so that it can be made alone."""
    for number in range(count):
        yield random_branch(np.random.default_rng((seed, number)))
