"""What changes the training itself: learning rates by schedule, averaged weights."""

from __future__ import annotations

from typing import Any

import keras

from kacc.acceleration.changes import check_model, note, optimizer_of, take
from kacc.core import attach
from kacc.core.arguments import is_number, whole
from kacc.core.errors import UsageError
from kacc.core.optimizers import rebuild_optimizer


def warmup_cosine(
    peak: float, steps: int, warmup: int | float = 0.05, final: float = 0.01
) -> keras.optimizers.schedules.CosineDecay:
    """A learning rate that rises in a straight line and falls along a cosine.

    Keras's own `CosineDecay` (Loshchilov and Hutter 2016, arXiv:1608.03983) with the
    warm-up of Goyal et al. 2017 (arXiv:1706.02677).

    Args:
        peak: the highest learning rate.
        steps: updates in all, those of the warm-up among them.
        warmup: updates that the rise takes, or a share of `steps` if less than 1.
        final: where it ends, as a share of `peak`.

    Returns:
        The schedule, for an optimizer or `set_schedule`.

    Raises:
        UsageError: for figures that make no schedule.

    Example:
        >>> schedule = warmup_cosine(0.1, steps=100, warmup=10)
        >>> [round(float(schedule(step)), 3) for step in (0, 5, 10, 55, 100)]
        [0.0, 0.05, 0.1, 0.051, 0.001]
    """
    whole("steps", steps, 2)
    for name, value, fits in (
        ("peak", peak, lambda value: value > 0),
        ("warmup", warmup, lambda value: 0 <= value < steps),
        ("final", final, lambda value: 0 <= value <= 1),
    ):
        if not (is_number(value) and fits(value)):
            raise UsageError(
                f"`{name}` makes no schedule of {steps} steps",
                received=value,
                fix="peak > 0, 0 <= warmup < steps, 0 <= final <= 1",
            )
    rise = round(warmup * steps) if warmup < 1 else int(warmup)
    if rise == 0:
        return keras.optimizers.schedules.CosineDecay(peak, steps, alpha=final)
    return keras.optimizers.schedules.CosineDecay(
        0.0, steps - rise, alpha=final, warmup_target=peak, warmup_steps=rise
    )


def set_schedule(model: keras.Model, schedule: Any) -> keras.Model:
    """Gives the optimizer of a compiled model a schedule for its learning rate.

    The schedule is asked for the number of the update, counted from the optimizer's
    first. A schedule cannot be changed by hand or by `ReduceLROnPlateau` afterwards;
    Keras says so.

    Args:
        model: built and compiled.
        schedule: a `keras.optimizers.schedules.LearningRateSchedule`.

    Returns:
        The same model.

    Raises:
        UsageError: for anything but such a model and schedule.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model.compile("adam", "mse")
        >>> model = set_schedule(model, warmup_cosine(1e-3, steps=100))
        >>> float(model.optimizer.learning_rate)
        0.0
    """
    check_model(model, compiled=True)
    if not isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        raise UsageError(
            "The schedule must be one of keras.optimizers.schedules",
            received=schedule,
            fix="Pass for one kacc.acceleration.warmup_cosine(1e-3, steps=1000)",
        )
    optimizer_of(model).learning_rate = schedule
    attach.refresh_functions(model)
    return model


def average_weights(
    model: keras.Model, momentum: float = 0.99
) -> keras.callbacks.SwapEMAWeights:
    """Lets the optimizer keep a moving average of the weights, to validate and ship.

    Keras's own `use_ema` (Polyak and Juditsky 1992, doi:10.1137/0330046), for an
    optimizer that is built already too: averages start from the present weights.
    Together with quantization, pruning or learned steps, whose variables are averaged
    as well.

    Args:
        model: built and compiled.
        momentum: share of the average that stays with each update.

    Returns:
        The callback for `fit`, with which validation and checkpoints of each epoch,
        and the weights at the end, are the averages.

    Raises:
        UsageError: for anything but such a model, or a momentum outside 0..1.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model.compile("adam", "mse")
        >>> type(average_weights(model)).__name__
        'SwapEMAWeights'
    """
    check_model(model, compiled=True)
    if not (is_number(momentum) and 0 <= momentum < 1):
        raise UsageError("`momentum` must be from 0 to less than 1", received=momentum)
    optimizer = optimizer_of(model)
    note(model, "average", (optimizer.use_ema, optimizer.ema_momentum))
    had_averages = optimizer.use_ema
    optimizer.use_ema, optimizer.ema_momentum = True, momentum
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    elif not had_averages:
        rebuild_optimizer(optimizer)
    if not had_averages:
        averages = optimizer._model_variables_moving_average
        pairs = zip(averages, optimizer._trainable_variables, strict=True)
        for average, variable in pairs:
            average.assign(variable)
    attach.refresh_functions(model)
    return keras.callbacks.SwapEMAWeights(swap_on_epoch=True)


def undo_averaging(model: keras.Model) -> None:
    """Keeps averages as before: what there was none of is dropped."""
    for use_ema, momentum in take(model, "average"):
        optimizer = optimizer_of(model)
        optimizer.ema_momentum = momentum
        if optimizer.use_ema and not use_ema:
            optimizer.use_ema = False
            vars(optimizer).pop("_model_variables_moving_average", None)
            rebuild_optimizer(optimizer)
