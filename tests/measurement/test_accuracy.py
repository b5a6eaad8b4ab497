import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kacc.core.errors import UsageError
from kacc.measurement.accuracy import accuracy

# Keras and NumPy break a tie of 0.0 and -0.0 each in their way.
# TensorFlow may flush subnormal numbers to zero, which makes ties.
NUMBERS = st.floats(-9, 9, width=32, allow_subnormal=False).map(
    lambda value: value + 0.0
)
SCORES = arrays.arrays("float32", (12, 4), elements=NUMBERS)
LABELS = arrays.arrays("int64", (12,), elements=st.integers(0, 3))


@settings(deadline=None)
@given(SCORES, LABELS)
def test_class_numbers_and_one_hot_rows_agree_with_keras(scores, labels):
    wanted = keras.metrics.SparseCategoricalAccuracy()
    wanted.update_state(labels, scores)
    one_hot = np.eye(4)[labels]
    forms = (labels, labels[:, None], labels.astype("float32"), one_hot)
    for form in forms:
        assert accuracy(scores, form) == pytest.approx(float(wanted.result()))


@settings(deadline=None)
@given(
    arrays.arrays(
        "float32", (9, 1), elements=st.floats(0, 1, width=32, allow_subnormal=False)
    ),
    arrays.arrays("int64", (9,), elements=st.integers(0, 1)),
)
def test_a_single_probability_agrees_with_keras(scores, labels):
    wanted = keras.metrics.BinaryAccuracy(threshold=0.5)
    wanted.update_state(labels[:, None], scores)
    for form in (labels, labels[:, None], labels.astype(bool)):
        assert accuracy(scores, form) == pytest.approx(float(wanted.result()))


def test_a_class_for_each_pixel():
    scores = np.zeros((2, 3, 4))
    scores[0, :, 1] = 1
    assert accuracy(scores, np.ones((2, 3), int)) == 0.5


@pytest.mark.parametrize(
    "labels",
    [
        np.linspace(0, 1, 5),  # a regression
        np.random.default_rng(0).normal(size=(5, 3)),
        np.full((5, 3), 1 / 3),  # soft labels
        np.arange(5),  # more classes than outputs
        np.full(5, -1),
        np.zeros((5, 2)),
        np.array(list("abcde")),
    ],
)
def test_labels_that_are_no_classes_have_no_accuracy(labels):
    assert accuracy(np.zeros((5, 3)), labels) is None


def test_there_must_be_a_label_for_each_sample():
    with pytest.raises(UsageError, match="5 samples, 4 labels"):
        accuracy(np.zeros((5, 3)), np.zeros(4))
