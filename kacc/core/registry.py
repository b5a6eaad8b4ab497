"""What kacc knows of a layer type: one `LayerSpec` row for each, found along the MRO.

The rows live in `kacc/support`; code asks the spec and not `isinstance`. A type from
outside is added with `kacc.register_layer`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import keras

from kacc.core.errors import UsageError

# The tensor of a layer before its activation, where that is an operator of its own.
BEFORE = "pre_activation"

# The tensor of an activation of several operators that is the relu of its input.
RECTIFIED = "positive"

# The activations that other operators can end in.
RELUS = ("relu", "relu6")


class Output(Enum):
    """What the integer file does with the output of a layer."""

    RANGE = "range"  # a tensor with a range of its own
    SAME = "same"  # values are moved, not changed: the input's range serves
    ROUNDED = "rounded"  # new values in the input's range (average pooling)
    IDENTITY = "identity"  # nothing is left of the layer at inference (dropout)


@dataclass(frozen=True)
class Weight:
    """A weight that is quantized per channel.

    Args:
        attribute: the layer's attribute that holds the variable.
        channels: axes that keep a scale of their own, counted from the end.
        inputs: the axis that the products are summed over, of input channels, or None
            where there is none (depthwise kernels).
        least_bits: the narrowest integers that the file's operator takes.
        neighbours: the axis along which a pattern such as 2:4 groups weights, or None
            for `inputs`.
    """

    attribute: str
    channels: tuple[int, ...] = (-1,)
    inputs: int | None = -2
    least_bits: int = 8
    neighbours: int | None = None


@dataclass(frozen=True)
class RangeSpec:
    """A tensor that the file has for a layer.

    Args:
        fixed: the range that the values have by nature, (low, high), or None.
        kept: whether it is the operator's also where a concatenation reads the tensor,
            which has its own range otherwise.
        nonnegative: whether the lower end is zero by nature.
        symmetric: `fixed` where zero points are 0, or None for as much as it needs.
    """

    fixed: tuple[float, float] | None = None
    kept: bool = False
    nonnegative: bool = False
    symmetric: tuple[float, float] | None = None

    def prescribed(self, symmetric: bool) -> tuple[float, float] | None:
        """The fixed range, on grids with zero points of their own or without."""
        if self.fixed is None or not symmetric:
            return self.fixed
        largest = max(map(abs, self.fixed))
        return self.symmetric or (-largest, largest)


def _never(layer: Any) -> bool:
    return False


def _one_output(layer: Any) -> Mapping[str, RangeSpec]:
    return {"output": RangeSpec()}


@dataclass(frozen=True)
class LayerSpec:
    """One supported layer type.

    Args:
        type: the Keras layer or operator class.
        output: how the file treats the output.
        weights: the weights that become integers, the others follow the file's rules.
        tables: the weights whose rows are looked up. They have no scales of their own:
            the file keeps them on the grid of what is read from them.
        bias: attribute of the bias variable, or None.
        activation: layer -> name of the activation at its end (the names are in
            `kacc.support.activations`), or None for a type that cannot have one.
        absorbs_relu: whether the file's operator can end in a relu or relu6 at no cost.
        activation_absorbs_relu: the same of the operator that a layer's activation ends
            in, by layer.
        folds_batch_norm: whether a batch normalization that follows can be folded in,
            or another layer with an `affine`.
        copied_for_relu: whether the converter fuses a relu that reads the operator's
            result into a copy of it, even if others read the result too.
        joins_grids: whether the file gives the tensors that only this operator reads
            the range of its output, since it copies integers.
        requantizes: whether an operator inside reads the input by another range.
        sole_relu: whether the converter knows its operator by a relu inside, and only
            where no other relu reads that tensor too: it makes one of equal ones.
        squares: whether one of its operators multiplies the input by itself.
        reads_indices: whether the input is made of indices, which are not quantized.
        affine: layer -> (factor, offset) of each channel, for a layer that at inference
            is no more than that and folds into a convolution before it.
        ranges: layer -> the tensors that the file has for it: "output", and those
            between its operators, by name.
        call: a forward pass in the file's operators, `call(layer, steps, *inputs)`,
            with `steps.range(name, x)` where the file has a tensor; by default the
            layer's own `call`.
        integer: the same on integers, `integer(layer, file, *inputs)` with the file's
            operators as methods of `file` (see `kacc.quantization.operators`); not
            needed where the output is not a range of its own.
        variant: layer -> the row that holds for this very configuration in the place of
            this one, or None.
        supported: layer -> the reason why this very configuration is not supported.
        supported_wide: layer -> the reason why it cannot have 16 bit activations.
        examples: configurations that the conformance suite tries: functions
            without arguments that return (layer, input shapes without the batch).
    """

    type: type
    output: Output = Output.RANGE
    weights: tuple[Weight, ...] = ()
    tables: tuple[Weight, ...] = ()
    bias: str | None = None
    activation: Callable[[Any], str] | None = None
    absorbs_relu: bool = False
    activation_absorbs_relu: Callable[[Any], bool] = _never
    folds_batch_norm: bool = False
    copied_for_relu: bool = False
    joins_grids: bool = False
    requantizes: bool = False
    sole_relu: bool = False
    squares: bool = False
    reads_indices: bool = False
    affine: Callable[[Any], tuple[Any, Any]] | None = None
    ranges: Callable[[Any], Mapping[str, RangeSpec]] = _one_output
    call: Callable[..., Any] | None = None
    integer: Callable[..., Any] | None = None
    variant: Callable[[Any], LayerSpec | None] | None = None
    supported: Callable[[Any], str | None] | None = None
    supported_wide: Callable[[Any], str | None] | None = None
    examples: tuple[Callable[[], tuple[Any, list[tuple[int, ...]]]], ...] = field(
        default=(), repr=False
    )


_SPECS: dict[type, LayerSpec] = {}


def register(specs: Iterable[LayerSpec]) -> None:
    """Adds rows to the registry; a later row for the same type replaces the earlier."""
    for spec in specs:
        if not isinstance(spec, LayerSpec):
            raise UsageError(
                "A registry row must be a kacc.LayerSpec",
                received=spec,
                fix="Pass kacc.LayerSpec(type=YourLayer, ...)",
            )
        _SPECS[spec.type] = spec


def registered() -> tuple[LayerSpec, ...]:
    """All rows, in the order of their registration."""
    return tuple(_SPECS.values())


def find(operation: Any) -> LayerSpec | None:
    """The row for a layer or operator, looked up along its class's MRO."""
    for base in type(operation).__mro__:
        if base in _SPECS:
            spec = _SPECS[base]
            return (spec.variant and spec.variant(operation)) or spec
    return None


