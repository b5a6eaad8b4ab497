"""Latency, with models whose order is beyond doubt."""

import keras
import numpy as np
import pytest

from kacc.converters.convert import convert
from kacc.core.errors import UsageError
from kacc.measurement.latency import compare_latency, latency

layers = keras.layers


@pytest.fixture(scope="module")
def points():
    return np.ones((4, 512), "float32")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of one matrix product, and one of eight."""
    folder = tmp_path_factory.mktemp("files")

    def of(depth):
        dense = [layers.Dense(512, activation="relu") for _ in range(depth)]
        model = keras.Sequential([keras.Input((512,), name="x"), *dense])
        return convert(model, folder / f"{depth}.tflite", "tflite-float32", batch=1)

    return {"one": of(1), "eight": of(8)}


def test_figures_of_a_file(files, points):
    found = latency(files["eight"], [points[:1]], threads=2, repeats=9)
    assert 0 < found.median <= found.p90
    assert (found.calls, found.threads) == (9, 2)
    assert f"{found.median:.3f} ms" in str(found)
    assert "2 threads" in str(found)


def test_figures_of_a_model(points):
    model = keras.Sequential([keras.Input((512,)), layers.Dense(3)])
    found = latency(model, [points[:1]], repeats=7)
    assert 0 < found.median <= found.p90
    assert (found.calls, found.threads) == (7, None)


def test_ratios_of_candidates_timed_in_turn(files, points):
    one, eight = compare_latency(files, points)
    assert (one.name, eight.name) == ("one", "eight")
    assert (one.ratio, one.low, one.high) == (1, 1, 1)
    assert eight.low <= eight.ratio <= eight.high
    assert 3 < eight.ratio < 30  # eight times the products
    assert eight.latency.median > one.latency.median


def test_models_and_files_in_one_comparison(files, points):
    model = keras.Sequential([keras.Input((512,), name="x"), layers.Dense(512)])
    found = compare_latency({"keras": model, **files}, points, repeats=5)
    assert [x.name for x in found] == ["keras", "one", "eight"]
    assert [x.latency.calls for x in found] == [5, 5, 5]
    assert [x.latency.threads for x in found] == [None, 1, 1]


def test_batches_with_labels_give_the_sample(files, points):
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((points, np.zeros(4))).batch(2)
    assert compare_latency(files, data, repeats=5)[0].ratio == 1


def test_nothing_to_compare(points):
    with pytest.raises(UsageError, match="must be a candidate"):
        compare_latency({}, points)
