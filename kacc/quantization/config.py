"""The quantization schemes."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from kacc.core.errors import UsageError


@dataclass(frozen=True)
class Scheme:
    """Widths of an integer file.

    Args:
        name: as in `kacc.quantize(model, name)`.
        weight_bits: of weights, symmetric, a scale per output channel.
        activation_bits: of activations, a scale and zero point per tensor.
        learned_steps: whether steps are learned unless one asks for moving averages.
        symmetric: whether the zero point of activations is always 0.
    """

    name: str
    weight_bits: int
    activation_bits: int
    learned_steps: bool = False
    symmetric: bool = False


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("int8", weight_bits=8, activation_bits=8),
        Scheme("w4a8", weight_bits=4, activation_bits=8, learned_steps=True),
        Scheme("int16x8", weight_bits=8, activation_bits=16, symmetric=True),
    )
}


def scheme_named(name: str) -> Scheme:
    """The scheme of that name.

    Raises:
        UsageError: if there is none.
    """
    if name in SCHEMES:
        return SCHEMES[name]
    near = difflib.get_close_matches(str(name), SCHEMES, 1) or list(SCHEMES)
    raise UsageError(
        f"`scheme` must be one of {', '.join(SCHEMES)}",
        received=name,
        fix=f"Pass {near[0]!r}",
    )
