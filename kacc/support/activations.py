"""Activation functions as the integer file has them: operators, and ranges between.

An activation that the file's convolution can end in ("fused") needs no range of its
own. The others become operators, with the tensors named here between them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kacc.core import attach
from kacc.core.registry import BEFORE, RangeSpec
from kacc.support.composed import COMPOSED
from kacc.support.pointwise import SIGNED_UNIT, UNIT, Activation


def _gated(steps: Any, x: Any) -> Any:
    return x * steps.range("gate", ops.sigmoid(x))


def _integer_gated(file: Any, x: Any) -> Any:
    return file.multiply(x, file.table(x, ops.sigmoid, "gate"), "output")


def _table(
    function: Callable[[Any], Any], stepwise: Callable[[Any], Any] | None = None
) -> Callable[[Any, Any], Any]:
    return lambda file, x: file.table(x, function, "output", stepwise)


def _integer_linear(file: Any, x: Any) -> Any:
    if file.symmetric:  # a table of 16 bits is not the identity
        return file.requantize(x, "output")
    return file.table(x, lambda values: values, "output")


def _hard_sigmoid(steps: Any, x: Any) -> Any:
    return steps.range("shifted", ops.relu6(x + 3.0)) * (1.0 / 6.0)


def _integer_hard_sigmoid(file: Any, x: Any, name: str = "output") -> Any:
    shifted = file.rectified(file.add(x, file.constant(3.0), "shifted"), 6.0)
    return file.multiply(shifted, file.constant(1.0 / 6.0), name)


def gelu(approximate: bool) -> Activation:
    """The gelu by the error function, or by its approximation with tanh."""

    def function(x: Any) -> Any:
        return ops.gelu(x, approximate=approximate)

    stepwise = _gelu_by_steps if approximate else None
    return Activation(lambda steps, x: function(x), _table(function, stepwise))


def _gelu_by_steps(x: Any) -> Any:
    """The approximation in float32, in the order in which the kernel computes it."""
    factor = tf.constant(math.sqrt(2.0 / math.pi), tf.float32)
    inside = factor * (x + 0.044715 * x * x * x)
    return 0.5 * x * (1.0 + tf.cast(tf.tanh(tf.cast(inside, "float64")), "float32"))


def leaky_relu(slope: float) -> Activation:
    """The relu that lets a share of what is negative through."""
    return Activation(
        lambda steps, x: ops.leaky_relu(x, slope),
        lambda file, x: file.leaky_relu(x, slope, "output"),
    )


def absolute() -> Activation:
    """The size of a value."""
    return Activation(
        lambda steps, x: ops.absolute(x),
        _table(ops.absolute),
        RangeSpec(nonnegative=True),
    )


def clipped(low: float, high: float) -> Activation:
    """Values limited to low..high: a QUANTIZE to that range clips them.

    Without an operator that has that range the converter would drop it: the MINIMUM
    behind it changes nothing. A symmetric range clips at the end that is farther from
    zero; a RELU, a MAXIMUM or a MINIMUM clips at the other one.
    """

    def apply(steps: Any, x: Any) -> Any:
        if not steps.constant:
            return ops.clip(x, low, high)
        if not steps.symmetric or -low == high:
            return ops.minimum(x, high)
        if low == 0:
            return ops.relu(x)
        return ops.maximum(x, low) if -low < high else ops.minimum(x, high)

    def integer(file: Any, x: Any) -> Any:
        if not file.symmetric:
            return file.requantize(x, "output")
        if low == 0:
            return file.relu(x, "output")
        x = file.requantize(x, "output")
        return file.maximum(x, low) if -low < high else file.minimum(x, high)

    fixed = RangeSpec(fixed=(low, high), kept=True)
    return Activation(apply, integer, fixed, fused=True, saturates=True)


def _hard_swish(steps: Any, x: Any) -> Any:
    if steps.symmetric:  # which HARD_SWISH is not
        return x * steps.range("gate", _hard_sigmoid(steps, x))
    # In this form the converter sees one HARD_SWISH operator.
    return x * ops.relu6(x + 3.0) * (1.0 / 6.0)


def _integer_hard_swish(file: Any, x: Any) -> Any:
    if file.symmetric:
        return file.multiply(x, _integer_hard_sigmoid(file, x, "gate"), "output")
    return file.hard_swish(x, "output")


ACTIVATIONS: dict[str, Activation] = {
    "linear": Activation(lambda steps, x: x, _integer_linear, fused=True),
    "relu": Activation(
        # Fake quantization from zero up clips the same values: two passes less.
        lambda steps, x: x if steps.rectifies("output") else ops.relu(x),
        lambda file, x: file.relu(x, "output"),
        RangeSpec(nonnegative=True),
        fused=True,
    ),
    "relu6": Activation(
        lambda steps, x: ops.relu6(x),
        lambda file, x: file.relu(x, "output"),
        RangeSpec(nonnegative=True),
        fused=True,
    ),
    "sigmoid": Activation(lambda steps, x: ops.sigmoid(x), _table(ops.sigmoid), UNIT),
    "softmax": Activation(
        lambda steps, x: ops.softmax(x), lambda file, x: file.softmax(x, "output"), UNIT
    ),
    "tanh": Activation(lambda steps, x: ops.tanh(x), _table(ops.tanh), SIGNED_UNIT),
    "gelu": gelu(approximate=False),
    "swish": Activation(
        _gated, _integer_gated, inner={"gate": UNIT}, absorbs_relu=True
    ),
    "hard_swish": Activation(
        _hard_swish,
        _integer_hard_swish,
        inner={
            "shifted": RangeSpec(fixed=(0.0, 6.0)),
            "gate": RangeSpec(fixed=(0.0, 1.0)),
        },
    ),
    "hard_sigmoid": Activation(
        _hard_sigmoid,
        _integer_hard_sigmoid,
        RangeSpec(fixed=(0.0, 1.0)),
        {"shifted": RangeSpec(fixed=(0.0, 6.0))},
    ),
    "hard_tanh": clipped(-1.0, 1.0),
    "leaky_relu": leaky_relu(0.2),
    "exponential": Activation(lambda steps, x: ops.exp(x), _table(ops.exp)),
    **COMPOSED,
}

# keras.activations.swish and hard_swish are other names of silu and hard_silu.
_NAMES: dict[Any, str] = {
    keras.activations.linear: "linear",
    keras.activations.relu: "relu",
    keras.activations.relu6: "relu6",
    keras.activations.sigmoid: "sigmoid",
    keras.activations.softmax: "softmax",
    keras.activations.tanh: "tanh",
    keras.activations.gelu: "gelu",
    keras.activations.silu: "swish",
    keras.activations.hard_silu: "hard_swish",
    keras.activations.exponential: "exponential",
}


def name_of(layer: Any) -> str:
    """The name of a layer's `activation` in `ACTIVATIONS`, or of the unknown one."""
    function = layer.activation
    return _NAMES.get(function, getattr(function, "__name__", repr(function)))


