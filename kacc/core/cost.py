"""What a Keras model costs: multiply-accumulates, parameters and bytes, by layer.

A multiply-accumulate (MAC) is one product in a convolution, a dense layer, a recurrent
cell or attention, for one sample, as compilers for NPUs and the literature count them:
biases, normalizations, activations and pooling are free.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

# Private: see kacc/support/activation.py.
from keras.src.ops import numpy as operators

from kacc.core import registry
from kacc.core.errors import UsageError
from kacc.core.graph import Call, Graph, Tensor, trace

Shape = Sequence[int | None]
layers = keras.layers

INPUTS, OUTPUTS = "inputs", "outputs"  # where the positions are counted

# The kernels of layers that apply one at each position of their input or output.
_KERNELS: dict[type, tuple[tuple[str, str], ...]] = {
    layers.Dense: (("kernel", OUTPUTS),),
    layers.Conv1D: (("kernel", OUTPUTS),),
    layers.Conv2D: (("kernel", OUTPUTS),),
    layers.Conv3D: (("kernel", OUTPUTS),),
    layers.Conv1DTranspose: (("kernel", INPUTS),),
    layers.Conv2DTranspose: (("kernel", INPUTS),),
    layers.Conv3DTranspose: (("kernel", INPUTS),),
    layers.DepthwiseConv1D: (("kernel", OUTPUTS),),
    layers.DepthwiseConv2D: (("kernel", OUTPUTS),),
    layers.SeparableConv1D: (
        ("depthwise_kernel", OUTPUTS),
        ("pointwise_kernel", OUTPUTS),
    ),
    layers.SeparableConv2D: (
        ("depthwise_kernel", OUTPUTS),
        ("pointwise_kernel", OUTPUTS),
    ),
}


@dataclass(frozen=True)
class Kernel:
    """A kernel whose every entry is multiplied `times` times for a sample."""

    attribute: str
    times: int


@dataclass(frozen=True)
class LayerCost:
    """What one layer or operator costs.

    Args:
        path: names from the root's child down, joined by "/".
        type: name of the class.
        macs: multiply-accumulates of all its calls for one sample; None if unknown.
        params: entries of its variables.
        bytes: their bytes.
    """

    path: str
    type: str
    macs: int | None
    params: int
    bytes: int


@dataclass(frozen=True)
class Cost:
    """What a model costs, layer by layer.

    Args:
        layers: in the order of their first call.
    """

    layers: tuple[LayerCost, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one sample, of the layers where they are known."""
        return sum(layer.macs or 0 for layer in self.layers)

    @property
    def params(self) -> int:
        """Entries of all variables, a shared layer's once."""
        return sum(layer.params for layer in self.layers)

    @property
    def bytes(self) -> int:
        """Bytes of all variables."""
        return sum(layer.bytes for layer in self.layers)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Paths of the layers with weights whose products kacc cannot count."""
        return tuple(layer.path for layer in self.layers if layer.macs is None)


def cost(model: keras.Model) -> Cost:
    """Counts multiply-accumulates, parameters and bytes of a model.

    Args:
        model: a built Keras 3 model. A dimension of free size counts as one.

    Returns:
        The `Cost`, of one sample.

    Raises:
        UsageError: for an unbuilt model, or one whose `call` cannot be traced.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> cost(model).macs, cost(model).params, cost(model).bytes
        (8, 10, 40)
    """
    return Cost(tuple(by_operation(trace(model)).values()))


def by_operation(graph: Graph) -> dict[int, LayerCost]:
    """What each operation of a graph costs, by its id, in the order of first calls."""
    calls: dict[int, list[Call]] = {}
    for call in graph.calls:
        calls.setdefault(id(call.operation), []).append(call)
    return {key: _layer_cost(group) for key, group in calls.items()}


def macs(model: keras.Model) -> int:
    """Multiply-accumulates of a model for one sample; see `cost`."""
    return cost(model).macs


def params(model: keras.Model) -> int:
    """Entries of a model's variables; see `cost`."""
    return cost(model).params


