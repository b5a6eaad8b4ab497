"""A policy in `model.fit`, as a callback."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from kacc.augmentation.elements import (
    Mixing,
    are_numbers,
    change_element,
    change_parts,
    checked_box_format,
)
from kacc.augmentation.layer import replica, trainable_policy
from kacc.core.errors import UsageError
from kacc.core.loss_terms import LossTerm, add_term, remove_term


class DataAugmentation(keras.callbacks.Callback):
    """Changes the images of each training step, from inside `model.fit`.

    `fit` makes its iterator before callbacks exist, so this wraps the model's
    `train_step` for the time of the fit. Validation, `evaluate`, `predict` and what is
    saved have nothing of it. Changes follow from the seed and the optimizer's count of
    steps: a resumed fit goes on as the whole one would have.

    Labels of the height and width of the images are masks, which move with them; so do
    bounding boxes and masks in Keras's dictionaries, as inputs or labels.

    With MixUp or CutMix, labels in float form (one-hot) are mixed. Where labels are
    numbers of classes the loss is mixed in their place, which is the same for
    crossentropy, and metrics see the label with the larger share.

    Args:
        policy: a `kacc.augmentation.Policy`, a list of transforms, or a name: "light",
            "standard", "strong", "flip_and_crop", "randaugment", "trivialaugment".
        key: of the images, for a model with several inputs; by default the only input
            of four axes.
        seed: in the place of the policy's.
        value_range: in the place of the policy's: lowest and highest value of float
            images.
        bounding_box_format: as Keras names it, such as "xyxy" or "rel_xywh", if there
            are boxes in the inputs or the labels.

    Raises:
        UsageError: for a wrong policy, or one that rescales, which inference needs too.

    Example:
        >>> import keras, kacc, numpy as np
        >>> layers = [keras.Input((8, 8, 3)), keras.layers.Flatten()]
        >>> model = keras.Sequential([*layers, keras.layers.Dense(2)])
        >>> model.compile("sgd", "mse")
        >>> x, y = np.ones((8, 8, 8, 3)), np.ones((8, 2))
        >>> augmentation = kacc.callbacks.DataAugmentation("light")
        >>> history = model.fit(x, y, verbose=0, callbacks=[augmentation])
    """

    def __init__(
        self,
        policy: Any,
        key: Any = None,
        seed: int | None = None,
        value_range: Any = None,
        bounding_box_format: str | None = None,
    ) -> None:
        super().__init__()
        self.bounding_box_format = checked_box_format(bounding_box_format)
        self.policy = trainable_policy(policy, seed=seed, value_range=value_range)
        self.key = key
        self._wrap: _Wrap | None = None

    def set_model(self, model: keras.Model) -> None:
        """Wraps the model's step, before `fit` makes a function of it."""
        super().set_model(model)
        present = vars(model).get("train_step")
        if isinstance(present, _Wrap):
            if present.waiting and present is not self._wrap:
                raise UsageError(
                    "A fit takes one DataAugmentation",
                    received="two of them",
                    fix="Put all transforms into one policy",
                )
            present.undo()  # of a fit that an error ended
        self._wrap = _Wrap(model, self.policy, self.key, self.bounding_box_format)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Lets the seeds go on where the optimizer is."""
        optimizer = getattr(self.model, "optimizer", None)
        if self._wrap is not None and optimizer is not None:
            many = getattr(optimizer, "gradient_accumulation_steps", None) or 1
            done = int(keras.ops.convert_to_numpy(optimizer.iterations))
            self._wrap.step.assign(done * many)

    def on_train_end(self, logs: Any = None) -> None:
        """Gives the model its own step again."""
        self._undo()

    def on_test_begin(self, logs: Any = None) -> None:
        """Gives the step back where no fit has begun: `evaluate(callbacks=...)`."""
        if self._wrap is not None and self._wrap.waiting:
            self._undo()

    on_predict_begin = on_test_begin

    def _undo(self) -> None:
        if self._wrap is not None:
            self._wrap.undo()
            self._wrap = None


@dataclass
class _Mixed:
    """What a loss is mixed with, while a step runs.

    Args:
        labels: of the images with the smaller share.
        weights: their sample weights, or None.
        share: of the larger one.
        used: whether the loss was asked for.
    """

    labels: Any
    weights: Any
    share: Any
    used: bool = False


# Of the thread: each replica of a strategy traces its step in one of its own, by turns.
_MIXED: ContextVar[_Mixed | None] = ContextVar("kacc_mixed", default=None)


class _Wrap:
    """Stands in the place of a model's `train_step`, as an attribute of the instance.

    The functions of the model's class are looked up at each call, since other callbacks
    swap the class.
    """

    def __init__(
        self, model: keras.Model, policy: Any, key: Any, box_format: str | None
    ) -> None:
        self.model, self.policy = model, policy
        self.how = ("graph", key, box_format)  # of `change_element`
        self.waiting = True  # for `fit` to make the function of its step
        with model.distribute_strategy.scope():
            self.step = tf.Variable(
                0,
                trainable=False,
                dtype=tf.int64,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )
        names = {"train_step": self, "make_train_function": self._make_function}
        self._before = {name: vars(model).get(name) for name in names}
        for name, value in names.items():
            # Through `object`: Keras would look for variables in them.
            object.__setattr__(model, name, value)
        # Beside what other callbacks do to the loss, of which it is no term.
        self._mixing = LossTerm(None, around=_mixed_loss)
        if policy.mixes:
            add_term(model, self._mixing)
        self._refresh()

    def undo(self) -> None:
        """Puts back what was there before; more than once does nothing."""
        for name, value in self._before.items():
            if value is None:
                object.__delattr__(self.model, name)
            else:
                object.__setattr__(self.model, name, value)
        self._before = {}
        remove_term(self.model, self._mixing)
        self._refresh()

    def _refresh(self) -> None:
        if self.model.train_function is not None:
            type(self.model).make_train_function(self.model, force=True)

    def _own(self, name: str) -> Callable[..., Any]:
        return self._before.get(name) or getattr(type(self.model), name).__get__(
            self.model
        )

    def _make_function(self, force: bool = False) -> Any:
        """As Keras's; a fit that did not ask for augmentation gets none.

        `fit` makes its function once, after callbacks have seen the model. If it does
        so again, an error has ended the fit before, and its last call never came.
        """
        if not force and not self.waiting:
            self.undo()
            return self.model.make_train_function()
        self.waiting = self.waiting and force
        return self._own("make_train_function")(force=force)

    def __call__(self, data: Any) -> Any:
        """The model's own step on changed data."""
        seed = tf.stack([self.policy.seed, tf.cast(self.step, tf.int32), replica()])
        self.step.assign_add(1)
        step = self._own("train_step")
        if not isinstance(data, (tuple, list)):
            return step(change_element(self.policy, seed, data, *self.how))
        data = tuple(data)
        labels = keras.tree.flatten(data[1] if len(data) > 1 else None)
        sparse = [y for y in labels if y is not None and are_numbers(y)]
        if not (self.policy.mixes and sparse):
            return step(change_element(self.policy, seed, data, *self.how))
        inputs, rest, mixing = change_parts(self.policy, seed, data, *self.how)
        mixed, main = _shared_out(rest, mixing)
        token = _MIXED.set(mixed)
        try:
            logs = step((inputs, *main))
        finally:
            _MIXED.reset(token)
        if not mixed.used:
            raise UsageError(
                "MixUp and CutMix of numbers of classes need a train_step that calls "
                "`self.compute_loss`",
                received=type(self.model).__name__,
                fix="Pass labels in one-hot form",
            )
        return logs


