import io

import numpy as np
import pytest
from rich.console import Console

import kacc
from kacc.core.errors import UsageError
from kacc.measurement.measure import measure, readable_bytes


@pytest.fixture(scope="module")
def labels(model, images):
    """What the model says itself, with every third one changed."""
    classes = model.predict(images, verbose=0).argmax(1)
    classes[::3] = (classes[::3] + 1) % 3
    return classes


def test_a_model(model, images, labels):
    found = measure(model, images, labels)
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.name == "small"
    assert found.samples == 60
    assert found.size_bytes == 4 * model.count_params()
    assert found.latency.median > 0
    assert found.peak_memory_bytes > 8 * 8 * 3 * 4


def test_a_file(int8_file, images, labels):
    found = measure(int8_file, images, np.eye(3)[labels])
    agreement = (int8_file.predict(images).argmax(1) == labels).mean()
    assert found.accuracy == agreement
    assert found.name == "tflite-int8"
    assert found.size_bytes == int8_file.size_bytes
    assert found.latency.threads == 1


def test_the_artifact_measures_itself(float_file, images, labels):
    found = float_file.measure(images, labels)
    assert found.accuracy == pytest.approx(2 / 3)
    assert type(found) is kacc.Measurement


def test_batches_bring_their_labels(model, images, labels):
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(16)
    assert measure(model, data).accuracy == pytest.approx(2 / 3)


def test_without_labels_there_is_no_accuracy(float_file, images):
    assert measure(float_file, images).accuracy is None
    assert measure(float_file, images, np.linspace(0, 1, 60)).accuracy is None


def test_a_metric_of_ones_own_gets_labels_and_outputs(float_file, images):
    values = np.linspace(0, 1, 60)

    def metric(y, outputs):
        assert y is not outputs
        assert outputs.shape == (60, 3)
        return np.abs(y - values).sum() + 7

    assert measure(float_file, images, values, metric=metric).accuracy == 7


def test_too_few_labels(float_file, images, labels):
    with pytest.raises(UsageError, match="60 samples, 59 labels"):
        measure(float_file, images, labels[:-1])


def test_a_person_can_read_it(int8_file, images, labels):
    found = measure(int8_file, images, labels)
    console = Console(width=100, file=io.StringIO())
    console.print(found)
    for text in (str(found), console.file.getvalue()):
        for word in ("tflite-int8", "accuracy", f"{found.accuracy:.4f}", "latency"):
            assert word in text
        assert readable_bytes(found.size_bytes) in text


def test_bytes_are_readable():
    sizes = [0, 1023, 1024, 1536, 5 * 2**20, 3 * 2**30]
    texts = ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "5.0 MiB", "3.0 GiB"]
    assert [readable_bytes(size) for size in sizes] == texts
