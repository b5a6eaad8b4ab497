"""Less memory for a step: accumulated gradients, and activations computed twice."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from kacc.acceleration.changes import (
    check_model,
    layers_by_path,
    note,
    optimizer_of,
    take,
)
from kacc.core import attach, rules
from kacc.core.arguments import is_number, whole
from kacc.core.errors import UsageError
from kacc.core.optimizers import rebuild_optimizer


def accumulate_gradients(model: keras.Model, steps: int) -> keras.Model:
    """Updates the weights once in so many steps, by the mean of their gradients.

    A batch of 64 then is 4 batches of 16, with a quarter of the memory: give `fit`
    the smaller batches. Batch normalization sees the smaller ones. It is Keras's own
    `gradient_accumulation_steps`, for an optimizer that has slots already; they stay.

    Args:
        model: built and compiled.
        steps: 1 for none, which is the way back.

    Returns:
        The same model.

    Raises:
        UsageError: for anything but such a model, or fewer than one step.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model.compile("adam", "mse")
        >>> accumulate_gradients(model, 4).optimizer.gradient_accumulation_steps
        4
    """
    check_model(model, compiled=True)
    whole("steps", steps, 1)
    optimizer = optimizer_of(model)
    note(model, "accumulation", optimizer.gradient_accumulation_steps)
    _set_accumulation(optimizer, steps if steps > 1 else None)
    attach.refresh_functions(model)
    return model


def undo_accumulation(model: keras.Model) -> None:
    """Updates the weights as often as before."""
    for before in take(model, "accumulation"):
        _set_accumulation(optimizer_of(model), before)


def _set_accumulation(optimizer: Any, steps: int | None) -> None:
    # Schedules and corrections of bias count updates, which Keras computes from the
    # number of steps: it is set so that they go on from where they are.
    updates = int(optimizer.iterations)
    optimizer.gradient_accumulation_steps = steps
    if not optimizer.built:
        return
    vars(optimizer).pop("_accumulated_gradients", None)
    rebuild_optimizer(optimizer)
    optimizer._iterations.assign(updates * (steps or 1))


@dataclass(frozen=True)
class Rematerialization:
    """What `rematerialize` did.

    Args:
        layers: paths of the layers that are computed twice now.
        skipped: path of each other layer that was asked for -> why not.
    """

    layers: tuple[str, ...]
    skipped: Mapping[str, str]


def rematerialize(
    model: keras.Model, paths: Iterable[str] | None = None
) -> Rematerialization:
    """Lets layers forget what the backward pass needs, and compute it again there.

    Less memory for more time (Chen et al. 2016, arXiv:1604.06174); what is computed
    stays the same, and so do classes, names and the saved form. Layers with state that
    a call changes (batch normalization, dropout, quantization) cannot be: the second
    call would change it once more. `keras.RematScope` does it while a model is made,
    and cannot pass on `training` on TensorFlow; this is for models that are there.

    Args:
        model: any built Keras 3 model on the TensorFlow backend.
        paths: regular expressions for whole paths of layers; None for all where it
            can save something: nested layers and models, and those with an activation.

    Returns:
        The paths of the layers, and why others were left alone.

    Raises:
        UsageError: for anything but such a model, or a path that matches no layer.

    Example:
        >>> import keras
        >>> dense = keras.layers.Dense
        >>> model = keras.Sequential([keras.Input((4,)), dense(8, "gelu"), dense(2)])
        >>> len(rematerialize(model).layers)
        1
    """
    check_model(model)
    found = [(p, layer) for p, layer in layers_by_path(model) if layer is not model]
    wanted = None if paths is None else _matching(paths, [p for p, _ in found])
    chosen: list[str] = []
    skipped: dict[str, str] = {}
    inside: set[int] = set()
    for path, layer in found:
        if id(layer) in inside or (wanted is not None and path not in wanted):
            continue
        reason = _reason(layer)
        if reason is None and (wanted is not None or _pays(layer)):
            note(model, f"recomputed {id(layer)}", layer)
            # Not a class of its own, so that it is saved as what it is. A method, for
            # copies of the layer to get their own.
            object.__setattr__(layer, "call", types.MethodType(_recomputed, layer))
            chosen.append(path)
            inside |= {id(x) for x in layer._flatten_layers(include_self=False)}
        elif reason is not None and (wanted is not None or _pays(layer)):
            skipped[path] = reason
    attach.refresh_functions(model)
    return Rematerialization(tuple(chosen), skipped)


def undo_rematerialization(model: keras.Model) -> None:
    """Lets layers remember again what they compute."""
    for layer in take(model, "recomputed "):
        vars(layer).pop("call", None)


def _recomputed(self: Any, *args: Any, **kwargs: Any) -> Any:
    """The layer's own call, computed again in the backward pass."""
    call = functools.partial(type(self).call, self, **kwargs)
    return tf.recompute_grad(call)(*args)


def _matching(paths: Iterable[str], known: list[str]) -> set[str]:
    given = [rules.Rule(path) for path in paths]
    return set(rules.resolve(given, known))


def _reason(layer: Any) -> str | None:
    if not layer.built:
        return "it is not built"
    # Of all variables, since seeds are among them too.
    if any(not variable.trainable for variable in _state(layer)):
        return "a call changes its state"
    return None


def _state(layer: Any) -> list[Any]:
    frozen = {id(w) for x in layer._flatten_layers() for w in x._trainable_variables}
    return [v for v in layer.variables if id(v) not in frozen]


def _pays(layer: Any) -> bool:
    """Whether more is kept for the backward pass than the layer's inputs."""
    if isinstance(layer, keras.layers.InputLayer):
        return False
    has_layers = any(True for _ in layer._flatten_layers(include_self=False))
    activation = getattr(layer, "activation", None)
    return has_layers or activation not in (None, keras.activations.linear)


def check_memory(value: Any) -> None:
    """Raises a UsageError for what is no number of bytes."""
    if value is not None and not (is_number(value) and value > 0):
        raise UsageError(
            "`memory` must be a number of bytes, or None",
            received=value,
            fix="Pass 2e9 for 2 GB",
        )


def peak_of(run: Any) -> int | None:
    """The most bytes that TensorFlow holds while `run()` runs, beyond those before.

    Returns:
        Bytes; None where TensorFlow does not count them (CPUs without oneDNN). On
        CPUs tensors below 256 KiB are not among them.

    Example:
        >>> peak = peak_of(lambda: tf.ones((1000, 1000)) + 1)
        >>> peak is None or peak >= 4_000_000
        True
    """
    gpus = tf.config.list_logical_devices("GPU")
    device = gpus[0].name if gpus else "CPU:0"
    try:
        tf.config.experimental.reset_memory_stats(device)
        before = tf.config.experimental.get_memory_info(device)["current"]
        run()
        return tf.config.experimental.get_memory_info(device)["peak"] - before
    except ValueError:
        return None
