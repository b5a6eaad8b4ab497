"""The variables of learned steps: what the optimizer trains of one layer.

A step is `base * exp(gain)`: the base of a weight is set when quantization begins, that
of a tensor is the range that the first training steps see. Gains start at 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from kacc.core.transform import call_notes
from kacc.quantization import learned

# Training steps whose extremes give the range from which learning starts.
FIRST_STEPS = 20

Shapes = dict[str, tuple[tuple[int, ...], bool]]


class LearnedSteps:
    """The gains of a layer's tensors and weights, and the steps of its weights.

    Args:
        ranges: the tensors with a range.
        shapes: of the scales of each weight, of the weight's rank.
        weight_bits: width of the weights.
    """

    def __init__(
        self,
        ranges: Iterable[str],
        shapes: Mapping[str, Sequence[int]],
        weight_bits: int,
    ) -> None:
        self.ranges = tuple(ranges)
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.levels = 2 ** (weight_bits - 1) - 1
        self.bits = weight_bits
        self.variables: dict[str, Any] = {}

    def wanted(self) -> Shapes:
        """The variables that it needs: name -> (shape, whether they are trained)."""
        # Training steps since the beginning, and whether gains are out of use.
        wanted: Shapes = {"learned_for": ((), False), "held": ((), False)}
        wanted |= {f"{name}_gain": ((2,), True) for name in self.ranges}
        for attribute, shape in self.shapes.items():
            wanted[f"{attribute}_step"] = shape, False
            wanted[f"{attribute}_gain"] = shape, True
        return wanted

    def begin(self, attribute: str, value: Any, channels: Sequence[int]) -> None:
        """Sets the steps of a weight from where it is, until training moves them."""
        if not self._is("learned_for"):
            step = learned.least_error_step(value, channels, self.bits)
            self.variables[f"{attribute}_step"].assign(step)

    def step(self, attribute: str, shape: Sequence[int], frozen: bool) -> Any:
        """The steps of a weight of that shape."""
        base = tf.convert_to_tensor(self.variables[f"{attribute}_step"].value)
        # Before `begin`, as in a model whose weights are still to be loaded.
        base = tf.where(base > 0, base, tf.ones_like(base))
        values = math.prod(shape) // math.prod(base.shape)
        gain = self._gain(attribute, frozen)
        return learned.lsq_gain(base, gain, values, self.levels)

    def ends(self, name: str, ends: Any, frozen: bool) -> Any:
        """A range as training has moved it, for inference."""
        return ends * tf.exp(self._gain(name, frozen))

    def trained_ends(
        self, name: str, ends: Any, value: Any, bits: int, frozen: bool
    ) -> Any:
        """The same in training, with LSQ's gradient."""
        values = math.prod(n or 1 for n in value.shape[1:])
        return learned.lsq_range(ends, self._gain(name, frozen), values, bits)

    def is_starting(self) -> Any:
        """Whether ranges still follow what is seen, as a boolean tensor."""
        count = tf.convert_to_tensor(self.variables["learned_for"].value)
        return count < FIRST_STEPS

    def count(self) -> None:
        """Counts a training step, once for all tensors and calls of it."""
        notes, count = call_notes(), self.variables["learned_for"]
        if id(count) not in notes:
            notes[id(count)] = True
            count.assign(tf.convert_to_tensor(count.value) + 1.0)

    def hold(self) -> None:
        """Takes the gains out of use: they go into what they multiply.

        An optimizer with momentum moves them on even with gradients of zero.
        """
        if self._is("held"):
            return
        for name in (*self.ranges, *self.shapes):
            suffix = "range" if name in self.ranges else "step"
            base = self.variables[f"{name}_{suffix}"]
            base.assign(base.value * tf.exp(self.variables[f"{name}_gain"].value))
        self.variables["held"].assign(1.0)

    def release(self) -> None:
        """Lets what was held be learned again, from where it stood."""
        if self._is("held"):
            for name in (*self.ranges, *self.shapes):
                self.reset(name)
            self.variables["held"].assign(0.0)

    def reset(self, name: str) -> None:
        """Forgets what was learned of a tensor or weight."""
        gain = self.variables[f"{name}_gain"]
        gain.assign(tf.zeros_like(gain.value))

    def idle(self, value: Any) -> Any:
        """The value itself, which leads gradients of zero to the gains."""
        names = (*self.ranges, *self.shapes)
        gains = [self.variables[f"{name}_gain"].value for name in names]
        return learned.with_idle(value, gains) if gains else value

    def _gain(self, name: str, frozen: bool) -> Any:
        gain = tf.convert_to_tensor(self.variables[f"{name}_gain"].value)
        return learned.unused(gain) if frozen else gain

    def _is(self, name: str) -> bool:
        return float(self.variables[name].numpy()) > 0
