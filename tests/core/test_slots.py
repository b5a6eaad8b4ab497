"""From a variable to what each optimizer of Keras keeps for it."""

import keras
import numpy as np
import pytest
from keras import optimizers

from kacc.core.slots import slots_of

EVERY = {
    "adadelta": lambda: optimizers.Adadelta(),
    "adafactor": lambda: optimizers.Adafactor(),
    "adagrad": lambda: optimizers.Adagrad(),
    "adam": lambda: optimizers.Adam(),
    "amsgrad": lambda: optimizers.Adam(amsgrad=True),
    "adamax": lambda: optimizers.Adamax(),
    "adamw": lambda: optimizers.AdamW(),
    "ftrl": lambda: optimizers.Ftrl(),
    "lamb": lambda: optimizers.Lamb(),
    "lion": lambda: optimizers.Lion(),
    "muon": lambda: optimizers.Muon(),
    "nadam": lambda: optimizers.Nadam(),
    "rmsprop": lambda: optimizers.RMSprop(momentum=0.9, centered=True),
    "schedule_free": lambda: optimizers.ScheduleFreeAdamW(),
    "sgd": lambda: optimizers.SGD(),
    "momentum": lambda: optimizers.SGD(momentum=0.9),
    "averaged": lambda: optimizers.Adam(use_ema=True),
    "accumulating": lambda: optimizers.Adam(gradient_accumulation_steps=2),
    "scaled": lambda: optimizers.LossScaleOptimizer(optimizers.Adam()),
}


def test_every_optimizer_of_keras_is_tried():
    """A new one in a new Keras must be added above."""
    classes = {
        value
        for value in vars(optimizers).values()
        if isinstance(value, type)
        and issubclass(value, optimizers.Optimizer)
        and value is not optimizers.Optimizer
    }
    tried = {type(make()) for make in EVERY.values()}
    assert {c.__name__ for c in classes - tried} <= {"MultiOptimizer"}


@pytest.mark.parametrize("kind", EVERY)
def test_all_variables_of_the_right_shape_are_found(kind):
    """Shapes are all different, so that they tell whose slot it is."""
    variables = [keras.Variable(np.ones((2, n), "float32")) for n in (3, 4, 5)]
    optimizer = EVERY[kind]()
    assert list(slots_of(optimizer, variables[1])) == []  # it is not built
    optimizer.build(variables)
    of_shape = {v.path for v in optimizer.variables if tuple(v.shape) == (2, 4)}
    found = list(slots_of(optimizer, variables[1]))
    assert {slot.path for slot, _ in found} == of_shape
    for slot, initial in found:
        if kind not in ("averaged", "schedule_free"):  # these keep the weights too
            np.testing.assert_allclose(slot.numpy(), initial)


def test_a_variable_that_is_not_trained_has_none():
    variable, other = (keras.Variable(np.ones((2, 3), "float32")) for _ in range(2))
    optimizer = optimizers.Adam()
    optimizer.build([variable])
    assert list(slots_of(optimizer, other)) == []
    assert list(slots_of(None, other)) == []
