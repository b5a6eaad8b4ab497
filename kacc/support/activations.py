"""Activation functions as the integer file has them: operators, and ranges between.

An activation that the file's convolution can end in ("fused") needs no range of its
own. The others become operators, with the tensors named here between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
from keras import ops

from kacc.core import attach
from kacc.core.registry import RangeSpec

# The TFLite specification fixes the output of LOGISTIC and SOFTMAX at scale 1/256,
# zero point -128: https://ai.google.dev/edge/litert/conversion/tensorflow/quantization
UNIT = RangeSpec(fixed=(0.0, 255 / 256))
# And that of TANH at scale 1/128, zero point 0.
SIGNED_UNIT = RangeSpec(fixed=(-1.0, 127 / 128))
BEFORE = "pre_activation"


@dataclass(frozen=True)
class Activation:
    """How the file computes an activation.

    Args:
        apply: `apply(steps, x)`, passing the tensors between through `steps.range`.
        integer: `integer(file, x)`, with the file's operators as methods of `file`.
        output: the tensor at its end.
        inner: the tensors between its operators.
        fused: whether it costs nothing at the end of a convolution.
    """

    apply: Callable[[Any, Any], Any]
    integer: Callable[[Any, Any], Any]
    output: RangeSpec = field(default_factory=RangeSpec)
    inner: Mapping[str, RangeSpec] = field(default_factory=dict)
    fused: bool = False


def _gated(steps: Any, x: Any) -> Any:
    return x * steps.range("gate", ops.sigmoid(x))


def _integer_gated(file: Any, x: Any) -> Any:
    return file.multiply(x, file.table(x, ops.sigmoid, "gate"), "output")


def _table(function: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda file, x: file.table(x, function, "output")


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
    "gelu": Activation(
        lambda steps, x: ops.gelu(x, approximate=False),
        _table(lambda x: ops.gelu(x, approximate=False)),
    ),
    "swish": Activation(_gated, _integer_gated, inner={"gate": UNIT}),
    "hard_swish": Activation(_hard_swish, lambda file, x: file.hard_swish(x, "output")),
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
    if activation.fused and not (name == "relu" and steps.rectifies("output")):
        return call(layer, *args, **kwargs)
    with attach.without_activation(layer):
        outputs = call(layer, *args, **kwargs)
    return activation.apply(steps, steps.range(BEFORE, outputs))


def linear_integer(layer: Any, file: Any, x: Any) -> Any:
    """A layer that is one product, then its activation, on integers."""
    activation = ACTIVATIONS[name_of(layer)]
    if activation.fused:
        return file.linear(x, "output")
    return activation.integer(file, file.linear(x, BEFORE))
