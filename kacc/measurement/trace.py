"""Which layer each operation of a training step belongs to, from TensorFlow's trace."""

from __future__ import annotations

import contextlib
import functools
import re
import tempfile
import types
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from kacc.core.errors import KaccError
from kacc.core.graph import is_container

OPTIMIZER, REST = "optimizer", "rest"

# Scopes that operations get while the step is traced: TensorFlow appends "_1" to names
# that come again, and keeps them in the gradients' names.
_LAYER = re.compile(r"kacc_layer_(\d+)x")
_OPTIMIZER_SCOPE = "kacc_optimizer"
# An operation's event is "name/in/scopes:Type"; those that only run others are not.
_OPERATION = re.compile(r"^([\w./\-]+):(\w+)$")
_CONTAINERS = frozenset(
    {"StatefulPartitionedCall", "PartitionedCall", "While", "If", "StatelessIf"}
)


@contextlib.contextmanager
def scoped(model: keras.Model) -> Iterator[list[Any]]:
    """Inside, what is traced tells the layer of each operation by its name.

    Args:
        model: its layers and its optimizer are changed for the moment.

    Yields:
        The layers; the number in an operation's name is their place.
    """
    layers = [x for x in model._flatten_layers() if x is not model]
    before = [vars(layer).get("call") for layer in layers]
    for number, layer in enumerate(layers):
        call = _in_scope(layer.call, f"kacc_layer_{number}x")
        object.__setattr__(layer, "call", call)
    optimizer = model.optimizer
    optimizer.apply = _in_scope(optimizer.apply, _OPTIMIZER_SCOPE)
    try:
        yield layers
    finally:
        del optimizer.apply
        for layer, call in zip(layers, before, strict=True):
            vars(layer).pop("call")
            if call is not None:
                object.__setattr__(layer, "call", call)


def _in_scope(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        with tf.name_scope(name):
            return function(*args, **kwargs)

    return called


def composites(layers: list[Any]) -> frozenset[str]:
    """The numbers of Keras's layers that are made of others, such as attention.

    What is inside of them was not put there by whoever reads of it.
    """
    return frozenset(
        str(number)
        for number, layer in enumerate(layers)
        if layer._layers and not is_container(layer)
    )


def trace_times(
    run: Callable[[], Any], steps: int, whole: Collection[str] = ()
) -> dict[tuple[str, bool], float]:
    """Seconds of the operations of one step, by owner and direction.

    Args:
        run: a step that was traced inside `scoped`.
        steps: how many are run; the times are their mean.
        whole: numbers of layers that own what the layers inside of them do.

    Returns:
        (the number of a layer, OPTIMIZER or REST; whether it is the backward pass) ->
        seconds of all threads.
    """
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        try:
            for _ in range(steps):
                run()
        finally:
            tf.profiler.experimental.stop()
        found = list(Path(folder).rglob("*.xplane.pb"))
        if not found:
            raise KaccError("TensorFlow's profiler wrote no trace")
        space = _planes().XSpace.FromString(found[0].read_bytes())
    times: dict[tuple[str, bool], float] = defaultdict(float)
    for name, seconds in _events(space):
        times[owner(name, whole)] += seconds / steps
    return times


def owner(name: str, whole: Collection[str] = ()) -> tuple[str, bool]:
    """Whose an operation is, and whether it is of the backward pass.

    Args:
        name: of the operation, with its scopes.
        whole: numbers of layers that own what the layers inside of them do.

    Example:
        >>> owner("gradient_tape/model/kacc_layer_3x_1/Conv2D")
        ('3', True)
        >>> owner("kacc_optimizer/adam/Mul"), owner("compile_loss/Sum")
        (('optimizer', False), ('rest', False))
        >>> owner("kacc_layer_1x/kacc_layer_2x/kacc_layer_3x/MatMul", whole={"2"})
        ('2', False)
    """
    numbers = _LAYER.findall(name)
    if _OPTIMIZER_SCOPE in name:
        return OPTIMIZER, False
    # The innermost layer; what a model around it does itself is the model's.
    found = next((n for n in numbers if n in whole), (numbers or [REST])[-1])
    return found, "gradient_tape" in name


def _events(space: Any) -> Iterator[tuple[str, float]]:
    """Names and seconds of the operations, of the GPU's kernels where there are any."""
    on_gpu = [plane for plane in space.planes if "/device:GPU" in plane.name]
    for plane in on_gpu or space.planes:
        for line in plane.lines:
            for event in line.events:
                name = _operation(plane, event, bool(on_gpu))
                match = _OPERATION.match(name)
                if match and match[2] not in _CONTAINERS:
                    yield match[1], event.duration_ps * 1e-12


def _operation(plane: Any, event: Any, of_kernel: bool) -> str:
    if of_kernel:
        for stat in event.stats:
            if plane.stat_metadata[stat.metadata_id].name == "tf_op":
                return str(stat.str_value or plane.stat_metadata[stat.ref_value].name)
        return ""
    return str(plane.event_metadata[event.metadata_id].name)


def _planes() -> types.ModuleType:
    # Private: the form of the profiler's file. tests/measurement/test_profile.py fails
    # when it moves.
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    return xplane_pb2
