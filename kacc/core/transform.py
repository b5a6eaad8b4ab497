"""What is attached to a layer: transforms, and the layer that holds their state."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, ClassVar

import keras

# Private: the training flag of the running call is in Keras's call context, which
# operators and layers without a `training` argument have no other way to read.
from keras.src.backend.common import global_state

from kacc.core.errors import KaccError

SPARSIFY, CLUSTER, QUANTIZE = 0, 1, 2

_OBSERVING: ContextVar[bool] = ContextVar("kacc_observing", default=False)


def is_training() -> bool:
    """Whether the outermost call that runs was made with `training=True`."""
    context = global_state.get_global_attribute("current_call_ctx")
    return context is not None and bool(context.get_value("training"))


def call_notes() -> dict[Any, Any]:
    """A dictionary for notes that lives as long as the outermost call that runs."""
    context = global_state.get_global_attribute("current_call_ctx")
    return {} if context is None else vars(context).setdefault("_kacc", {})


def is_observing() -> bool:
    """Whether calls only record what they see, for calibration."""
    return _OBSERVING.get()


@contextlib.contextmanager
def observing() -> Iterator[None]:
    """Inside, attached layers compute in float and record the ranges they see."""
    token = _OBSERVING.set(True)
    try:
        yield
    finally:
        _OBSERVING.reset(token)


class Transform:
    """Changes a layer's weights, or the values that it reads and makes.

    Transforms of a layer run in the order of their `stage`. `enabled` is read while a
    graph is traced, so whoever sets it has the model's functions made anew.
    """

    stage: ClassVar[int]
    weights_only: ClassVar[bool] = False  # whether tensors stay as they are

    def __init__(self) -> None:
        self.enabled = True

    def build(self, operation: Any, state: State, prefix: str) -> None:
        """Creates the variables in `state`; their names start with `prefix`."""

    def weight(self, attribute: str, value: Any) -> Any:
        """The value to compute with in the place of the weight's."""
        return value

    def shares_scale(self, attribute: str) -> bool:
        """Whether integers of a weight must have one scale for all its channels.

        Where channels share values, scales of their own would make them many again.
        """
        return False

    def settle(self) -> None:
        """Writes into the weights what is to stay when the transform is taken off."""

    def discard(self) -> None:
        """Removes trained variables from the state: nothing gives them gradients."""

    def range(self, name: str, value: Any) -> Any:
        """The value of the tensor `name` as the file will have it."""
        return value

    def rectifies(self, name: str) -> bool:
        """Whether `range` sends negative values to zero, so that a relu can go."""
        return False

    def idle(self, value: Any) -> Any:
        """What a call returns while the transform is not enabled: the value itself.

        Trainable variables must get a gradient even then, or Keras warns.
        """
        return value

    def get_config(self) -> dict[str, Any]:
        """Arguments that make the same transform again."""
        return {}


def shares_scale(operation: Any, attribute: str) -> bool:
    """Whether integers of a weight must have one scale for all its channels.

    Args:
        operation: a layer, attached or not, or a double of one (which has no transforms
            but says in `_kacc_shares_scale` what they wanted).
        attribute: names the weight.
    """
    if attribute in getattr(operation, "_kacc_shares_scale", ()):
        return True
    attached = getattr(operation, "_kacc_transforms", ())
    return any(transform.shares_scale(attribute) for transform in attached)


_TRANSFORMS: dict[str, type[Transform]] = {}


def register_transform(cls: type[Transform]) -> type[Transform]:
    """Class decorator: a transform that saved models may name."""
    _TRANSFORMS[cls.__name__] = cls
    return cls


def transform_config(transform: Transform) -> dict[str, Any]:
    """What a saved model says of a transform."""
    return {
        "class_name": type(transform).__name__,
        "config": transform.get_config(),
        "enabled": transform.enabled,
    }


def transform_from_config(config: dict[str, Any]) -> Transform:
    """The transform that a saved model describes."""
    name = config["class_name"]
    if name not in _TRANSFORMS:
        raise KaccError(
            "The saved model has a transform that this kacc does not know",
            received=name,
            fix="Load it with the version of kacc that wrote it, or a newer one",
        )
    transform = _TRANSFORMS[name](**config["config"])
    transform.enabled = config["enabled"]
    return transform


class State(keras.layers.Layer):
    """Holds the variables of transforms; a child of the layer they are attached to.

    Variables are stored by name, so that a file with others, or with none (the weights
    of a plain model), loads too and leaves those that it lacks as they are.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(dtype="float32", autocast=False, **kwargs)
        self.built = True

    def create(self, name: str, shape: tuple[int, ...], **options: Any) -> Any:
        """A variable, the same in all replicas: the mean of what they assign."""
        self._tracker.unlock()
        try:
            return self.add_weight(
                name=name,
                shape=shape,
                autocast=False,
                aggregation="mean",
                **{"initializer": "zeros", "trainable": False, **options},
            )
        finally:
            self._tracker.lock()

    def remove(self, variable: Any) -> None:
        """Forgets a variable, if it is one of its own."""
        if any(variable is own for own in self.variables):
            # Private, for Keras never takes a weight off a layer in public.
            # tests/core/test_keras_private.py fails if it goes.
            self._untrack_variable(variable)

    def save_own_variables(self, store: Any) -> None:
        """Writes the variables by name."""
        for variable in self.variables:
            store[variable.name] = variable

    def load_own_variables(self, store: Any) -> None:
        """Reads the variables that the store has."""
        for variable in self.variables:
            if variable.name in store:
                variable.assign(store[variable.name])
