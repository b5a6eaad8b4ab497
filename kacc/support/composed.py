"""Activation functions that the file computes in several operators."""

from __future__ import annotations

import math
from typing import Any

from keras import ops

from kacc.core.registry import RECTIFIED, RangeSpec
from kacc.support.pointwise import SIGNED_UNIT, UNIT, Activation


def _softplus(steps: Any, x: Any) -> Any:
    """relu(x) - log(sigmoid(|x|)): no exponential that could grow."""
    size = steps.range("size", ops.absolute(x))
    share = steps.range("share", ops.sigmoid(size))
    logarithm = steps.range("logarithm", ops.log(share))
    return steps.range(RECTIFIED, ops.relu(x)) - logarithm


def _integer_softplus(file: Any, x: Any) -> Any:
    size = file.table(x, ops.absolute, "size")
    share = file.table(size, ops.sigmoid, "share")
    logarithm = file.table(share, ops.log, "logarithm")
    return file.subtract(file.relu(x, RECTIFIED), logarithm, "output")


def _softsign(steps: Any, x: Any) -> Any:
    size = steps.range("size", ops.absolute(x))
    return x / steps.range("divisor", size + 1.0)


def _integer_softsign(file: Any, x: Any) -> Any:
    size = file.table(x, ops.absolute, "size")
    return file.divide(x, file.add(size, file.constant(1.0), "divisor"), "output")


def exponential_linear(alpha: float, scale: float = 1.0) -> Activation:
    """The family of elu: scale * (relu(x) + alpha * (exp(min(x, 0)) - 1)).

    LiteRT's ELU takes int8, but the converter leaves it in float and the reference
    kernels lack it. The ranges of the terms are known: only the exponential's own
    rounding and that of the sum are lost.
    """
    depth = alpha * scale

    def apply(steps: Any, x: Any) -> Any:
        positive = ops.relu(x if scale == 1 else x * scale)
        negative = steps.range("exponential", ops.exp(ops.minimum(x, 0.0)))
        negative = steps.range("negative", negative - 1.0)
        if depth != 1:
            negative = steps.range("scaled", negative * depth)
        return steps.range(RECTIFIED, positive) + negative

    def integer(file: Any, x: Any) -> Any:
        if scale == 1:
            positive = file.relu(x, RECTIFIED)
        else:
            scaled = file.multiply(x, file.constant(scale), RECTIFIED)
            positive = file.rectified(scaled)
        below = file.minimum(x, 0.0)
        negative = file.table(below, ops.exp, "exponential")
        negative = file.subtract(negative, file.constant(1.0), "negative")
        if depth != 1:
            negative = file.multiply(negative, file.constant(depth), "scaled")
        return file.add(positive, negative, "output")

    inner = {
        "exponential": RangeSpec(fixed=(0.0, 1.0)),
        "negative": RangeSpec(fixed=(-1.0, 0.0)),
        RECTIFIED: RangeSpec(nonnegative=True),
    }
    if depth != 1:
        inner["scaled"] = RangeSpec(fixed=(-depth, 0.0))
    return Activation(apply, integer, inner=inner, absorbs_relu=True)


def celu(alpha: float) -> Activation:
    """Barron 2017, arXiv:1704.07483: elu with x / alpha in the exponential."""
    if alpha == 1:
        return exponential_linear(1.0)

    def apply(steps: Any, x: Any) -> Any:
        inside = steps.range("inside", ops.minimum(x, 0.0) * (1.0 / alpha))
        negative = steps.range("exponential", ops.exp(inside))
        negative = steps.range("negative", negative - 1.0)
        negative = steps.range("scaled", negative * alpha)
        return steps.range(RECTIFIED, ops.relu(x)) + negative

    def integer(file: Any, x: Any) -> Any:
        below = file.minimum(x, 0.0)
        inside = file.multiply(below, file.constant(1.0 / alpha), "inside")
        negative = file.table(inside, ops.exp, "exponential")
        negative = file.subtract(negative, file.constant(1.0), "negative")
        negative = file.multiply(negative, file.constant(alpha), "scaled")
        return file.add(file.relu(x, RECTIFIED), negative, "output")

    inner = {
        "inside": RangeSpec(),
        "exponential": RangeSpec(fixed=(0.0, 1.0)),
        "negative": RangeSpec(fixed=(-1.0, 0.0)),
        "scaled": RangeSpec(fixed=(-alpha, 0.0)),
        RECTIFIED: RangeSpec(nonnegative=True),
    }
    return Activation(apply, integer, inner=inner, absorbs_relu=True)


