"""The arithmetic of LiteRT's kernels, one class for each set of them.

"xnnpack" is what LiteRT runs by default: XNNPACK where it has a kernel for the
operator, LiteRT's built-in kernels for the others. "builtin" is LiteRT without XNNPACK,
"reference" are its plain kernels, "micro" those of TensorFlow Lite Micro. XNNPACK has
none of 16 bit activations. z is a zero point, s a scale.
"""

from __future__ import annotations

from kacc.core.errors import UsageError
from kacc.quantization.kernels.builtin import BuiltIn
from kacc.quantization.kernels.reference import Micro, Reference
from kacc.quantization.kernels.wide import Wide, WideMicro, WideReference
from kacc.quantization.kernels.xnnpack import XnnPack

__all__ = [
    "KERNELS",
    "BuiltIn",
    "Micro",
    "Reference",
    "Wide",
    "WideMicro",
    "WideReference",
    "XnnPack",
    "kernels_named",
    "kernels_of_width",
]

KERNELS: dict[str, BuiltIn] = {
    "xnnpack": XnnPack(),
    "builtin": BuiltIn(),
    "reference": Reference(),
    "micro": Micro(),
}


def kernels_named(name: str) -> BuiltIn:
    """The set of kernels of that name.

    Raises:
        UsageError: if there is none.
    """
    if name in KERNELS:
        return KERNELS[name]
    raise UsageError(f"`kernels` must be one of {', '.join(KERNELS)}", received=name)


# Those of 16 bits by the class of those of 8.
_WIDE: dict[type, BuiltIn] = {
    XnnPack: Wide(),
    BuiltIn: Wide(),
    Reference: WideReference(),
    Micro: WideMicro(),
}


def kernels_of_width(kernels: BuiltIn, bits: int) -> BuiltIn:
    """The kernels of a set for activations of that width."""
    return _WIDE[type(kernels)] if bits == 16 else kernels
