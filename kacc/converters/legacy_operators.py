"""TensorFlow functions in the graph of a tf_keras model, as `keras.ops`.

tf_keras makes a layer of each function that is called on its symbolic tensors. The
functions here take the arguments that TensorFlow's take, as far as `keras.ops` can.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kacc.converters.legacy_layers import NoLikeError

# TensorFlow's name -> that of keras.ops, and TensorFlow's parameters in their order; of
# one that has another name in keras.ops, both stand with ">" between.
_SAME = {
    "__operators__.add": "add x>x1 y>x2",
    "abs": "abs x",
    "broadcast_to": "broadcast_to input>x shape",
    "clip_by_value": "clip t>x clip_value_min>x_min clip_value_max>x_max",
    "concat": "concatenate values>xs axis",
    "exp": "exp x",
    "expand_dims": "expand_dims input>x axis",
    "linalg.matmul": "matmul a>x1 b>x2",
    "math.abs": "abs x",
    "math.add": "add x>x1 y>x2",
    "math.cos": "cos x",
    "math.cumsum": "cumsum x axis",
    "math.divide": "divide x>x1 y>x2",
    "math.erf": "erf x",
    "math.exp": "exp x",
    "math.floor": "floor x",
    "math.log": "log x",
    "math.maximum": "maximum x>x1 y>x2",
    "math.minimum": "minimum x>x1 y>x2",
    "math.multiply": "multiply x>x1 y>x2",
    "math.negative": "negative x",
    "math.pow": "power x>x1 y>x2",
    "math.reciprocal": "reciprocal x",
    "math.reduce_max": "max input_tensor>x axis keepdims",
    "math.reduce_mean": "mean input_tensor>x axis keepdims",
    "math.reduce_min": "min input_tensor>x axis keepdims",
    "math.reduce_prod": "prod input_tensor>x axis keepdims",
    "math.reduce_std": "std input_tensor>x axis keepdims",
    "math.reduce_sum": "sum input_tensor>x axis keepdims",
    "math.reduce_variance": "var input_tensor>x axis keepdims",
    "math.round": "round x",
    "math.rsqrt": "rsqrt x",
    "math.sigmoid": "sigmoid x",
    "math.sign": "sign x",
    "math.sin": "sin x",
    "math.softplus": "softplus features>x",
    "math.sqrt": "sqrt x",
    "math.square": "square x",
    "math.subtract": "subtract x>x1 y>x2",
    "math.tanh": "tanh x",
    "math.truediv": "divide x>x1 y>x2",
    "nn.elu": "elu features>x",
    "nn.gelu": "gelu features>x approximate",
    "nn.leaky_relu": "leaky_relu features>x alpha>negative_slope",
    "nn.log_softmax": "log_softmax logits>x axis",
    "nn.relu": "relu features>x",
    "nn.relu6": "relu6 features>x",
    "nn.selu": "selu features>x",
    "nn.sigmoid": "sigmoid x",
    "nn.silu": "silu features>x",
    "nn.softmax": "softmax logits>x axis",
    "nn.softplus": "softplus features>x",
    "nn.softsign": "softsign features>x",
    "nn.tanh": "tanh x",
    "repeat": "repeat input>x repeats axis",
    "reshape": "reshape tensor>x shape>newshape",
    "reverse": "flip tensor>x axis",
    "squeeze": "squeeze input>x axis",
    "stack": "stack values>x axis",
    "stop_gradient": "stop_gradient input>variable",
    "tile": "tile input>x multiples>repeats",
    "transpose": "transpose a>x perm>axes",
    "where": "where condition x>x1 y>x2",
}
# What TensorFlow does where the argument is left out, and keras.ops otherwise.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "math.cumsum": {"axis": 0},
    "nn.gelu": {"approximate": False},
    "stack": {"axis": 0},
}


def operator_named(function: str) -> Callable[..., Any] | None:
    """What computes a TensorFlow function on tensors of Keras 3, or None.

    Args:
        function: as tf_keras calls it, such as "math.add" or "nn.relu".

    Example:
        >>> operator_named("math.add")(1.0, 2.0).numpy().item()
        3.0
        >>> operator_named("linalg.inv") is None
        True
    """
    name = function.removeprefix("compat.v1.")
    if name in _SPECIAL:
        return _SPECIAL[name]
    if name not in _SAME:
        return None
    return lambda *args, **kwargs: _call(name, args, kwargs)


def _call(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    from keras import ops

    operator, *parameters = _SAME[name].split()
    names = dict(_split(parameter) for parameter in parameters)
    given = dict(zip(names, args, strict=False))
    given |= {key: value for key, value in kwargs.items() if key != "name"}
    surplus = [value for key, value in given.items() if key not in names and value]
    surplus += [value for value in args[len(names) :] if value]
    if surplus:
        raise NoLikeError(f"operator tf.{name} with {surplus}")
    given = _DEFAULTS.get(name, {}) | given
    settings = {names[key]: value for key, value in given.items() if key in names}
    return getattr(ops, operator)(**settings)


def _split(parameter: str) -> tuple[str, str]:
    here, _, there = parameter.partition(">")
    return here, there or here


def _getitem(tensor: Any, slice_spec: Any, var: Any = None, name: str = "") -> Any:
    return tensor[_sliced(slice_spec)]


def _sliced(spec: Any) -> Any:
    """tf_keras keeps slices as dictionaries."""
    if isinstance(spec, tuple | list):
        return tuple(_sliced(part) for part in spec)
    if isinstance(spec, dict):
        return slice(spec["start"], spec["stop"], spec["step"])
    return spec


def _argmax(
    input: Any,
    axis: int | None = None,
    output_type: Any = None,
    name: str | None = None,
) -> Any:
    from keras import ops

    found = ops.argmax(input, axis=0 if axis is None else axis)
    return ops.cast(found, getattr(output_type, "name", "int64"))


def _pad(
    tensor: Any,
    paddings: Any,
    mode: str = "CONSTANT",
    constant_values: Any = None,
    name: str | None = None,
) -> Any:
    from keras import ops

    if constant_values:  # keras.ops.pad drops it on symbolic tensors
        raise NoLikeError(f"operator tf.pad with constant_values={constant_values}")
    return ops.pad(tensor, paddings, mode.lower())


def _cast(x: Any, dtype: Any, name: str | None = None) -> Any:
    from keras import ops

    return ops.cast(x, getattr(dtype, "name", dtype))


def _split_up(
    value: Any, num_or_size_splits: Any, axis: int = 0, name: str | None = None
) -> Any:
    """TensorFlow takes the sizes of the parts, Keras the places of the cuts."""
    import numpy as np
    from keras import ops

    cuts = num_or_size_splits
    if not isinstance(cuts, int):
        cuts = [int(cut) for cut in np.cumsum(cuts)[:-1]]
    return ops.split(value, cuts, axis=axis)


def _identity(input: Any, name: str | None = None) -> Any:
    return input


_SPECIAL: dict[str, Callable[..., Any]] = {
    "__operators__.getitem": _getitem,
    "argmax": _argmax,
    "math.argmax": _argmax,
    "pad": _pad,
    "cast": _cast,
    "convert_to_tensor": lambda value, dtype=None, **rest: value,
    "identity": _identity,
    "split": _split_up,
}
