"""Batch normalizations: folded into the layers around them, or put behind layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kacc.core import registry
from kacc.core.attach import base_class
from kacc.core.fold import batch_norm_affine, fold_into_kernel
from kacc.core.graph import Call
from kacc.core.remake import plain_config, remade
from kacc.core.samples import run
from kacc.restructuring.config import FoldNormalization, InsertBatchNormalization
from kacc.restructuring.report import LayerReport
from kacc.restructuring.steps import Change, Outcome, Source, replaced

layers = keras.layers

_NORMALIZATIONS = (
    *(layers.BatchNormalization, layers.LayerNormalization),
    *(layers.GroupNormalization, layers.UnitNormalization),
)


# Folding


class _Folded:
    """The weights of a layer while normalizations are folded into them."""

    def __init__(self, layer: Any) -> None:
        spec = registry.find(layer)
        assert spec is not None
        self.layer = layer
        self.names = [weight.attribute for weight in spec.weights]
        self.channels = spec.weights[-1].channels
        self.kernels = [array(getattr(layer, name)) for name in self.names]
        axes = self.channels
        self.outputs = math.prod(self.kernels[-1].shape[axis] for axis in axes)
        has_bias = getattr(layer, "bias", None) is not None
        self.bias = array(layer.bias) if has_bias else np.zeros(self.outputs)
        self.taken: list[str] = []

    def after(self, factor: np.ndarray, offset: np.ndarray) -> None:
        """Folds what is done to the outputs."""
        folded = fold_into_kernel(self.kernels[-1], self.channels, factor)
        self.kernels[-1] = np.asarray(folded)
        self.bias = self.bias * factor + offset

    def before(self, factor: np.ndarray, offset: np.ndarray) -> None:
        """Folds what is done to the inputs, which are not padded."""
        kernel = self.kernels[0]
        self.bias = self.bias + self._response(kernel, offset)
        self.kernels[0] = kernel * factor[:, None]

    def _response(self, kernel: np.ndarray, offset: np.ndarray) -> np.ndarray:
        """What constant inputs make of the outputs."""
        weighed = kernel * offset[:, None]
        taps = tuple(range(kernel.ndim - 2))
        if self.channels == (-2, -1):
            return np.asarray(weighed.sum(axis=taps).reshape(-1))
        return np.asarray(weighed.sum(axis=(*taps, -2)))

    def change(self, path: str) -> Change:
        """The layer with its new weights."""
        config = plain_config(self.layer)
        if isinstance(self.layer, layers.EinsumDense):
            config["bias_axes"] = config["equation"].replace(" ", "")[-1]
        else:
            config["use_bias"] = True
        new = remade(self.layer, config, path)
        done = f"takes in {', '.join(self.taken)}"
        return Change((new,), done, ([*self.kernels, self.bias],))


def fold(config: FoldNormalization, source: Source) -> Outcome:
    """Folds batch normalizations, until none is left that can be."""
    rows: list[LayerReport] = []
    while True:
        outcome = _fold_once(type(config).__name__, source)
        if outcome.model is source.model:
            return Outcome(source.model, (*rows, *outcome.layers))
        rows += [row for row in outcome.layers if row.done]
        source = Source(outcome.model, source.skipped)


def _fold_once(option: str, source: Source) -> Outcome:
    changes: dict[int, Change] = {}
    reasons: dict[int, str] = {}
    folded: dict[int, _Folded] = {}
    for key, calls in source.calls.items():
        if not _is_batch_norm(calls[0].operation):
            continue
        found = _neighbour(source, calls)
        if isinstance(found, str):
            reasons[key] = found
            continue
        layer, is_before = found
        # A normalization behind another one waits for it.
        state = folded.setdefault(id(layer), _Folded(layer))
        affine = [np.asarray(x, np.float64) for x in _affine(calls[0].operation)]
        (state.after if is_before else state.before)(*affine)
        state.taken.append(calls[0].path)
        path = source.calls[id(layer)][0].path
        changes[key] = Change((), f"folded into {path}", ())
    for key, state in folded.items():
        changes[key] = state.change(source.calls[key][0].path)
    return replaced(option, source, changes, reasons)


def _is_batch_norm(operation: Any) -> bool:
    """Whether it computes what Keras's layer does, be it by a faster kernel."""
    known = layers.BatchNormalization
    if not isinstance(operation, known):
        return False
    return registry.overriding_class(type(operation), known) is None


def _affine(layer: Any) -> tuple[Any, Any]:
    factor, offset = batch_norm_affine(layer)
    return array(factor), array(offset)


