"""An activation function as the integer file has it: operators, and ranges between."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kacc.core.registry import RangeSpec
from kacc.support.operands import no_wide_kernel

# The TFLite specification fixes the output of LOGISTIC and SOFTMAX at scale 1/256,
# zero point -128: https://ai.google.dev/edge/litert/conversion/tensorflow/quantization
# And that of TANH at scale 1/128, zero point 0. Of 16 bits all have scale 1/32768.
_FIXED_16 = (-32767 / 32768, 32767 / 32768)
UNIT = RangeSpec(fixed=(0.0, 255 / 256), kept=True, symmetric=_FIXED_16)
SIGNED_UNIT = RangeSpec(fixed=(-1.0, 127 / 128), kept=True, symmetric=_FIXED_16)


@dataclass(frozen=True)
class Activation:
    """How the file computes an activation.

    Args:
        apply: `apply(steps, x)`, passing the tensors between through `steps.range`.
        integer: `integer(file, x)`, with the file's operators as methods of `file`.
        output: the tensor at its end.
        inner: the tensors between its operators.
        lacks: an operator of it that LiteRT has no 16 bit kernel of.
        fused: whether it costs nothing at the end of a convolution.
        saturates: whether it does no more than the ends of its range do.
        requantizes: whether an operator of it reads the input by another range.
        absorbs_relu: whether its last operator can end in a relu: the converter makes
            one of both, of the relu's range.
    """

    apply: Callable[[Any, Any], Any]
    integer: Callable[[Any, Any], Any]
    output: RangeSpec = field(default_factory=RangeSpec)
    inner: Mapping[str, RangeSpec] = field(default_factory=dict)
    lacks: str = ""
    fused: bool = False
    saturates: bool = False
    requantizes: bool = False
    absorbs_relu: bool = False

    @property
    def reason_against_wide(self) -> str | None:
        """Why it cannot have 16 bit activations, or None."""
        return no_wide_kernel(self.lacks) if self.lacks else None
