"""An optimizer that gets more variables goes on as if it had had them all along."""

import keras
import numpy as np
import pytest

from kacc.core.optimizers import extend_optimizer, slots_of

OPTIMIZERS = {
    "SGD": {"momentum": 0.9},
    "Adam": {"amsgrad": True},
    "AdamW": {"weight_decay": 0.01},
    "RMSprop": {"momentum": 0.5, "centered": True},
    "Adagrad": {},
    "Adadelta": {},
    "Adamax": {},
    "Nadam": {},
    "Ftrl": {},
    "Lion": {},
    "Lamb": {},
    "Adafactor": {},
    "Muon": {},
}


def _variables():
    rng = np.random.default_rng(3)
    return [
        keras.Variable(rng.normal(size=shape).astype("float32"), name=name)
        for name, shape in {"a": (3, 4), "late": (2,), "b": (4,)}.items()
    ]


def _optimizer(name, **options):
    options = {"learning_rate": 0.01, **OPTIMIZERS[name], **options}
    return getattr(keras.optimizers, name)(**options)


def _steps(optimizer, variables, count):
    for step in range(count):
        rng = np.random.default_rng(step)
        gradients = [
            keras.ops.convert_to_tensor(rng.normal(size=v.shape).astype("float32"))
            for v in variables
        ]
        optimizer.apply(gradients, variables)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("wrapped", [False, True], ids=["alone", "loss_scale"])
def test_the_others_go_on_as_they_would_have(name, wrapped):
    results = []
    for extended in (False, True):
        first, late, last = _variables()
        optimizer = _optimizer(name)
        if wrapped:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        optimizer.build([first, last])
        _steps(optimizer, [first, last], 3)
        if extended:
            extend_optimizer(optimizer, [first, late, last])
            before = late.numpy()
        _steps(optimizer, [first, last], 3)
        results.append((first.numpy(), last.numpy(), int(optimizer.iterations.numpy())))
        if extended:
            _steps(optimizer, [first, late, last], 1)
            assert not np.array_equal(before, late.numpy())
            assert len(optimizer.variables) == len({id(v) for v in optimizer.variables})
    for plain, grown in zip(*results, strict=True):
        np.testing.assert_array_equal(plain, grown)


@pytest.mark.parametrize(
    "options", [{"use_ema": True}, {"gradient_accumulation_steps": 2}], ids=str
)
def test_averages_and_accumulated_gradients_stay(options):
    first, late, last = _variables()
    optimizer = _optimizer("Adam", **options)
    optimizer.build([first, last])
    _steps(optimizer, [first, last], 3)
    kind = next(iter(options)).split("_")[0]
    slots = {"use": "_model_variables_moving_average"}.get(
        kind, "_accumulated_gradients"
    )
    before = [slot.numpy() for slot in getattr(optimizer, slots)]
    extend_optimizer(optimizer, [first, late, last])
    after = [slot.numpy() for slot in getattr(optimizer, slots)]
    np.testing.assert_array_equal(before[0], after[0])
    np.testing.assert_array_equal(before[1], after[2])


def test_one_that_is_not_built_or_has_them_is_left_alone():
    variables = _variables()
    optimizer = _optimizer("Adam")
    extend_optimizer(optimizer, variables)
    assert not optimizer.built
    optimizer.build(variables)
    slots = optimizer._momentums
    extend_optimizer(optimizer, variables)
    assert optimizer._momentums is slots
    extend_optimizer(None, variables)


# From a variable to what each optimizer of Keras keeps for it

EVERY = {
    "adadelta": lambda: keras.optimizers.Adadelta(),
    "adafactor": lambda: keras.optimizers.Adafactor(),
    "adagrad": lambda: keras.optimizers.Adagrad(),
    "adam": lambda: keras.optimizers.Adam(),
    "amsgrad": lambda: keras.optimizers.Adam(amsgrad=True),
    "adamax": lambda: keras.optimizers.Adamax(),
    "adamw": lambda: keras.optimizers.AdamW(),
    "ftrl": lambda: keras.optimizers.Ftrl(),
    "lamb": lambda: keras.optimizers.Lamb(),
    "lion": lambda: keras.optimizers.Lion(),
    "muon": lambda: keras.optimizers.Muon(),
    "nadam": lambda: keras.optimizers.Nadam(),
    "rmsprop": lambda: keras.optimizers.RMSprop(momentum=0.9, centered=True),
    "schedule_free": lambda: keras.optimizers.ScheduleFreeAdamW(),
    "sgd": lambda: keras.optimizers.SGD(),
    "momentum": lambda: keras.optimizers.SGD(momentum=0.9),
    "averaged": lambda: keras.optimizers.Adam(use_ema=True),
    "accumulating": lambda: keras.optimizers.Adam(gradient_accumulation_steps=2),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()),
}


def test_every_optimizer_of_keras_is_tried():
    """A new one in a new Keras must be added above."""
    classes = {
        value
        for value in vars(keras.optimizers).values()
        if isinstance(value, type)
        and issubclass(value, keras.optimizers.Optimizer)
        and value is not keras.optimizers.Optimizer
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
    optimizer = keras.optimizers.Adam()
    optimizer.build([variable])
    assert list(slots_of(optimizer, other)) == []
    assert list(slots_of(None, other)) == []


def test_of_several_optimizers_the_one_that_has_the_variable_is_asked():
    first, second = (keras.Variable(np.ones((2, n), "float32")) for n in (3, 4))
    parts = [keras.optimizers.Adam(), keras.optimizers.SGD(momentum=0.9)]
    chosen = {id(first): parts[0], id(second): parts[1]}
    optimizer = keras.optimizers.MultiOptimizer(lambda variable: chosen[id(variable)])
    optimizer.build([first, second])
    for variable, part in ((first, parts[0]), (second, parts[1])):
        found = {id(slot) for slot, _ in slots_of(optimizer, variable)}
        own = [v for v in part.variables if v.shape == variable.shape]
        assert found == {id(v) for v in own}
        assert found
