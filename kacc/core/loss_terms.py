"""Terms that callbacks add to the loss of a model while it trains.

Keras's `compute_loss` is the one place that every `train_step` of Keras passes, with
the inputs and the outputs at hand. It is replaced once for all terms, on the instance,
and comes back when the last term goes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from kacc.core import attach
from kacc.core.errors import UsageError


@dataclass(eq=False)
class LossTerm:
    """A term of the loss.

    Args:
        compute: (inputs, labels, outputs) of a batch -> a scalar, the mean over the
            batch where examples make it; None for none.
        keep: the factor by which the loss of the labels counts beside it; losses of the
            layers (weight decay and the like) stay whole.
        used: whether a step was traced with it.
        around: stands in the place of the model's own loss, which it is given first,
            before the arguments of `compute_loss`; None leaves it.
    """

    compute: Callable[[Any, Any, Any], Any] | None
    keep: float = 1.0
    used: bool = False
    around: Callable[..., Any] | None = None


def add_term(model: keras.Model, term: LossTerm) -> None:
    """Adds a term to the loss of training steps; evaluation stays as it is."""
    terms = vars(model).get("_kacc_loss_terms")
    if terms is None:
        terms = []
        # Through `object`: Keras would track what is set on a layer.
        object.__setattr__(model, "_kacc_loss_terms", terms)
        object.__setattr__(model, "compute_loss", _with_terms(model, terms))
        # Private: else Keras does not say whether it trains to a `compute_loss` whose
        # class has no such argument. tests/core/test_keras_private.py fails without it.
        object.__setattr__(model, "_compute_loss_has_training_arg", True)
    if term not in terms:
        terms.append(term)
    attach.refresh_functions(model)


def remove_term(model: keras.Model, term: LossTerm) -> None:
    """Takes a term away, if it is there."""
    terms = vars(model).get("_kacc_loss_terms", [])
    if term not in terms:
        return
    terms.remove(term)
    if not terms:
        own = vars(model)["compute_loss"].kacc_takes_training
        object.__delattr__(model, "compute_loss")
        object.__delattr__(model, "_kacc_loss_terms")
        object.__setattr__(model, "_compute_loss_has_training_arg", own)
    attach.refresh_functions(model)


def check_used(term: LossTerm, name: str) -> None:
    """Raises a UsageError if a step ran without a term."""
    if not term.used:
        raise UsageError(
            f"{name} needs a `train_step` that calls the model's `compute_loss`",
            received="a step that does not",
            fix="Call self.compute_loss(x, y, y_pred, sample_weight) in it",
        )


def _with_terms(model: keras.Model, terms: list[LossTerm]) -> Callable[..., Any]:
    takes_training = model._compute_loss_has_training_arg

    def compute_loss(
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
        **others: Any,
    ) -> Any:
        own = functools.partial(type(model).compute_loss, model)
        more = {"training": training} if takes_training else {}
        for term in terms if training else ():
            if term.around is not None:
                own = functools.partial(term.around, own)
        loss = own(x, y, y_pred, sample_weight, **more, **others)
        if not training:
            return loss
        total = _weighted(model, loss, terms)
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        for term in terms:
            term.used = True
            if term.compute is not None:
                total += tf.cast(term.compute(x, y, y_pred), total.dtype) / replicas
        return total

    compute_loss.kacc_takes_training = takes_training  # type: ignore[attr-defined]
    return compute_loss


def _weighted(model: keras.Model, loss: Any, terms: list[LossTerm]) -> Any:
    """The model's own loss, that of the labels by the factors of the terms."""
    keep = 1.0
    for term in terms:
        keep *= term.keep
    if keep == 1.0:
        return loss
    of_layers = sum(tf.cast(tf.reduce_sum(x), loss.dtype) for x in model.losses)
    return keep * (loss - of_layers) + of_layers
