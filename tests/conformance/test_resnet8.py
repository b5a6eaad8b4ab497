"""The real ResNet8 in 16 bits: calibrated, as good as in float, equal to its file."""

import keras
import numpy as np
import pytest

import kacc


@pytest.mark.slow
def test_int16x8_of_resnet8(data, load, tmp_path):
    path = data / "models" / "mlperf_tiny_resnet8.keras"
    model = keras.models.load_model(path, compile=False)
    samples, _ = load.cifar10("train", shards=1)
    images, labels = load.cifar10("val")
    images = images.astype("float32")
    before = (model.predict(images, verbose=0).argmax(-1) == labels).mean()
    kacc.quantize(model, "int16x8")
    batches = np.split(samples[:500].astype("float32"), 10)
    kacc.quantization.calibrate(model, batches)
    artifact = kacc.convert(model, tmp_path / "m.tflite", "tflite-int16x8")
    outputs = artifact.predict(images)
    np.testing.assert_array_equal(outputs, model.predict(images, verbose=0))
    accuracy = (outputs.argmax(-1) == labels).mean()
    assert abs(accuracy - before) <= 0.001
