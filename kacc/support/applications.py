"""Layers that Keras defines for some of its ready-made models only."""

from __future__ import annotations

from typing import Any

from keras import ops

# Private: Keras exports the models and not their layers.
# tests/core/test_keras_private.py watches the names.
from keras.src.applications.convnext import LayerScale, StochasticDepth
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer

from kacc.core import attach
from kacc.core.registry import LayerSpec, Output, RangeSpec
from kacc.core.transform import is_training
from kacc.support.channels import scaled_channels


def _factor(layer: Any) -> tuple[Any, Any]:
    """Touvron et al. 2021, arXiv:2103.17239."""
    gamma = ops.cast(layer.gamma, "float32")
    return gamma, ops.zeros_like(gamma)


def _scale(layer: Any, steps: Any, inputs: Any) -> Any:
    if is_training():
        return attach.own_call(layer, steps, inputs)
    return ops.cast(scaled_channels(inputs, *_factor(layer)), inputs.dtype)


def _integer_scale(layer: Any, file: Any, x: Any) -> Any:
    return file.scale_channels(x, *_factor(layer), "output")


def _add_scaled(layer: Any, steps: Any, inputs: Any) -> Any:
    return inputs[0] + steps.range("scaled", inputs[1] * layer.scale)


def _integer_add_scaled(layer: Any, file: Any, inputs: Any) -> Any:
    scaled = file.multiply(inputs[1], file.constant(layer.scale), "scaled")
    return file.add(inputs[0], scaled, "output")


_SHAPE = (6, 6, 3)

SPECS = [
    LayerSpec(
        LayerScale,
        affine=_factor,
        absorbs_relu=True,
        call=_scale,
        integer=_integer_scale,
        examples=(lambda: (LayerScale(0.1, 3), [_SHAPE]),),
    ),
    LayerSpec(
        StochasticDepth,
        output=Output.IDENTITY,
        examples=(lambda: (StochasticDepth(0.1), [_SHAPE]),),
    ),
    LayerSpec(
        CustomScaleLayer,
        absorbs_relu=True,
        ranges=lambda layer: {"scaled": RangeSpec(), "output": RangeSpec()},
        call=_add_scaled,
        integer=_integer_add_scaled,
        examples=(lambda: (CustomScaleLayer(0.2), [_SHAPE, _SHAPE]),),
    ),
]
