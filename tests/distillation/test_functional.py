import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax, softmax

from kacc.distillation.functional import feature_loss, fits, kind_for, soft_loss

RANDOM = np.random.default_rng(0)
TEACHER, STUDENT = RANDOM.normal(size=(2, 6, 5)).astype("float32")


def reference(teacher, student, temperature):
    p = softmax(teacher / temperature, -1)
    q = log_softmax(student / temperature, -1)
    kl = (p * (np.log(p) - q)).sum(-1)
    return temperature**2 * kl.mean()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("teacher", ["logits", "probabilities", "values"])
@pytest.mark.parametrize("student", ["logits", "probabilities"])
def test_it_is_the_divergence_of_softened_classes(teacher, student, temperature):
    given = [
        tf.nn.softmax(x) if kind == "probabilities" else x
        for x, kind in ((TEACHER, teacher), (STUDENT, student))
    ]
    found = soft_loss(*given, temperature, (teacher, student))
    expected = reference(TEACHER, STUDENT, temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("kinds", [("sigmoid", "binary logits"), ("values", "sigmoid")])
def test_classes_that_stand_alone(kinds):
    given = [
        tf.sigmoid(x) if kind == "sigmoid" else x
        for x, kind in zip((TEACHER, STUDENT), kinds, strict=True)
    ]
    pairs = [np.stack([x, np.zeros_like(x)], -1) for x in (TEACHER, STUDENT)]
    found = soft_loss(*given, 2.0, kinds)
    np.testing.assert_allclose(found, reference(*pairs, 2.0), rtol=1e-4)


def test_values_are_compared_by_their_squares():
    found = soft_loss(TEACHER, STUDENT, 3.0, ("values", "values"))
    np.testing.assert_allclose(found, ((TEACHER - STUDENT) ** 2).mean(), rtol=1e-5)


def test_no_gradient_goes_to_the_teacher():
    teacher, student = tf.constant(TEACHER), tf.constant(STUDENT)
    with tf.GradientTape() as tape:
        tape.watch([teacher, student])
        loss = soft_loss(teacher, student, 2.0, ("logits", "logits"))
    to_teacher, to_student = tape.gradient(loss, [teacher, student])
    assert to_teacher is None
    assert np.abs(to_student).max() > 0


def test_probabilities_of_zero_and_one_are_finite():
    one = tf.constant([[1.0, 0.0]])
    with tf.GradientTape() as tape:
        tape.watch(one)
        loss = soft_loss(1 - one, one, 1.0, ("probabilities", "probabilities"))
    assert np.isfinite(loss)
    assert np.all(np.isfinite(tape.gradient(loss, one)))


def test_attention_looks_at_places_and_not_at_channels_or_size():
    a = RANDOM.normal(size=(3, 4, 4, 6)).astype("float32")
    assert float(feature_loss(a, 2 * a[..., ::-1], "attention")) < 1e-6
    assert float(feature_loss(a, a[:, ::-1], "attention")) > 1e-2


def test_similarity_looks_at_examples_only():
    a = RANDOM.normal(size=(5, 8)).astype("float32")
    rotation = np.linalg.qr(RANDOM.normal(size=(8, 8)))[0].astype("float32")
    assert float(feature_loss(a, a @ rotation, "similarity")) < 1e-6
    assert float(feature_loss(a, a[::-1] ** 3, "similarity")) > 1e-3


def test_cosine_goes_from_zero_to_one():
    a = RANDOM.normal(size=(5, 8)).astype("float32")
    assert float(feature_loss(a, 3 * a, "cosine")) == pytest.approx(0, abs=1e-6)
    assert float(feature_loss(a, -a, "cosine")) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("teacher", "student", "kind"),
    [
        ((None, 4, 4, 8), (None, 4, 4, 8), "mse"),
        ((None, 4, 4, 8), (None, 4, 4, 2), "attention"),
        ((None, 8), (None, 4), "similarity"),
        ((None, 8, 8, 4), (None, 4, 4, 4), "similarity"),
        ((None, 8, 8, 4), (None, 4), "similarity"),
    ],
)
def test_the_closest_comparison(teacher, student, kind):
    assert kind_for(teacher, student) == kind
    assert fits(kind, teacher, student)
    assert fits("auto", teacher, student)
    assert fits("mse", teacher, student) == (kind == "mse")
    assert fits("cosine", teacher, student) == (kind == "mse")
    assert fits("attention", teacher, student) == (
        len(teacher) == 4 and kind != "similarity"
    )
    a, b = (
        keras.random.normal([3 if n is None else n for n in shape])
        for shape in (teacher, student)
    )
    assert float(feature_loss(a, b)) == float(feature_loss(a, b, kind)) > 0