def _neighbour(source: Source, calls: Sequence[Call]) -> tuple[Any, bool] | str:
    """The layer to fold into and whether it stands before, or why there is none."""
    if source.is_skipped(calls):
        return "a rule skips it"
    norm = calls[0].operation
    axis, rank = norm.axis, len(calls[0].inputs[0].shape)
    if axis not in (-1, rank - 1):
        return "it does not normalize the last axis"
    before = _only(source, calls, [source.producers.get(c.inputs[0]) for c in calls])
    reason = "no layer with a kernel stands beside it alone"
    if before is not None and _is_alone(source, [c.inputs[0] for c in calls]):
        reason = _reason_before(source, before) or ""
        if not reason:
            return before, True
    readers = [source.consumers.get(c.outputs[0], []) for c in calls]
    behind = _only(source, calls, [r[0][0] if len(r) == 1 else None for r in readers])
    if behind is not None and _is_alone(source, [c.outputs[0] for c in calls]):
        found = _reason_behind(source, behind, norm)
        if found is None:
            return behind, False
        reason = found if before is None or not reason else reason
    return reason


def _only(source: Source, calls: Sequence[Call], others: Sequence[Any]) -> Any:
    """The layer whose calls are exactly those beside a normalization's, or None."""
    operations = {id(other.operation) for other in others if other is not None}
    if None in others or len(operations) != 1 or len(set(others)) != len(calls):
        return None
    layer = others[0].operation
    if len(source.calls[id(layer)]) != len(calls):
        return None
    spec = registry.find(layer)
    return layer if spec is not None and spec.folds_batch_norm else None


def _is_alone(source: Source, tensors: Sequence[Any]) -> bool:
    """Whether each tensor is read once, and is no output."""
    return all(
        len(source.consumers.get(tensor, ())) == 1 and tensor not in source.outputs
        for tensor in tensors
    )


def _reason(source: Source, layer: Any) -> str | None:
    """Why nothing can be folded into a layer on either side, or None."""
    calls = source.calls[id(layer)]
    name = calls[0].path
    spec = registry.find(layer)
    unsupported = spec.supported(layer) if spec and spec.supported else None
    if source.is_skipped(calls):
        return f"a rule skips {name}"
    if base_class(layer) is not getattr(spec, "type", None):
        return f"the type of {name} may do anything with its kernel"
    if unsupported is not None and "activation" not in unsupported:
        return f"{name}: {unsupported}"
    if getattr(layer, "quantization_mode", None) or getattr(
        layer, "lora_enabled", False
    ):
        return f"Keras has quantized {name} or given it a LoRA"
    if any(
        getattr(layer, f"{prefix}_constraint", None) is not None
        for prefix in ("kernel", "depthwise", "pointwise", "bias")
    ):
        return f"a constraint of {name} would not hold"
    return None


def _reason_before(source: Source, layer: Any) -> str | None:
    if layer.activation is not keras.activations.linear:
        path = source.calls[id(layer)][0].path
        return f"there is an activation between it and {path}"
    return _reason(source, layer)


def _reason_behind(source: Source, layer: Any, norm: Any) -> str | None:
    path = source.calls[id(layer)][0].path
    kinds = (layers.Dense, layers.Conv1D, layers.Conv2D)
    depthwise = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
    if base_class(layer) not in (*kinds, *depthwise):
        return f"{path} behind it has no kernel that a factor of inputs goes into"
    if getattr(layer, "groups", 1) != 1:
        return f"{path} behind it is grouped"
    padded = getattr(layer, "padding", "valid") != "valid"
    if padded and math.prod(layer.kernel_size) > 1 and np.any(_affine(norm)[1]):
        return f"{path} behind it pads with zeros"
    return _reason(source, layer)


# Inserting


def insert(config: InsertBatchNormalization, source: Source) -> Outcome:
    """Puts identities that can learn behind layers without a normalization."""
    targets: dict[int, Sequence[Call]] = {}
    reasons: dict[int, str] = {}
    for key, calls in source.calls.items():
        spec = registry.find(calls[0].operation)
        if spec is None or not spec.folds_batch_norm:
            continue
        reason = _reason_against(source, calls)
        if reason is None:
            targets[key] = calls
        else:
            reasons[key] = reason
    statistics = _statistics(source, targets) if source.batches else {}
    changes = {
        key: _with_norm(config, source, calls[0], statistics.get(key))
        for key, calls in targets.items()
    }
    return replaced(type(config).__name__, source, changes, reasons)


