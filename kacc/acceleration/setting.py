"""One way to run the training step, and switching it on."""

from __future__ import annotations

from dataclasses import dataclass

import keras

from kacc.acceleration.execution import compile_step, several_steps
from kacc.acceleration.fusion import fuse_batch_normalization
from kacc.acceleration.memory import rematerialize
from kacc.acceleration.precision import mixed_precision


@dataclass(frozen=True)
class Setting:
    """Pieces of acceleration that are on together.

    Args:
        fused: batch normalization in one kernel.
        dtype: "bfloat16" or "float16" for mixed precision; None leaves it.
        xla: whether XLA compiles the step; None leaves it.
        steps: steps in one call; None leaves it.
        rematerialized: whether activations are computed twice to save memory.

    Example:
        >>> print(Setting(fused=True, dtype="bfloat16"))
        fused batch normalization + bfloat16
        >>> print(Setting())
        as it is
    """

    fused: bool = False
    dtype: str | None = None
    xla: bool | None = None
    steps: int | None = None
    rematerialized: bool = False

    def __str__(self) -> str:
        pieces = [
            "fused batch normalization" if self.fused else "",
            self.dtype or "",
            {None: "", True: "XLA", False: "no XLA"}[self.xla],
            f"{self.steps} steps in a call" if self.steps else "",
            "rematerialization" if self.rematerialized else "",
        ]
        return " + ".join(piece for piece in pieces if piece) or "as it is"

    @property
    def pieces(self) -> int:
        """How many pieces are on."""
        given = (self.fused, self.dtype, self.xla is not None, self.steps)
        return sum(bool(piece) for piece in (*given, self.rematerialized))

    def tolerance(self, quantized: bool) -> float:
        """By how much the loss may differ, as a share of it: float32 rounds to 6e-8.

        Sums of thousands of terms in another order differ by 1e-4 at most. Half
        precision rounds each value to 1/256 (bfloat16), and errors of a network's
        layers add up to some of these. So do those of quantization, where the least
        difference may become one of a whole step.
        """
        return 3e-2 if self.dtype or quantized else 1e-3

    def apply(self, model: keras.Model) -> None:
        """Switches the pieces on, in place."""
        if self.fused:
            fuse_batch_normalization(model)
        if self.dtype:
            mixed_precision(model, self.dtype)
        if self.rematerialized:
            rematerialize(model)
        if self.xla is not None:
            compile_step(model, self.xla)
        if self.steps:
            several_steps(model, self.steps)
