"""Distillation as a callback of `model.fit`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras

from kacc.core.errors import UsageError
from kacc.core.graph import trace
from kacc.core.loss_terms import LossTerm, add_term, check_used, remove_term
from kacc.core.outputs import kinds_of
from kacc.distillation import functional
from kacc.distillation.features import Features, shapes


class Distillation(keras.callbacks.Callback):
    """Trains a model to answer as a larger one does, from inside `model.fit`.

    The loss becomes `(1 - alpha) * labels + alpha * temperature^2 * KL(teacher ||
    student)`, both softened by the temperature (Hinton et al. 2015, arXiv:1503.02531).
    Outputs may be probabilities or logits; values of a regression are compared by their
    squares. The teacher runs in inference, on the same inputs. Validation is that of
    the labels alone, and nothing of it stays in the model. At the end of each epoch
    `logs` gets "distillation_loss", before `alpha`.

    After a fit that was interrupted, call its `on_train_end()`, or fit with it again.

    Args:
        teacher: a built model, or any function of the inputs; with `features` a model.
        temperature: that logits are divided by, of both.
        alpha: the share of the teacher in the loss, from 0 to 1.
        features: layer of the student -> layer of the teacher whose output it should
            make, by path.
        feature_loss: how features are compared: "mse" or "cosine" for equal shapes,
            "attention" for equal positions, "similarity" for any; "auto" takes the
            first that fits (see `kacc.distillation.feature_loss`).
        feature_weight: the factor of the features' loss.

    Raises:
        UsageError: for a wrong argument, an unbuilt model, a layer that is not there,
            or outputs of other shapes than the teacher's.

    Example:
        >>> import numpy as np, keras, kacc
        >>> def classifier(units):
        ...     layers = [keras.layers.Dense(n) for n in (units, 2)]
        ...     return keras.Sequential([keras.Input((4,)), *layers])
        >>> teacher, student = classifier(8), classifier(2)
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> student.compile("adam", loss)
        >>> distillation = kacc.callbacks.Distillation(teacher, temperature=2.0)
        >>> x, y = np.ones((8, 4)), np.zeros(8)
        >>> history = student.fit(x, y, verbose=0, callbacks=[distillation])
        >>> len(history.history["distillation_loss"])
        1
    """

    def __init__(
        self,
        teacher: keras.Model | Callable[[Any], Any],
        temperature: float = 4.0,
        alpha: float = 0.5,
        features: Mapping[str, str] | None = None,
        *,
        feature_loss: str = "auto",
        feature_weight: float = 1.0,
    ) -> None:
        super().__init__()
        _check(teacher, features, feature_loss)
        self.teacher = teacher
        self.temperature = _number("temperature", temperature, 1e-3, 1e3)
        self.alpha = _number("alpha", alpha, 0.0, 1.0)
        self.features = dict(features or {})
        self.feature_loss = feature_loss
        self.feature_weight = _number("feature_weight", feature_weight, 0.0, 1e6)
        self.term = LossTerm(self._compute, keep=1.0 - self.alpha)
        self._kinds: Any = None
        self._mean: Any = None
        self._student_features: Features | None = None
        self._teacher_features: Features | None = None

    def set_model(self, model: keras.Model) -> None:
        """Checks that the models fit, before anything is changed."""
        super().set_model(model)
        self._check_fit()

    def on_train_begin(self, logs: Any = None) -> None:
        """Adds the term to the loss."""
        self._check_fit()
        self.on_train_end()  # of a fit that was interrupted
        with self.model.distribute_strategy.scope():
            self._mean = keras.metrics.Mean("distillation_loss")
        if self.features:
            names = self.features
            self._student_features = Features(self.model, names, "student")
            self._teacher_features = Features(self.teacher, names.values(), "teacher")
            self._student_features.install()
            self._teacher_features.install()
        self.term.used = False
        add_term(self.model, self.term)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Begins a new mean."""
        self._mean.reset_state()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Makes sure that the step had the term."""
        check_used(self.term, "Distillation")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the mean to the logs."""
        if logs is not None:
            logs["distillation_loss"] = float(self._mean.result())

    def on_train_end(self, logs: Any = None) -> None:
        """Takes the term off the loss."""
        remove_term(self.model, self.term)
        for features in (self._student_features, self._teacher_features):
            if features is not None:
                features.remove()
        self._student_features = self._teacher_features = None

    def _compute(self, x: Any, y: Any, y_pred: Any) -> Any:
        taught = self._taught(x)
        keras.tree.assert_same_structure(taught, y_pred)
        pairs = zip(
            keras.tree.flatten(taught),
            keras.tree.flatten(y_pred),
            self._kinds,
            strict=True,
        )
        loss = sum(
            functional.soft_loss(teacher, student, self.temperature, kinds)
            for teacher, student, kinds in pairs
        )
        total = self.alpha * loss
        for own, other in self.features.items():
            assert self._student_features is not None
            assert self._teacher_features is not None
            feature = functional.feature_loss(
                self._teacher_features.take(other),
                self._student_features.take(own),
                self.feature_loss,
            )
            total += self.feature_weight * feature
            loss += self.feature_weight * feature
        self._mean.update_state(loss)
        return total

    def _taught(self, x: Any) -> Any:
        if isinstance(self.teacher, keras.Model):
            return self.teacher(x, training=False)
        return self.teacher(x)

    def _check_fit(self) -> None:
        own = its = keras.tree.flatten(kinds_of(self.model))
        if isinstance(self.teacher, keras.Model):
            its = keras.tree.flatten(kinds_of(self.teacher))
            shapes_own, shapes_its = _shapes(self.model), _shapes(self.teacher)
            if shapes_own != shapes_its:
                raise UsageError(
                    "Teacher and student must have outputs of the same shapes",
                    received=f"teacher: {shapes_its}, student: {shapes_own}",
                )
        self._kinds = list(zip(its, own, strict=True))
        self._check_features()

    def _check_features(self) -> None:
        if not self.features:
            return
        Features(self.model, self.features, "student")
        Features(self.teacher, self.features.values(), "teacher")
        mine = shapes(self.model, self.features)
        its = shapes(self.teacher, self.features.values())
        for own, other in self.features.items():
            if not functional.fits(self.feature_loss, its[other], mine[own]):
                raise UsageError(
                    f"Features of these shapes cannot be compared by "
                    f"{self.feature_loss!r}",
                    received=f"{mine[own]} of {own!r}, {its[other]} of {other!r}",
                    fix='Pass feature_loss="auto"',
                )


def _shapes(model: keras.Model) -> Any:
    return [tuple(tensor.shape[1:]) for tensor in trace(model).outputs]


def _check(teacher: Any, features: Any, feature_loss: str) -> None:
    is_model = isinstance(teacher, keras.Model)
    if not callable(teacher) or (is_model and not teacher.built):
        raise UsageError(
            "`teacher` must be a built model, or a function of the inputs",
            received=teacher,
            fix="Call it once on a batch" if is_model else "",
        )
    if feature_loss not in functional.FEATURE_LOSSES:
        raise UsageError(
            f"`feature_loss` must be one of {functional.FEATURE_LOSSES}",
            received=feature_loss,
        )
    if features is None:
        return
    if not isinstance(features, Mapping) or not is_model:
        raise UsageError(
            "`features` must be {layer of the student: layer of the teacher}, and the "
            "teacher a model",
            received=features,
        )


def _number(name: str, value: Any, least: float, most: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not least <= number <= most:
        raise UsageError(
            f"`{name}` must be a number from {least:g} to {most:g}", received=value
        )
    return number