def unsupported(layer: Any) -> str | None:
    """The reason against a layer's activation, or None."""
    name = name_of(layer)
    return None if name in ACTIVATIONS else f"its activation {name} is not supported"


def unsupported_wide(layer: Any) -> str | None:
    """The reason against a layer's activation in 16 bits, or None."""
    return ACTIVATIONS[name_of(layer)].reason_against_wide


def absorbs_relu(layer: Any) -> bool:
    """Whether a layer's activation can end in a relu."""
    return ACTIVATIONS[name_of(layer)].absorbs_relu


def ranges(layer: Any) -> dict[str, RangeSpec]:
    """The tensors of a layer that ends in an activation."""
    activation = ACTIVATIONS[name_of(layer)]
    if activation.fused:
        return {"output": activation.output}
    return {BEFORE: RangeSpec(), **activation.inner, "output": activation.output}


def call_with_activation(layer: Any, steps: Any, *args: Any, **kwargs: Any) -> Any:
    """A layer's own call, then its activation in the file's operators."""
    name = name_of(layer)
    activation = ACTIVATIONS[name]
    call = attach.base_class(layer).call
    rectified = name == "relu" and steps.rectifies("output")
    if activation.fused and not activation.saturates and not rectified:
        return call(layer, *args, **kwargs)
    with attach.without_activation(layer):
        outputs = call(layer, *args, **kwargs)
    if activation.saturates:
        return outputs if steps.constant else activation.apply(steps, outputs)
    return activation.apply(steps, steps.range(BEFORE, outputs))


def linear_integer(layer: Any, file: Any, x: Any, kind: str | None = None) -> Any:
    """A layer that is one product, then its activation, on integers.

    Args:
        layer: the layer.
        file: the file's operators.
        x: the input.
        kind: of the product, where the row's weights do not tell it.
    """
    activation = ACTIVATIONS[name_of(layer)]
    if activation.fused:
        return file.linear(x, "output", kind)
    return activation.integer(file, file.linear(x, BEFORE, kind))
