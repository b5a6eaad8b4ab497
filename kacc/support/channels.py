"""A factor and an offset for each channel, as the integer file computes them."""

from __future__ import annotations

from typing import Any

from keras import ops

# Which axes a tensor of that rank lacks as an image.
_MISSING = {2: (1, 2), 3: (2,), 4: ()}


def scaled_channels(inputs: Any, factor: Any, offset: Any) -> Any:
    """A 1x1 DEPTHWISE_CONV_2D of the tensor as images.

    A MUL and an ADD would need a tensor and its range between them, and a multiplier
    for all channels. Here each channel has a scale of its own: nothing is lost.

    Args:
        inputs: channels last.
        factor: one entry for each channel, or one for all.
        offset: the same, or None.

    Returns:
        A tensor of the inputs' shape and the factor's dtype.
    """
    if len(inputs.shape) > 4:
        pixels = ops.reshape(inputs, (-1, inputs.shape[-1]))
        outputs = scaled_channels(pixels, factor, offset)
        return ops.reshape(outputs, (-1, *inputs.shape[1:]))
    missing = _MISSING[len(inputs.shape)]
    image = ops.cast(inputs, factor.dtype)  # as Keras, of bfloat16 models too
    for axis in missing:
        image = ops.expand_dims(image, axis if len(missing) == 1 else 1)
    kernel = ops.reshape(ops.broadcast_to(factor, inputs.shape[-1:]), (1, 1, -1, 1))
    image = ops.depthwise_conv(image, kernel, data_format="channels_last")
    if offset is not None:
        image = image + offset
    return ops.squeeze(image, missing) if missing else image