def _mish(steps: Any, x: Any) -> Any:
    """tanh(softplus(x)) is (1 - r^2) / (1 + r^2) with r = 1 - sigmoid(x)."""
    rest = steps.range("rest", 1.0 - steps.range("share", ops.sigmoid(x)))
    square = steps.range("square", rest * rest)
    above = steps.range("numerator", 1.0 - square)
    gate = above / steps.range("divisor", square + 1.0)
    return x * steps.range("gate", gate)


def _integer_mish(file: Any, x: Any) -> Any:
    one, share = file.constant(1.0), file.table(x, ops.sigmoid, "share")
    rest = file.subtract(one, share, "rest")
    square = file.multiply(rest, rest, "square")
    above = file.subtract(one, square, "numerator")
    gate = file.divide(above, file.add(square, one, "divisor"), "gate")
    return file.multiply(x, gate, "output")


def _log_sigmoid(steps: Any, x: Any) -> Any:
    """min(x, 0) + log(sigmoid(|x|)): no exponential that could grow."""
    share = steps.range("share", ops.sigmoid(steps.range("size", ops.absolute(x))))
    return ops.minimum(x, 0.0) + steps.range("logarithm", ops.log(share))


def _integer_log_sigmoid(file: Any, x: Any) -> Any:
    size = file.table(x, ops.absolute, "size")
    share = file.table(size, ops.sigmoid, "share")
    logarithm = file.table(share, ops.log, "logarithm")
    return file.add(file.minimum(x, 0.0), logarithm, "output")


def squareplus(b: float) -> Activation:
    """(x + sqrt(x^2 + b)) / 2: Barron 2021, arXiv:2112.11687."""

    def apply(steps: Any, x: Any) -> Any:
        square = steps.range("square", x * x)
        root = steps.range("root", ops.sqrt(steps.range("shifted", square + b)))
        return steps.range("total", x + root) * 0.5

    def integer(file: Any, x: Any) -> Any:
        square = file.multiply(x, x, "square")
        root = file.sqrt(file.add(square, file.constant(b), "shifted"), "root")
        total = file.add(x, root, "total")
        return file.multiply(total, file.constant(0.5), "output")

    names = ("square", "shifted", "root", "total")
    inner = {name: RangeSpec(nonnegative=True) for name in names}
    return Activation(
        apply, integer, RangeSpec(nonnegative=True), inner, absorbs_relu=True
    )


def _tanh_shrink(steps: Any, x: Any) -> Any:
    return x - steps.range("tanh", ops.tanh(x))


def _integer_tanh_shrink(file: Any, x: Any) -> Any:
    return file.subtract(x, file.table(x, ops.tanh, "tanh"), "output")


def soft_shrink(threshold: float) -> Activation:
    """What is left of a value beyond a threshold: x - clip(x)."""

    def apply(steps: Any, x: Any) -> Any:
        if not steps.constant:
            inside = ops.clip(x, -threshold, threshold)
        else:  # as in `clipped` of activations.py
            inside = ops.minimum(x, threshold)
        return x - steps.range("clipped", inside)

    def integer(file: Any, x: Any) -> Any:
        clipped = file.minimum(file.requantize(x, "clipped"), threshold)
        return file.subtract(x, clipped, "output")

    inner = {"clipped": RangeSpec(fixed=(-threshold, threshold))}
    return Activation(apply, integer, inner=inner, requantizes=True, absorbs_relu=True)