def bytes_of(model: keras.Model) -> int:
    """Bytes of a model's variables; see `cost`."""
    return cost(model).bytes


NAMED: dict[str, Callable[[keras.Model], int]] = {
    "macs": macs,
    "params": params,
    "bytes": bytes_of,
}


def cost_called(given: Any) -> Callable[[keras.Model], float]:
    """A cost by its name, or the callable itself.

    Raises:
        UsageError: for an unknown name.

    Example:
        >>> cost_called("macs").__name__
        'macs'
    """
    if callable(given):
        return given
    if given not in NAMED:
        raise UsageError(
            f"`cost` must be one of {sorted(NAMED)}, or a callable model -> float",
            received=given,
        )
    return NAMED[given]


def kernels_of(call: Call) -> tuple[Kernel, ...] | None:
    """The kernels that a call multiplies with, or None for a type that has no row."""
    if isinstance(call.operation, layers.EinsumDense):
        times = _einsum_dense(call) // _entries(call.operation, "kernel")
        return (Kernel("kernel", times),)
    if _along_mro(call.operation, _MACS) is not None:
        return None
    found = _along_mro(call.operation, _KERNELS)
    if found is None:
        spec = registry.find(call.operation)
        if spec is None:
            return None
        # Of types registered from outside the row of weights says enough.
        found = tuple((weight.attribute, OUTPUTS) for weight in spec.weights)
    return tuple(
        Kernel(attribute, positions(call, where)) for attribute, where in found
    )


def positions(call: Call, where: str = OUTPUTS) -> int:
    """At how many positions of its input or output a kernel is applied."""
    shape = (call.inputs if where == INPUTS else call.outputs)[0].shape
    return _size(shape[1:-1])


def macs_of(call: Call) -> int | None:
    """Multiply-accumulates of one call for one sample; None if they are unknown."""
    rule = _along_mro(call.operation, _MACS)
    if rule is not None:
        return rule(call)
    kernels = kernels_of(call)
    if kernels is not None:
        return sum(k.times * _entries(call.operation, k.attribute) for k in kernels)
    return None if any(len(v.shape) > 1 for v in variables(call.operation)) else 0


def variables(operation: Any) -> list[Any]:
    """The variables that hold numbers: not the state of random generators."""
    held = operation.variables if isinstance(operation, keras.Layer) else []
    return [v for v in held if "seed" not in v.path.rsplit("/", 1)[-1]]


def _layer_cost(calls: Sequence[Call]) -> LayerCost:
    operation = calls[0].operation
    counts = [macs_of(call) for call in calls]
    held = variables(operation)
    return LayerCost(
        path=calls[0].path,
        type=type(operation).__name__,
        macs=None if None in counts else sum(count or 0 for count in counts),
        params=sum(_size(v.shape) for v in held),
        bytes=sum(_size(v.shape) * itemsize(v) for v in held),
    )


def itemsize(variable: Any) -> int:
    """Bytes of one entry of a variable."""
    dtype = str(variable.dtype)
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def _along_mro(operation: Any, table: dict[type, Any]) -> Any:
    return next((table[c] for c in type(operation).__mro__ if c in table), None)


def _size(shape: Iterable[int | None]) -> int:
    return math.prod(1 if n is None else int(n) for n in shape)


def _entries(operation: Any, attribute: str) -> int:
    return _size(getattr(operation, attribute).shape)


# Types whose products are not those of a kernel at each position


def _einsum_dense(call: Call) -> int:
    equation = call.operation.equation.replace(" ", "")
    return _einsum(equation, [call.inputs[0].shape, call.operation.kernel.shape])


