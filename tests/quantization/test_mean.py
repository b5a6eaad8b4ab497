"""MEAN of XNNPACK where rounding decides: values halfway between two integers."""

import keras
import numpy as np
import pytest
from keras import layers

import kacc
from kacc.converters.parity import simulated_outputs
from kacc.converters.samples import Samples
from kacc.quantization.transform import quantize_of


def images_with_means_near_halves(info_in, info_out, size):
    """Images on their grid, whose means fall between two integers of the output."""
    count = size * size
    halves = np.arange(-128, 127) + 0.5 - info_out.zero_point
    ratio = info_in.scale / info_out.scale / count
    totals = np.floor(halves / ratio)[:, None] + np.arange(-1, 3)
    totals = np.sort(totals.ravel().astype(np.int64) + count * info_in.zero_point)
    totals = totals[(totals >= -128 * count) & (totals <= 127 * count)]
    base, rest = totals // count, totals % count
    integers = base[:, None] + (np.arange(count) < rest[:, None])
    steps = integers.astype("float32") - np.float32(info_in.zero_point)
    return (steps * np.float32(info_in.scale)).reshape(-1, size, size, 1)


@pytest.mark.parametrize("size", [7, 12, 24])
def test_means_that_lie_between_two_integers(size, tmp_path):
    """XNNPACK rounds the product of the sum and the offset apart."""
    ranges = [(-1.9, 3.1), (-0.7, 2.0), (0.0, 7.3), (-1.1, 1.7), (-0.2, 5.9)]
    inputs = [keras.Input((size, size, 1)) for _ in ranges]
    pools = [layers.GlobalAveragePooling2D() for _ in ranges]
    dense = layers.Dense(1)  # a model of pools alone has nothing to quantize
    outputs = [pool(x) for pool, x in zip(pools, inputs, strict=True)]
    model = kacc.quantize(keras.Model(inputs, [*outputs, dense(outputs[0])]))
    for pool, (low, high) in zip(pools, ranges, strict=True):
        transform = quantize_of(pool)
        transform.set_range("input_0", low, high)
        transform.set_range("output", low / 3, high / 3)
    quantize_of(dense).set_range("output", -1.0, 1.0)
    artifact = kacc.convert(model, tmp_path / "model.tflite", "tflite-int8")
    infos = zip(artifact.manifest.inputs, artifact.manifest.outputs, strict=False)
    x = [images_with_means_near_halves(*pair, size) for pair in infos]
    least = min(map(len, x))
    x = [array[:least] for array in x]
    want = simulated_outputs(model, "xnnpack", Samples(x))
    for a, b in zip(artifact.predict(x), want, strict=True):
        np.testing.assert_array_equal(a, b)