def _mixed_loss(
    own: Callable[..., Any],
    x: Any,
    y: Any,
    y_pred: Any,
    sample_weight: Any,
    **options: Any,
) -> Any:
    """The loss of both labels of mixed images, each by its share."""
    mixed = _MIXED.get()
    if mixed is None:
        return own(x, y, y_pred, sample_weight, **options)
    mixed.used = True
    # The mean of losses twice as large, since both have the whole losses of layers, and
    # since the means that Keras keeps of each output's loss are of both.
    share = 2 * mixed.share
    first = own(x, y, y_pred, _times(sample_weight, share), **options)
    weights = _times(mixed.weights, 2 - share)
    return (first + own(x, mixed.labels, y_pred, weights, **options)) / 2


def _shared_out(rest: list[Any], mixing: Mixing) -> tuple[_Mixed, list[Any]]:
    """Labels and weights of the larger share, and what they are mixed with."""
    assert mixing is not None
    partner, share = mixing
    larger = share >= 0.5

    def one(value: Any, own: Any) -> Any:
        if value is None:
            return None
        own = tf.reshape(own, [-1] + [1] * (value.shape.rank - 1))
        return tf.where(own, value, tf.gather(value, partner))

    main, minor = (
        keras.tree.map_structure(lambda v, own=own: one(v, own), rest)
        for own in (larger, ~larger)
    )
    weights = minor[1] if len(minor) > 1 else None
    return _Mixed(minor[0], weights, tf.maximum(share, 1 - share)), main


def _times(weights: Any, share: Any) -> Any:
    """Sample weights times a share of each image."""
    if weights is None:
        return share

    def one(weight: Any) -> Any:
        if weight is None:
            return share
        weight = tf.cast(weight, share.dtype)
        return weight * tf.reshape(share, [-1] + [1] * (weight.shape.rank - 1))

    return keras.tree.map_structure(one, weights)
