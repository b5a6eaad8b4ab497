"""The transform that quantizes a layer's weights and tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from keras import tree

from kacc.core import registry
from kacc.core.errors import UsageError
from kacc.core.transform import (
    QUANTIZE,
    State,
    Transform,
    call_notes,
    is_observing,
    is_training,
    register_transform,
)
from kacc.quantization import functional
from kacc.quantization.calibration import Histogram
from kacc.quantization.config import scheme_named

# Examples of a batch that the clipping share is counted on: it is a figure for the
# logs, and counting it on all of them costs a tenth of a step.
_CLIPPING_SAMPLE = 4

# Marks tensors that are integers in the file, as Keras marks those with a mask.
_ON_GRID = "_kacc_on_grid"


@register_transform
class Quantize(Transform):
    """Fake quantization with moving-average ranges.

    Args:
        scheme: name of the scheme.
        ranges: the tensors with a learned range: name -> whether never negative.
        fixed: the tensors with a prescribed range: name -> (low, high).
        frozen: whether the ranges stay as they are in training.
        momentum: share of the old range that each training step keeps.
    """

    stage = QUANTIZE

    def __init__(
        self,
        scheme: str,
        ranges: Mapping[str, bool] | None = None,
        fixed: Mapping[str, tuple[float, float]] | None = None,
        frozen: bool = False,
        momentum: float = 0.99,
    ) -> None:
        super().__init__()
        self.scheme = scheme_named(scheme)
        self.ranges = dict(ranges or {})
        self.fixed = {name: tuple(ends) for name, ends in (fixed or {}).items()}
        self.frozen = frozen
        self.momentum = momentum
        self.observed: dict[str, Histogram] = {}
        self._channels: dict[str, tuple[int, ...]] = {}
        self._variables: dict[str, Any] = {}
        self._clipped: dict[str, Any] = {}

    def get_config(self) -> dict[str, Any]:
        """Arguments that make the same transform again."""
        return {
            "scheme": self.scheme.name,
            "ranges": self.ranges,
            "fixed": {name: list(ends) for name, ends in self.fixed.items()},
            "frozen": self.frozen,
            "momentum": self.momentum,
        }

    def build(self, operation: Any, state: State, prefix: str) -> None:
        """Creates the ranges; those that the state has already are kept."""
        spec = registry.find(operation)
        assert spec is not None
        self._channels = {w.attribute: w.channels for w in spec.weights}
        existing = {variable.name: variable for variable in state.variables}
        for name in self.ranges:
            for suffix, shape, table in (
                ("range", (2,), self._variables),
                ("clipped", (), self._clipped),
            ):
                full = f"{prefix}{name}_{suffix}"
                if full not in existing:
                    existing[full] = state.create(full, shape)
                table[name] = existing[full]

    def take_ranges(self, other: Quantize) -> None:
        """Takes over what another one has seen, where the variables are not the same.

        They are not if an operator goes from one model to another around it.
        """
        for name, variable in self._variables.items():
            known = other._variables.get(name)
            if known is not None and known is not variable:
                variable.assign(known.value)

    def weight(self, attribute: str, value: Any) -> Any:
        """The weight rounded to its integers."""
        return functional.fake_quantize_weight(
            value, self._channels[attribute], self.scheme.weight_bits
        )

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
        full = tf.cast(value, tf.float32)
        if name in self.fixed:
            low, high = self.fixed[name]
            result = functional.fake_quantize(full, low, high, self._bits)
        else:
            result = self._learned(name, full)
        return tf.cast(result, value.dtype)

    def rectifies(self, name: str) -> bool:
        """In training a range that starts at zero clips what a relu would."""
        return self.ranges.get(name, False) and is_training() and not is_observing()

    def seen(self, name: str) -> bool:
        """Whether the range of a tensor has been seen; a constant zero has not."""
        return bool((self._variables[name].numpy() != 0).any())

    def nudged(self, name: str) -> tuple[Any, Any]:
        """The range of a tensor as the file will have it, as scalar tensors."""
        if name in self.fixed:
            low, high = self.fixed[name]
            return tf.constant(low), tf.constant(high)
        ends = tf.convert_to_tensor(self._variables[name].value)
        return functional.nudge(ends[0], ends[1], self._bits)

    def ends(self, name: str) -> tuple[float, float]:
        """The range of a tensor as the file will have it, as numbers."""
        low, high = self.nudged(name)
        return float(low), float(high)

    def all_seen(self) -> Any:
        """Whether every range has been seen, as a boolean tensor."""
        seen = [tf.reduce_any(v.value != 0) for v in self._variables.values()]
        return tf.reduce_all(seen) if seen else tf.constant(True)

    def clipping(self) -> dict[str, float]:
        """Share of values that training clipped, for each learned range."""
        return {name: float(v.numpy()) for name, v in self._clipped.items()}

    @property
    def _bits(self) -> int:
        return self.scheme.activation_bits

    def _learned(self, name: str, value: Any) -> Any:
        variable = self._variables[name]
        ends = tf.convert_to_tensor(variable.value)
        if is_training() and not self.frozen:
            ends = self._moved(name, ends, value)
            variable.assign(ends)
        low, high = functional.nudge(ends[0], ends[1], self._bits)
        if is_training():
            # What a relu sends to zero is not clipped by the range.
            floor = value.dtype.min if self.ranges[name] else low
            share = functional.clipped_share(value[:_CLIPPING_SAMPLE], floor, high)
            old = self._clipped[name]
            old.assign(old.value + (1 - self.momentum) * (share - old.value))
            if self.ranges[name] and not self.frozen:
                return functional.rectify_quantized(value, high, self._bits)
            return functional.fake_quantize(value, low, high, self._bits)
        # A range that no training step has seen yet must not send all values to zero.
        quantized = functional.fake_quantize(value, low, high, self._bits)
        return tf.where(tf.reduce_any(ends != 0), quantized, value)

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
        return tf.where(tf.reduce_any(ends != 0), moved, batch)

    def _batch_ends(self, name: str, value: Any) -> Any:
        value = tf.stop_gradient(tf.cast(value, tf.float32))
        high = tf.reduce_max(value)
        if self.ranges[name]:
            return tf.stack([0.0, tf.maximum(high, 0.0)])
        return tf.stack([tf.reduce_min(value), high])

    def _observe(self, name: str, value: Any) -> None:
        """Shows calibration a batch; also from inside a graph."""
        if name in self.observed:
            full = tf.cast(value, tf.float32)
            tf.numpy_function(self.observed[name].add, [full], [], name="observe")

    def set_range(self, name: str, low: float, high: float) -> None:
        """Gives a tensor its range."""
        self._variables[name].assign([low, high])


def _union(a: Any, b: Any) -> Any:
    return tf.stack([tf.minimum(a[0], b[0]), tf.maximum(a[1], b[1])])


def quantize_of(operation: Any) -> Quantize | None:
    """The quantization attached to a layer or operator, or None."""
    for transform in getattr(operation, "_kacc_transforms", ()):
        if isinstance(transform, Quantize):
            return transform
    return None


def require_same_scheme(operation: Any, scheme: str, path: str) -> None:
    """Raises a UsageError if the layer is quantized by another scheme."""
    present = quantize_of(operation)
    if present is not None and present.scheme.name != scheme:
        raise UsageError(
            f"The layer {path!r} is already quantized as {present.scheme.name}",
            received=scheme,
            fix="Call kacc.strip(model) first",
        )
