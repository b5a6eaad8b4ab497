"""How the training step is run: by XLA, and several steps in one call."""

from __future__ import annotations

import keras

from kacc.acceleration.changes import check_model, note, take
from kacc.core import attach
from kacc.core.arguments import whole
from kacc.core.errors import UsageError


def compile_step(model: keras.Model, jit_compile: bool = True) -> keras.Model:
    """Lets XLA compile the training step of a compiled model, or not.

    Whether it is faster depends on the machine: measure it by `plan`. A saved model
    says what `compile` was told.

    Args:
        model: built and compiled.
        jit_compile: as for `compile`.

    Returns:
        The same model.

    Raises:
        UsageError: for anything but such a model, or one that runs eagerly or has
            layers that XLA cannot compile.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model.compile("sgd", "mse")
        >>> compile_step(model).jit_compile
        True
    """
    check_model(model, compiled=True)
    if jit_compile and model.run_eagerly:
        raise UsageError(
            "XLA cannot compile a model that runs eagerly",
            received=model.name,
            fix="Compile it with run_eagerly=False",
        )
    if jit_compile and not _has_xla(model):
        raise UsageError(
            "Keras says that a layer of the model cannot be compiled by XLA",
            received=model.name,
            fix="Leave jit_compile off",
        )
    note(model, "jit_compile", model.jit_compile)
    model.jit_compile = jit_compile
    attach.refresh_functions(model)
    return model


def several_steps(model: keras.Model, steps: int) -> keras.Model:
    """Runs several training steps in one call, which pays where steps are short.

    What is computed stays the same; callbacks are called once for so many steps.

    Args:
        model: built and compiled.
        steps: `steps_per_execution` of `compile`.

    Returns:
        The same model.

    Raises:
        UsageError: for anything but such a model, or fewer than one step.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model.compile("sgd", "mse")
        >>> several_steps(model, 8).steps_per_execution
        8
    """
    check_model(model, compiled=True)
    whole("steps", steps, 1)
    note(model, "steps_per_execution", model.steps_per_execution)
    model.steps_per_execution = steps
    attach.refresh_functions(model)
    return model


def undo_execution(model: keras.Model) -> None:
    """Runs the step as it was before."""
    for before in take(model, "jit_compile"):
        model.jit_compile = before
    for before in take(model, "steps_per_execution"):
        model.steps_per_execution = before


def _has_xla(model: keras.Model) -> bool:
    # `supports_jit` is public on layers; the model's own check warns instead.
    return all(layer.supports_jit for layer in model._flatten_layers())
