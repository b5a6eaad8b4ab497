"""An optimizer that gets more variables goes on as if it had had them all along."""

import keras
import numpy as np
import pytest

from kacc.core.optimizers import extend_optimizer

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