def _reason_against(source: Source, calls: Sequence[Call]) -> str | None:
    layer = calls[0].operation
    if source.is_skipped(calls):
        return "a rule skips it"
    if base_class(layer).__module__.partition(".")[0] != "keras":
        return "it is no layer of Keras's own"
    if isinstance(layer.activation, keras.Layer):
        return "its activation is a layer"
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return "its channels come first"
    if getattr(layer, "bias_constraint", None) is not None:
        return "the constraint of its bias would not hold"
    if isinstance(layer, layers.EinsumDense) and _reason(source, layer):
        return "its bias is not one for each channel"
    outputs = [tensor for call in calls for tensor in call.outputs]
    if layer.activation is keras.activations.linear and all(
        _is_normalized(source, tensor) for tensor in outputs
    ):
        return "a normalization follows"
    if any(_reaches_output(source, tensor) for tensor in outputs):
        return "it makes an output of the model"
    return None


def _is_normalized(source: Source, tensor: Any) -> bool:
    readers = source.consumers.get(tensor, ())
    return bool(readers) and all(
        isinstance(call.operation, _NORMALIZATIONS) for call, _ in readers
    )


def _reaches_output(source: Source, tensor: Any) -> bool:
    """Whether no other layer with weights stands between a tensor and an output."""
    waiting, seen = [tensor], set()
    while waiting:
        tensor = waiting.pop()
        if tensor in source.outputs:
            return True
        if tensor in seen:
            continue
        seen.add(tensor)
        for call, _ in source.consumers.get(tensor, ()):
            if not getattr(call.operation, "weights", ()):
                waiting += call.outputs
    return False


def _with_norm(
    config: InsertBatchNormalization, source: Source, call: Call, found: Any
) -> Change:
    layer = call.operation
    settings = plain_config(layer) | {"activation": "linear"}
    settings |= {"activity_regularizer": None}
    bare = "bias_axes" if isinstance(layer, layers.EinsumDense) else "use_bias"
    settings[bare] = None if bare == "bias_axes" else False
    kernels = [array(v) for v in layer.weights if v is not layer.bias]
    width = call.outputs[0].shape[-1] or 0
    mean, variance = found if found else (np.zeros(width), np.ones(width))
    bias = np.zeros(width) if layer.bias is None else array(layer.bias)
    # Of outputs without the bias; of samples those that were measured hold it.
    moving = mean - bias if found else mean
    beta = moving + bias
    norm = layers.BatchNormalization(
        momentum=config.momentum,
        epsilon=config.epsilon,
        dtype=layer.dtype_policy,
        trainable=layer.trainable,
        name=source.new_name(f"{layer.name}_norm"),
    )
    gamma = np.sqrt(variance + config.epsilon)
    made = [remade(layer, settings, call.path), norm]
    weights: list[Any] = [kernels, [gamma, beta, moving, variance]]
    if layer.activation is not keras.activations.linear:
        made.append(_activation(source, layer))
        weights.append(None)
    return Change(tuple(made), "a batch normalization behind it", tuple(weights))


def _activation(source: Source, layer: Any) -> Any:
    return layers.Activation(
        layer.activation,
        activity_regularizer=layer.activity_regularizer,
        dtype=layer.dtype_policy,
        name=source.new_name(f"{layer.name}_activation"),
    )


def _statistics(
    source: Source, targets: Mapping[int, Sequence[Call]]
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Mean and variance of each channel before the activation."""
    sums: dict[int, list[Any]] = {key: [0, 0.0, 0.0] for key in targets}

    def apply(call: Call, args: Any, kwargs: Any) -> Any:
        key = id(call.operation)
        if key not in sums:
            return None
        layer = call.operation
        activation = layer.activation
        layer.activation = keras.activations.linear  # for this one call
        try:
            result = run(layer, args, kwargs)
        finally:
            layer.activation = activation
        values = np.asarray(keras.ops.convert_to_numpy(result), np.float64)
        values = values.reshape(-1, values.shape[-1])
        total = sums[key]
        total[0] += len(values)
        total[1] = total[1] + values.sum(axis=0)
        total[2] = total[2] + (values**2).sum(axis=0)
        return layer.activation(result)

    source.run(apply)
    result = {}
    for key, (count, total, squares) in sums.items():
        mean = total / count
        result[key] = mean, np.maximum(squares / count - mean**2, 0.0)
    return result


def array(variable: Any) -> np.ndarray:
    """A variable or tensor as numbers of float64."""
    value = keras.ops.convert_to_numpy(variable)
    return np.asarray(value, np.float64)
