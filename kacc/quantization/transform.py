"""The transform that quantizes a layer's weights and tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
from keras import tree

from kacc.core import attach, registry
from kacc.core.transform import (
    QUANTIZE,
    State,
    Transform,
    call_notes,
    is_observing,
    is_training,
    register_transform,
    shares_scale,
)
from kacc.quantization import functional, integer, learned
from kacc.quantization.calibration import Histogram
from kacc.quantization.config import scheme_named
from kacc.quantization.integer import Grid
from kacc.quantization.steps import LearnedSteps, Shapes

# Examples of a batch that the clipping share is counted on: it is a figure for the
# logs, and counting it on all of them costs a tenth of a step.
_CLIPPING_SAMPLE = 4

# The upper end of a range that was seen is at least this: without a width, as before it
# is seen, is only what no values came from. Tensors of zeros are seen too.
_SEEN = 1e-30

# Marks tensors that are integers in the file, as Keras marks those with a mask.
_ON_GRID = "_kacc_on_grid"


@register_transform
class Quantize(Transform):
    """Fake quantization with ranges that are moving averages, or learned steps.

    Args:
        scheme: name of the scheme.
        ranges: the tensors with a learned range: name -> whether never negative.
        fixed: the tensors with a prescribed range: name -> (low, high).
        frozen: whether the ranges stay as they are in training.
        momentum: share of the old range that each training step keeps.
        weight_bits: width of the weights, or None for the scheme's.
        learned_steps: whether steps are parameters that the optimizer trains.
        step_shapes: of the steps of each weight, which a layer that is being loaded
            does not know yet; None to take them from the layer's weights.
    """

    stage = QUANTIZE

    def __init__(
        self,
        scheme: str,
        ranges: Mapping[str, bool] | None = None,
        fixed: Mapping[str, tuple[float, float]] | None = None,
        frozen: bool = False,
        momentum: float = 0.99,
        weight_bits: int | None = None,
        learned_steps: bool = False,
        step_shapes: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        self.scheme = scheme_named(scheme)
        self.ranges = dict(ranges or {})
        self.fixed = {name: tuple(ends) for name, ends in (fixed or {}).items()}
        self.frozen = frozen
        self.momentum = momentum
        self.weight_bits = weight_bits or self.scheme.weight_bits
        self.learned_steps = learned_steps
        self.step_shapes = dict(step_shapes or {})
        self.steps: LearnedSteps | None = None
        self.observed: dict[str, Histogram] = {}
        self._channels: dict[str, tuple[int, ...]] = {}
        self._variables: dict[str, Any] = {}
        self._operation: Any = None

    def get_config(self) -> dict[str, Any]:
        """Arguments that make the same transform again."""
        return {
            "scheme": self.scheme.name,
            "ranges": self.ranges,
            "fixed": {name: list(ends) for name, ends in self.fixed.items()},
            "frozen": self.frozen,
            "momentum": self.momentum,
            "weight_bits": self.weight_bits,
            "learned_steps": self.learned_steps,
            "step_shapes": self.step_shapes,
        }

    def build(self, operation: Any, state: State, prefix: str) -> None:
        """Creates the variables; those that the state has already are kept."""
        spec = registry.find(operation)
        assert spec is not None
        self._channels = {w.attribute: w.channels for w in spec.weights}
        self._operation = operation
        if self.learned_steps:
            if not self.step_shapes:
                self.step_shapes = {a: self._step_shape(a) for a in self._channels}
            self.steps = LearnedSteps(self.ranges, self.step_shapes, self.weight_bits)
            self.steps.variables = self._variables
        existing = {variable.name: variable for variable in state.variables}
        for name, (shape, trainable) in self._wanted().items():
            full = f"{prefix}{name}"
            if full not in existing:
                existing[full] = state.create(full, shape, trainable=trainable)
            self._variables[name] = existing[full]

    def _wanted(self) -> Shapes:
        """The variables: name -> (shape, whether the optimizer trains it)."""
        wanted = self.steps.wanted() if self.steps else {}
        for name in self.ranges:
            wanted[f"{name}_range"] = (2,), False
            wanted[f"{name}_clipped"] = (), False
        return wanted

    def _step_shape(self, attribute: str) -> tuple[int, ...]:
        """The shape of a weight's scales, of the weight's rank."""
        shape = getattr(self._operation, attribute).shape
        kept = {axis % len(shape) for axis in self._channels[attribute]}
        return tuple(n if i in kept else 1 for i, n in enumerate(shape))

    def take_ranges(self, other: Quantize) -> None:
        """Takes over what another one has seen, where the variables are not the same.

        They are not if an operator goes from one model to another around it.
        """
        for name, variable in self._variables.items():
            known = other._variables.get(name)
            if known is not None and known is not variable:
                variable.assign(known.value)

    def begin(self) -> None:
        """Sets the steps of the weights from where they are, until training moves."""
        if self.steps is None:
            return
        for attribute, channels in self._channels.items():
            value = attach.weight_before(self._operation, attribute, QUANTIZE)
            self.steps.begin(attribute, tf.cast(value, tf.float32), channels)

    def freeze(self, frozen: bool) -> None:
        """Sets whether ranges and steps stay as they are in training."""
        self.frozen = frozen
        if self.steps:
            (self.steps.hold if frozen else self.steps.release)()

    @property
    def explicit(self) -> bool:
        """Whether the converter cannot find the integers of the weights by itself.

        It takes the largest weight of each channel for the last of 8 bit integers.
        """
        own = self.learned_steps or self.weight_bits != 8 or self.scheme.symmetric
        operation = self._operation
        return own or any(shares_scale(operation, a) for a in self._channels)

    def _axes(self, attribute: str) -> tuple[int, ...]:
        """The axes of a weight that have scales of their own."""
        if shares_scale(self._operation, attribute):
            return ()
        return self._channels[attribute]

    def weight(self, attribute: str, value: Any) -> Any:
        """The weight rounded to its integers; what is read from a table is, later."""
        if attribute not in self._channels:
            return value
        bits = self.weight_bits
        if self.steps is None:
            return functional.fake_quantize_weight(value, self._axes(attribute), bits)
        if is_training() and not self.frozen:
            self.steps.count()
        return learned.quantize_by_step(value, self.weight_step(attribute, value), bits)

    def weight_step(self, attribute: str, value: Any) -> Any:
        """The scale of each channel of a weight, of the weight's rank."""
        if self.steps is not None:
            return self.steps.step(attribute, value.shape, self.frozen)
        scale = functional.weight_scale(value, self._axes(attribute), self.weight_bits)
        return tf.broadcast_to(scale, self._step_shape(attribute))

    def idle(self, value: Any) -> Any:
        """The value itself; what the optimizer trains gets gradients of zero."""
        return self.steps.idle(value) if self.steps and is_training() else value

    def range(self, name: str, value: Any) -> Any:
        """The tensor rounded to the steps of its range."""
        if name.startswith("input_") and getattr(value, _ON_GRID, False):
            return value  # another call of a shared layer reads a float tensor
        value = self._ranged(name, value)
        if name == "output":
            for tensor in tree.flatten(value):
                setattr(tensor, _ON_GRID, True)
        return value

    def _ranged(self, name: str, value: Any) -> Any:
        if name not in self.ranges and name not in self.fixed:
            return value
        if is_observing():
            self._observe(name, value)
            return tf.identity(value)
        if name not in self.fixed and is_training():
            return self._trained(name, value)
        full = tf.cast(value, tf.float32)
        if name in self.fixed:
            low, high = self.fixed[name]
            result = functional.fake_quantize(full, low, high, *self._grid)
        else:
            result = self._inferred(name, full)
        return tf.cast(result, value.dtype)

    def rectifies(self, name: str) -> bool:
        """In training a range that starts at zero clips what a relu would."""
        return self._from_zero(name) and is_training() and not is_observing()

    def _from_zero(self, name: str) -> bool:
        """Whether the lower end is zero: a symmetric grid has negative integers."""
        return self.ranges.get(name, False) and not self.scheme.symmetric

    def seen(self, name: str) -> bool:
        """Whether the range of a tensor has been seen."""
        return bool((self._variables[f"{name}_range"].numpy() != 0).any())

    def nudged(self, name: str) -> tuple[Any, Any]:
        """The range of a tensor as the file will have it, as scalar tensors."""
        if name in self.fixed:
            low, high = self.fixed[name]
            return tf.constant(low), tf.constant(high)
        ends = self._ends(name)
        return functional.nudge(ends[0], ends[1], *self._grid)

    def _ends(self, name: str) -> Any:
        """The range that training has come to, as a tensor of two."""
        ends = tf.convert_to_tensor(self._variables[f"{name}_range"].value)
        return self.steps.ends(name, ends, self.frozen) if self.steps else ends

    def ends(self, name: str) -> tuple[float, float]:
        """The range of a tensor as the file will have it, as numbers."""
        low, high = self.nudged(name)
        return float(low), float(high)

    def given_ends(self, name: str) -> tuple[float, float]:
        """The range of a tensor as `set_range` takes it, to give it to another one.

        A prescribed one may have its zero between two integers, which none that was
        seen has: that one gets the ends of the same grid.
        """
        if name in self.fixed and not self.scheme.symmetric:
            grid, steps = grid_named(self, name), 2.0**self.scheme.activation_bits
            zero, scale = float(grid.zero), float(grid.scale32)
            return -(steps / 2 + zero) * scale, (steps / 2 - 1 - zero) * scale
        low, high = self.fixed.get(name) or map(float, self._ends(name))
        return low, high

    def all_seen(self) -> Any:
        """Whether every range has been seen, as a boolean tensor."""
        ranges = [self._variables[f"{name}_range"].value for name in self.ranges]
        seen = [tf.reduce_any(ends != 0) for ends in ranges]
        return tf.reduce_all(seen) if seen else tf.constant(True)

    def clipping(self) -> dict[str, float]:
        """Share of values that training clipped, for each learned range."""
        return {
            name: float(self._variables[f"{name}_clipped"].numpy())
            for name in self.ranges
        }

    @property
    def _grid(self) -> tuple[int, bool]:
        """Width of the integers, and whether they are symmetric."""
        return self.scheme.activation_bits, self.scheme.symmetric

    def _inferred(self, name: str, value: Any) -> Any:
        """A tensor at inference; value and result are float32."""
        # A range that no training step has seen must not send all to zero.
        low, high = self.nudged(name)
        rounded = functional.fake_quantize(value, low, high, *self._grid)
        seen = tf.reduce_any(self._variables[f"{name}_range"].value != 0)
        return tf.where(seen, rounded, value)

    def _trained(self, name: str, value: Any) -> Any:
        """A tensor in training; the result is of the value's type."""
        ends = self._updated(name, value)
        if self.steps:
            bits = self._grid[0]
            ends = self.steps.trained_ends(name, ends, value, bits, self.frozen)
        low, high = functional.nudge(ends[0], ends[1], *self._grid)
        self._count_clipped(name, value, low, high)
        if self._from_zero(name) and not self.frozen and not self.steps:
            return functional.rectify_quantized(value, high, self._grid[0])
        full = tf.cast(value, tf.float32)
        if self.steps:
            low = learned.straight_through(ends[0], low)
            high = learned.straight_through(ends[1], high)
            result = learned.quantize_to_ends(full, low, high, *self._grid)
        else:
            result = functional.fake_quantize(full, low, high, *self._grid)
        return tf.cast(result, value.dtype)

    def _updated(self, name: str, value: Any) -> Any:
        """The range that was seen, after this batch; learned ones start from it."""
        variable = self._variables[f"{name}_range"]
        ends = tf.convert_to_tensor(variable.value)
        if self.frozen:
            return ends
        moved = self._moved(name, ends, value)
        if self.steps:
            moved = tf.where(self.steps.is_starting(), moved, ends)
            self.steps.count()
        variable.assign(moved)
        return moved

    def _count_clipped(self, name: str, value: Any, low: Any, high: Any) -> None:
        # What a relu sends to zero is not clipped by the range.
        sample = tf.cast(value[:_CLIPPING_SAMPLE], tf.float32)
        floor = sample.dtype.min if self._from_zero(name) else low
        share = functional.clipped_share(sample, floor, high)
        old = self._variables[f"{name}_clipped"]
        old.assign(old.value + (1 - self.momentum) * (share - old.value))

    def _moved(self, name: str, ends: Any, value: Any) -> Any:
        """The range after one more batch; the first batch sets it.

        The calls of a shared layer count as one batch with the values of all.
        """
        batch = self._batch_ends(name, value)
        steps = call_notes()
        if (id(self), name) in steps:
            ends, before = steps[id(self), name]
            batch = _union(before, batch)
        steps[id(self), name] = (ends, batch)
        moved = ends + (1 - self.momentum) * (batch - ends)
        return tf.where(ends[1] - ends[0] > _SEEN, moved, batch)

    def _batch_ends(self, name: str, value: Any) -> Any:
        value = tf.stop_gradient(value)
        if self.steps is None:
            return self._extremes(name, value)
        # Afterwards nothing reads them: two passes less.
        return tf.cond(
            self.steps.is_starting(),
            lambda: self._extremes(name, value),
            lambda: tf.zeros(2),
        )

    def _extremes(self, name: str, value: Any) -> Any:
        # Halves are compared as they are: casting them first would cost a pass.
        high = tf.maximum(tf.cast(tf.reduce_max(value), tf.float32), _SEEN)
        if self.ranges[name]:
            return tf.stack([0.0, high])
        return tf.stack([tf.cast(tf.reduce_min(value), tf.float32), high])

    def _observe(self, name: str, value: Any) -> None:
        """Shows calibration a batch; also from inside a graph."""
        if name in self.observed:
            full = tf.cast(value, tf.float32)
            tf.numpy_function(self.observed[name].add, [full], [], name="observe")

    def set_range(self, name: str, low: float, high: float) -> None:
        """Gives a tensor its range."""
        self._variables[f"{name}_range"].assign([low, max(high, _SEEN)])
        if self.steps:
            self.steps.reset(name)


def _union(a: Any, b: Any) -> Any:
    return tf.stack([tf.minimum(a[0], b[0]), tf.maximum(a[1], b[1])])


def quantize_of(operation: Any) -> Quantize | None:
    """The quantization attached to a layer or operator, or None."""
    for transform in getattr(operation, "_kacc_transforms", ()):
        if isinstance(transform, Quantize):
            return transform
    return None


def grid_named(transform: Quantize, name: str) -> Grid:
    """The grid of a tensor of a quantized layer, at its present range."""
    scheme = transform.scheme
    return integer.grid_of(
        *transform.nudged(name), scheme.activation_bits, scheme.symmetric
    )


def require_quantize(operation: Any) -> Quantize:
    """The quantization of a layer or operator that has one."""
    transform = quantize_of(operation)
    assert transform is not None, f"{operation} is not quantized"
    return transform
