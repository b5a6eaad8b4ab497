"""Activation functions as the integer file has them: operators, and ranges between.

An activation that the file's convolution can end in ("fused") needs no range of its
own. The others become operators, with the tensors named here between them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from kacc.core import attach
from kacc.core.registry import RangeSpec
from kacc.support.composed import COMPOSED
from kacc.support.pointwise import SIGNED_UNIT, UNIT, Activation

BEFORE = "pre_activation"


def _gated(steps: Any, x: Any) -> Any:
    return x * steps.range("gate", ops.sigmoid(x))


def _integer_gated(file: Any, x: Any) -> Any:
    return file.multiply(x, file.table(x, ops.sigmoid, "gate"), "output")


def _table(function: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda file, x: file.table(x, function, "output")


def _hard_sigmoid(steps: Any, x: Any) -> Any:
    return steps.range("shifted", ops.relu6(x + 3.0)) * (1.0 / 6.0)


def _integer_hard_sigmoid(file: Any, x: Any) -> Any:
    shifted = file.add(x, file.constant(3.0), "shifted")
    return file.multiply(shifted, file.constant(1.0 / 6.0), "output")


def gelu(approximate: bool) -> Activation:
    """The gelu by the error function, or by its approximation with tanh."""

    def function(x: Any) -> Any:
        return ops.gelu(x, approximate=approximate)

    return Activation(lambda steps, x: function(x), _table(function))


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

    The MINIMUM behind it changes nothing, but without an operator that has the range
    the converter drops it.
    """
    return Activation(
        lambda steps, x: (
            ops.minimum(x, high) if steps.constant else ops.clip(x, low, high)
        ),
        lambda file, x: file.requantize(x, "output"),
        RangeSpec(fixed=(low, high)),
        fused=True,
        saturates=True,
    )


def _hard_swish(steps: Any, x: Any) -> Any:
    # In this form the converter sees one HARD_SWISH operator.
    return x * ops.relu6(x + 3.0) * (1.0 / 6.0)


ACTIVATIONS: dict[str, Activation] = {
    "linear": Activation(lambda steps, x: x, _table(lambda x: x), fused=True),
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
    "swish": Activation(_gated, _integer_gated, inner={"gate": UNIT}),
    "hard_swish": Activation(_hard_swish, lambda file, x: file.hard_swish(x, "output")),
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