def matrix_weights(operation: Any) -> Iterator[tuple[Weight, Any]]:
    """The float weights of a built layer that are summed over input channels.

    They are what pruning and clustering work on: depthwise kernels and slopes are few,
    and each of them counts (as tfmot, and Elsen et al. 2020, arXiv:1911.09723). Tables
    are of them: a row that is looked up is the product with a one-hot vector.

    Args:
        operation: a layer or operator.

    Yields:
        Each weight's row, and its variable.
    """
    spec = find(operation)
    if spec is None or not isinstance(operation, keras.Layer) or not operation.built:
        return
    for weight in spec.weights:
        if weight.inputs is not None and _is_float(operation, weight):
            yield weight, getattr(operation, weight.attribute)
    yield from tables(operation)


def tables(operation: Any) -> Iterator[tuple[Weight, Any]]:
    """The float weights of a built layer whose rows are looked up.

    Args:
        operation: a layer or operator.

    Yields:
        Each weight's row, and its variable; none for a table that is quantized by Keras
        or is a sum (LoRA).
    """
    spec = find(operation)
    for weight in spec.tables if spec is not None else ():
        if operation.built and _is_float(operation, weight):
            yield weight, getattr(operation, weight.attribute)


def _is_float(layer: Any, weight: Weight) -> bool:
    variable = getattr(layer, weight.attribute, None)
    return isinstance(variable, keras.Variable) and "float" in variable.dtype


def unsupported_reason(operation: Any) -> str | None:
    """Why a layer or operator stays in float, or None if it is supported."""
    spec = find(operation)
    if spec is None:
        return f"{type(operation).__name__} is not in kacc's registry"
    changed = overriding_class(type(operation), spec.type)
    if changed is not None:
        return f"its class {changed.__name__} overrides `call` of {spec.type.__name__}"
    return spec.supported(operation) if spec.supported else None


def lacks_wide(operation: Any) -> str | None:
    """Why a supported layer or operator cannot have 16 bit activations, or None."""
    spec = find(operation)
    if spec is None or spec.supported_wide is None:
        return None
    return spec.supported_wide(operation)


def overriding_class(cls: type, known: type) -> type | None:
    """The class between `cls` and `known` that computes something of its own.

    A class that sets `kacc_equivalent = True` computes what its parent does, only
    differently (a fused kernel, an attached transform).
    """
    for base in cls.__mro__:
        if base is known:
            return None
        if "call" in vars(base) and not vars(base).get("kacc_equivalent", False):
            return base
    return None
