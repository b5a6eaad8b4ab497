"""Memory: by hand on small graphs, and against what a runtime could do at best."""

import itertools

import keras
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kacc.measurement.memory import (
    Step,
    gzip_bytes,
    peak_bytes,
    peak_memory_bytes,
    size_bytes,
)

layers = keras.layers


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 1000), min_size=2, max_size=20))
def test_a_chain_needs_its_largest_pair(sizes):
    names = list(range(len(sizes)))
    steps = [Step((i,), (i + 1,)) for i in names[:-1]]
    pairs = [a + b for a, b in itertools.pairwise(sizes)]
    table = dict(enumerate(sizes))
    assert peak_bytes(steps, table, [0], [names[-1]]) == max(pairs)


def test_a_branch_stays_alive_until_it_is_read():
    steps = [
        Step(("x",), ("a",)),
        Step(("a",), ("b",)),
        Step(("b", "x"), ("sum",)),
    ]
    sizes = {"x": 100, "a": 10, "b": 10, "sum": 1}
    assert peak_bytes(steps, sizes, ["x"], ["sum"]) == 120


def test_weights_do_not_count():
    assert peak_bytes([Step(("x", "w"), ("y",))], {"x": 3, "y": 4}, ["x"], ["y"]) == 7


def test_a_model_by_hand(model):
    """8x8x3 in, 6x6x4 convolution and its ReLU, 3 out, in float32.

    TensorFlow runs convolution, bias and ReLU one by one; a file fuses them.
    """
    image, features, classes = 8 * 8 * 3 * 4, 6 * 6 * 4 * 4, 3 * 4
    assert peak_memory_bytes(model) == max(image + features, 2 * features)
    assert classes < image


def test_files_by_hand(float_file, int8_file):
    image, features = 8 * 8 * 3, 6 * 6 * 4
    assert peak_memory_bytes(float_file) == 4 * (image + features)
    assert peak_memory_bytes(int8_file) == image + features


def test_sizes(model, float_file):
    assert size_bytes(float_file) == float_file.path.stat().st_size
    assert size_bytes(model) == 4 * model.count_params()
    half = keras.Sequential([keras.Input((4,)), layers.Dense(2, dtype="bfloat16")])
    assert size_bytes(half) == 2 * half.count_params()


def test_a_model_that_hands_its_input_through():
    image = keras.Input((4,))
    model = keras.Model(image, [image, layers.Dense(2)(image)])
    assert peak_memory_bytes(model) >= 4 * 4 + 4 * 2
    assert np.isfinite(peak_memory_bytes(model))


def test_zeros_compress(float_file):
    model = keras.Sequential([keras.Input((64,)), layers.Dense(64)])
    dense = gzip_bytes(model)
    assert 0.8 * size_bytes(model) < dense < 1.1 * size_bytes(model)
    kernel = model.layers[0].kernel
    kernel.assign(np.where(np.arange(64) % 4 == 0, kernel.numpy(), 0))
    assert gzip_bytes(model) < 0.4 * dense
    assert gzip_bytes(float_file) == float_file.gzip_bytes
