"""Pure functions of distillation: how far a student's tensors are from a teacher's."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

FEATURE_LOSSES = ("auto", "mse", "cosine", "attention", "similarity")

_LEAST = 1e-7  # of probabilities whose logarithm is taken, as in keras.losses


def soft_loss(
    teacher: Any, student: Any, temperature: float, kinds: tuple[str, str]
) -> Any:
    """How far outputs are from the teacher's, softened by a temperature.

    Classes are compared by Kullback-Leibler divergence, times the temperature squared,
    which keeps the size of gradients (Hinton et al. 2015, arXiv:1503.02531).

    Args:
        teacher: the teacher's outputs, (batch, ..., classes).
        student: the student's, of the same shape.
        temperature: that logits are divided by.
        kinds: what both are: "probabilities" or "logits" of classes that exclude one
            another; "sigmoid" or "binary logits" of classes that do not; or "values",
            which beside one of the others are its logits, and else are compared by
            their squares.

    Returns:
        A scalar.

    Example:
        >>> import tensorflow as tf
        >>> x = tf.constant([[0.2, 0.8]])
        >>> float(soft_loss(x, x, 3.0, ("probabilities", "probabilities")))
        0.0
    """
    teacher = tf.stop_gradient(tf.cast(teacher, tf.float32))
    student = tf.cast(student, tf.float32)
    if kinds == ("values", "values"):
        return tf.reduce_mean(tf.math.squared_difference(teacher, student))
    binary = bool({"sigmoid", "binary logits"} & set(kinds))
    teacher, student = (
        _logits(x, kind, binary)
        for x, kind in zip((teacher, student), kinds, strict=True)
    )
    # An instance: of the name "kl_divergence", its default, Keras 3.15 takes the
    # divergence of the logits themselves.
    divergence = keras.losses.KLDivergence()
    distillation = keras.distillation.LogitsDistillation(temperature, divergence)
    return tf.cast(distillation.compute_loss(teacher, student), tf.float32)


def _logits(outputs: Any, kind: str, binary: bool) -> Any:
    """Logits along the last axis; of a class that stands alone, and its opposite."""
    if kind == "sigmoid":
        outputs = _log(outputs) - _log(1 - outputs)
    elif kind == "probabilities":
        outputs = _log(outputs)
    if not binary:
        return outputs
    return tf.stack([outputs, tf.zeros_like(outputs)], axis=-1)


def _log(probabilities: Any) -> Any:
    return tf.math.log(tf.clip_by_value(probabilities, _LEAST, 1.0))


def feature_loss(teacher: Any, student: Any, kind: str = "auto") -> Any:
    """How far features of a layer are from those of the teacher's.

    Args:
        teacher: (batch, ..., channels).
        student: the same; channels may differ for "attention" and "similarity", and
            all but the batch for "similarity".
        kind: "mse"; "cosine" along the channels; "attention": where in space they are
            large (Zagoruyko and Komodakis 2017, arXiv:1612.03928); "similarity": which
            examples of the batch are alike (Tung and Mori 2019, arXiv:1907.09682);
            "auto": the first of "mse", "attention", "similarity" that shapes allow.

    Returns:
        A scalar.

    Example:
        >>> import tensorflow as tf
        >>> float(feature_loss(tf.ones((2, 4, 4, 8)), tf.ones((2, 4, 4, 3))))
        0.0
    """
    teacher = tf.stop_gradient(tf.cast(teacher, tf.float32))
    student = tf.cast(student, tf.float32)
    kind = kind_for(teacher.shape, student.shape) if kind == "auto" else kind
    if kind == "attention":
        teacher, student = _attention(teacher), _attention(student)
    elif kind == "similarity":
        teacher, student = _similarity(teacher), _similarity(student)
    if kind == "cosine":
        loss: Any = keras.losses.CosineSimilarity(reduction=None)
        # From 1 for opposites to 0, where Keras's has -1.
        return tf.reduce_mean(0.5 + 0.5 * loss(teacher, student))
    distillation = keras.distillation.FeatureDistillation("mse")
    return tf.cast(distillation.compute_loss(teacher, student), tf.float32)


def kind_for(teacher: Any, student: Any) -> str:
    """The closest comparison that two shapes allow.

    Example:
        >>> kind_for((None, 8, 8, 64), (None, 8, 8, 32))
        'attention'
    """
    if len(teacher) == len(student):
        if tuple(teacher[1:]) == tuple(student[1:]):
            return "mse"
        if len(teacher) > 2 and tuple(teacher[1:-1]) == tuple(student[1:-1]):
            return "attention"
    return "similarity"


def fits(kind: str, teacher: Any, student: Any) -> bool:
    """Whether two shapes can be compared in a way.

    Example:
        >>> fits("mse", (None, 4), (None, 8)), fits("similarity", (None, 4), (None, 8))
        (False, True)
    """
    closest = kind_for(teacher, student)
    if kind == "attention":
        same = len(teacher) > 2 and tuple(teacher[1:-1]) == tuple(student[1:-1])
        return len(teacher) == len(student) and same
    return kind in ("auto", "similarity") or closest == "mse"


def _attention(features: Any) -> Any:
    """The mean square over channels, of length 1 over all positions."""
    energy = tf.reduce_mean(tf.square(features), axis=-1)
    flat = tf.reshape(energy, (tf.shape(energy)[0], -1))
    # Squares of a length of 1 over many positions would be next to nothing.
    count = tf.cast(tf.shape(flat)[1], tf.float32)
    return tf.math.l2_normalize(flat, axis=-1) * tf.sqrt(count)


def _similarity(features: Any) -> Any:
    """Products of the examples of a batch with one another, rows of length 1."""
    flat = tf.reshape(features, (tf.shape(features)[0], -1))
    products = tf.matmul(flat, flat, transpose_b=True)
    return tf.math.l2_normalize(products, axis=-1)