def _einsum(equation: str, shapes: Sequence[Shape]) -> int:
    """One product for each combination of all indices; the batch is of size one."""
    terms = equation.split("->")[0].split(",")
    sizes: dict[str, int] = {}
    rest = 1
    for term, shape in zip(terms, shapes, strict=True):
        head, dots, tail = term.partition("...")
        names = [*head, *[None] * (len(shape) - len(head) - len(tail)), *tail]
        hidden = [n for n, name in zip(shape, names, strict=True) if name is None]
        rest = max(rest, _size(hidden)) if dots else rest
        for size, name in zip(shape, names, strict=True):
            if name is not None:
                sizes[name] = max(sizes.get(name, 1), size or 1)
    return rest * math.prod(sizes.values())


def _einsum_operator(call: Call) -> int:
    operands = [x for x in call.args if hasattr(x, "shape")]  # constants too
    return _einsum(call.operation.subscripts, [x.shape for x in operands])


def _matmul(call: Call) -> int:
    operands = [x for x in call.args if hasattr(x, "shape")]
    inner = operands[0].shape[-1] or 1
    return _size(call.outputs[0].shape[1:]) * int(inner)


def _recurrent(call: Call) -> int:
    steps = call.inputs[0].shape[1] or 1
    return steps * sum(_size(v.shape) for v in _matrices(call.operation))


def _time_distributed(call: Call) -> int:
    """An inner layer's kernels at each step and position."""
    inner = call.operation.layer
    found = _along_mro(inner, _KERNELS) or ()
    shape = call.outputs[0].shape
    return sum(_size(shape[1:-1]) * _entries(inner, name) for name, _ in found)


def _attention(call: Call) -> int:
    """Vaswani et al. 2017, arXiv:1706.03762: projections, scores, weighted values."""
    layer = call.operation
    query, value, key = _query_value_key(call)
    lengths = {"query": query, "value": value, "key": key, "output": query}
    lengths["attention_output"] = query
    total = 0
    for variable in _matrices(layer):
        role = variable.path.split("/")[-2]
        total += lengths.get(role, query) * _size(variable.shape)
    heads = getattr(layer, "num_heads", None) or layer.num_query_heads
    widths = getattr(layer, "key_dim", None) or layer.head_dim
    value_width = getattr(layer, "value_dim", None) or widths
    return total + heads * query * key * (widths + value_width)


def _query_value_key(call: Call) -> tuple[int, int, int]:
    """Lengths of the three sequences; the key's is the value's where it is left out."""
    given = dict(zip(("query", "value", "key"), call.args, strict=False)) | call.kwargs
    query, value = given["query"], given["value"]
    key = given.get("key")
    lengths = [
        _size(x.shape[1:-1]) for x in (query, value, value if key is None else key)
    ]
    return lengths[0], lengths[1], lengths[2]


def _dot_attention(call: Call) -> int:
    """Attention and AdditiveAttention on query, value (and key), without heads."""
    tensors = [x for x in call.inputs if isinstance(x, Tensor)]
    query, value = tensors[0].shape, tensors[1].shape
    width = (query[-1] or 1) + (value[-1] or 1)
    return _size(query[1:-1]) * _size(value[1:-1]) * width


def _matrices(layer: Any) -> list[Any]:
    """Kernels; biases of attention and of GRU are of two dimensions too."""
    return [v for v in variables(layer) if v.path.endswith("kernel")]


_MACS: dict[type, Callable[[Call], int]] = {
    layers.EinsumDense: _einsum_dense,
    layers.Embedding: lambda call: 0,  # it looks rows up
    layers.PReLU: lambda call: 0,
    layers.SimpleRNN: _recurrent,
    layers.GRU: _recurrent,
    layers.LSTM: _recurrent,
    layers.Bidirectional: _recurrent,
    layers.TimeDistributed: _time_distributed,
    layers.MultiHeadAttention: _attention,
    layers.GroupQueryAttention: _attention,
    layers.Attention: _dot_attention,
    operators.Matmul: _matmul,
    operators.Einsum: _einsum_operator,
}