def _ramp(steps: Any, x: Any) -> Any:
    """X + 1 between 0 and 2; in the file the range clips it, a symmetric one at 2."""
    shifted = x + 1.0
    if not steps.constant:
        shifted = ops.clip(shifted, 0.0, 2.0)
    elif steps.symmetric:
        shifted = ops.relu(shifted)
    return steps.range("ramp", shifted)


_RAMP = {"ramp": RangeSpec(fixed=(0.0, 2.0))}


def _integer_ramp(file: Any, x: Any) -> Any:
    return file.rectified(file.add(x, file.constant(1.0), "ramp"))


def _sparse_plus(steps: Any, x: Any) -> Any:
    ramp = _ramp(steps, x)
    parabola = steps.range("square", ramp * ramp)
    parabola = steps.range("parabola", parabola * 0.25)
    return parabola + steps.range("above", ops.relu(x - 1.0))


def _integer_sparse_plus(file: Any, x: Any) -> Any:
    ramp = _integer_ramp(file, x)
    parabola = file.multiply(ramp, ramp, "square")
    parabola = file.multiply(parabola, file.constant(0.25), "parabola")
    above = file.rectified(file.subtract(x, file.constant(1.0), "above"))
    return file.add(parabola, above, "output")


_LOGARITHM = {
    "size": RangeSpec(nonnegative=True),
    "share": UNIT,
    "logarithm": RangeSpec(fixed=(-math.log(2.0), 0.0)),
}

COMPOSED: dict[str, Activation] = {
    "elu": exponential_linear(1.0),
    "celu": celu(1.0),
    # Klambauer et al. 2017, arXiv:1706.02515.
    "selu": exponential_linear(1.6732632423543772, 1.0507009873554805),
    "softplus": Activation(
        _softplus,
        _integer_softplus,
        inner={**_LOGARITHM, RECTIFIED: RangeSpec(nonnegative=True)},
        absorbs_relu=True,
    ),
    "softsign": Activation(
        _softsign,
        _integer_softsign,
        # On a wider range LiteRT's DIV gives small quotients the largest integer: it
        # shifts by more than 31 bits where a / (b c) < 64 for the scales of the
        # dividend, the divisor and the quotient. On its own it is about 255.
        RangeSpec(kept=True),
        {
            "size": RangeSpec(nonnegative=True),
            "divisor": RangeSpec(nonnegative=True),
        },
        lacks="DIV",
        absorbs_relu=True,
    ),
    "log_sigmoid": Activation(
        _log_sigmoid, _integer_log_sigmoid, inner=_LOGARITHM, absorbs_relu=True
    ),
    # Misra 2019, arXiv:1908.08681.
    "mish": Activation(
        _mish,
        _integer_mish,
        inner={
            "share": UNIT,
            "rest": RangeSpec(fixed=(0.0, 1.0)),
            "square": RangeSpec(fixed=(0.0, 1.0)),
            "numerator": RangeSpec(fixed=(0.0, 1.0)),
            "divisor": RangeSpec(fixed=(0.0, 2.0)),
            "gate": RangeSpec(fixed=(0.0, 1.0)),
        },
        lacks="DIV",
        absorbs_relu=True,
    ),
    "squareplus": squareplus(4.0),
    "tanh_shrink": Activation(
        _tanh_shrink,
        _integer_tanh_shrink,
        inner={"tanh": SIGNED_UNIT},
        absorbs_relu=True,
    ),
    "soft_shrink": soft_shrink(0.5),
    "sparse_plus": Activation(
        _sparse_plus,
        _integer_sparse_plus,
        RangeSpec(nonnegative=True),
        {
            **_RAMP,
            "square": RangeSpec(fixed=(0.0, 4.0)),
            "parabola": RangeSpec(fixed=(0.0, 1.0)),
            "above": RangeSpec(nonnegative=True),
        },
        absorbs_relu=True,
    ),
}
