import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kacc.converters.samples import Samples, gather
from kacc.core.errors import UsageError
from kacc.core.manifest import TensorInfo

ONE = [TensorInfo("image", (None, 2), "float32")]
TWO = [TensorInfo("image", (None, 2), "float32"), TensorInfo("ids", (None,), "int32")]
X = np.arange(20.0).reshape(10, 2)
IDS = np.arange(10)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return X[index * 4 : index * 4 + 4], IDS[index * 4 : index * 4 + 4]


def dataset(*tensors):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(
        tensors[0] if len(tensors) == 1 else tensors
    )


def generator(*values):
    yield from values


@pytest.mark.parametrize(
    "data",
    [
        X,
        X.tolist(),
        [X],
        {"image": X, "unused": IDS},
        X.astype("int64"),
        lambda: dataset(X).batch(4),
        lambda: dataset(X, IDS).batch(4),
        lambda: dataset({"image": X}, IDS).batch(4),
        lambda: generator(X[:3], X[3:]),
        lambda: generator((X[:3], IDS[:3]), (X[3:], IDS[3:])),
        lambda: generator((X, IDS, np.ones(10))),
        Batches(),
    ],
)
def test_one_input_in_every_form(data):
    samples = gather(data() if callable(data) else data, ONE, "The data")
    assert len(samples.inputs) == 1
    np.testing.assert_array_equal(samples.inputs[0], X.astype("float32"))
    assert samples.inputs[0].dtype == "float32"


@pytest.mark.parametrize(
    "data",
    [
        [X, IDS],
        (X, IDS),
        {"ids": IDS, "image": X},
        lambda: dataset({"ids": IDS, "image": X}).batch(4),
        lambda: dataset((X, IDS), IDS).batch(4),
        lambda: generator([X, IDS]),
    ],
)
def test_two_inputs_in_every_form(data):
    samples = gather(data() if callable(data) else data, TWO, "The data")
    np.testing.assert_array_equal(samples.inputs[0], X)
    np.testing.assert_array_equal(samples.inputs[1], IDS)
    assert samples.inputs[1].dtype == "int32"


def test_labels_come_with_batches():
    samples = gather(Batches(), ONE, "The data")
    np.testing.assert_array_equal(samples.labels, IDS)
    assert gather(X, ONE, "The data").labels is None


def test_a_limit_takes_arrays_evenly_and_batches_from_the_start():
    assert gather(X, ONE, "The data", limit=2).inputs[0][:, 0].tolist() == [0, 18]
    assert gather(Batches(), ONE, "The data", limit=5).labels.tolist() == [
        0,
        1,
        2,
        3,
        4,
    ]


def test_a_limit_ends_an_endless_generator():
    def endless():
        while True:
            yield X

    assert len(gather(endless(), ONE, "The data", limit=25)) == 25


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((0, 2)), "at least one sample"),
        (generator(), "at least one sample"),
        ([], "at least one sample"),
        (np.full((3, 2), np.nan), "must be finite.*6 NaN or infinite values"),
        (np.array([[1, np.inf]]), "must be finite.*1 NaN or infinite values"),
        (np.zeros((4, 3)), r"shape \(any, 2\). Received: \(4, 3\)"),
        (np.zeros(2), "Add the batch axis"),
        (np.array([["a", "b"]]), "type that becomes float32"),
        (np.zeros((3, 2), complex), "type that becomes float32"),
        (np.array([[None, 1]]), "type that becomes float32"),
        ([[1, 2], [3]], "arrays of numbers"),
        ((X, IDS), "one array.*without labels"),
        ({"picture": X}, "Add .'image'."),
        (5, "arrays or yield batches"),
        ("data", "arrays or yield batches"),
    ],
)
def test_data_that_does_not_fit_is_told_in_one_line(data, message):
    with pytest.raises(UsageError, match=message) as caught:
        gather(data, ONE, "The data")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([X, IDS[:3]], "as many samples for each input"),
        ([X], "array for each input of .'image', 'ids'..*1 arrays"),
        (X, "one array"),
        ({"image": X}, "Add .'ids'."),
        ([X, IDS + 0.5], "type that becomes int32"),
    ],
)
def test_several_inputs_that_do_not_fit(data, message):
    with pytest.raises(UsageError, match=message):
        gather(data, TWO, "The data")


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 50), st.integers(1, 60))
def test_batches_are_full_and_hold_every_sample_in_order(count, size):
    batches = [b[0] for b in Samples([np.arange(count)]).batches(size)]
    assert {len(batch) for batch in batches} == {size}
    assert np.concatenate(batches)[:count].tolist() == list(range(count))
