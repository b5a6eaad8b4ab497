"""Samples of data: batches of them, and what layers compute on them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from kacc.core.errors import UsageError
from kacc.core.graph import Graph

SAMPLES = 512  # at most; what is measured on them changes little with more
ROWS = 8192  # sampled of each layer, over all batches
BATCH = 32


def batches(data: Any, samples: int = SAMPLES) -> Iterator[Any]:
    """Batches of about 32 of up to `samples` samples.

    Args:
        data: arrays of inputs; a tuple (inputs, labels); or what yields batches, with
            or without labels (tf.data.Dataset, PyDataset, generator).
        samples: how many to take.

    Yields:
        Inputs, or tuples of inputs and labels (and sample weights).

    Raises:
        UsageError: if there is no sample.

    Example:
        >>> [len(x) for x in batches(np.zeros((40, 4)))]
        [32, 8]
    """
    if isinstance(data, keras.utils.PyDataset):
        data = (data[i] for i in range(data.num_batches))
    if isinstance(data, (str, bytes)) or not hasattr(data, "__iter__"):
        raise UsageError(
            "Samples must be arrays, or what yields batches of them", received=data
        )
    count = 0
    for batch in _split(data) if _is_arrays(data) else data:
        yield batch
        count += len(keras.tree.flatten(batch)[0])
        if count >= samples:
            return
    if not count:
        raise UsageError("`data` must hold samples", received="none")


def fitting(
    model: Any, graph: Graph, data: Any, samples: int = SAMPLES, what: str = "data"
) -> list[Any]:
    """The batches of data, checked against the inputs of a model.

    Args:
        model: a built model.
        graph: of it.
        data: as for `batches`.
        samples: how many to take.
        what: what the data is called in errors.

    Raises:
        UsageError: if there is no sample, or they do not fit the inputs, or hold NaN or
            infinite values, which nothing can be fitted to.

    Example:
        >>> from kacc.core.graph import trace
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> len(fitting(model, trace(model), np.zeros((40, 4))))
        2
    """
    held = list(batches(data, samples))
    wanted = [tensor.shape for tensor in graph.inputs]
    for batch in held:
        _check_fit(flat_inputs(model, batch), wanted, what)
    return held


def _check_fit(values: list[Any], wanted: list[Any], what: str) -> None:
    got = [tuple(getattr(x, "shape", ())) for x in values]
    fits = len(got) == len(wanted) and all(map(_fits, got, wanted))
    if not fits:
        shown = (shapes[0] if len(shapes) == 1 else shapes for shapes in (got, wanted))
        received, expected = shown
        raise UsageError(
            f"`{what}` must fit the inputs of the model, {expected}",
            received=f"samples of the shape {received}",
        )
    for value in map(np.asarray, values):
        if value.dtype.kind == "f" and not np.all(np.isfinite(value)):
            raise UsageError(
                f"`{what}` must hold finite numbers", received="NaN or infinity"
            )


def _fits(got: Any, wanted: Any) -> bool:
    pairs = zip(got[1:], wanted[1:], strict=False)
    return len(got) == len(wanted) and all(b is None or a == b for a, b in pairs)


def inputs_of(batch: Any) -> Any:
    """The inputs of a batch."""
    return batch[0] if isinstance(batch, tuple) else batch


def run(operation: Any, args: Any, kwargs: Any) -> Any:
    """What a layer or operator computes at inference."""
    if getattr(operation, "_call_has_training_arg", False):
        kwargs = {**kwargs, "training": False}
    return operation(*args, **kwargs)


def flat_inputs(model: Any, batch: Any) -> list[Any]:
    """The inputs of a batch in the order of the model's, as tensors."""
    inputs = inputs_of(batch)
    names = getattr(model, "input_names", None)
    if isinstance(inputs, dict) and names and set(names) == set(inputs):
        inputs = [inputs[name] for name in names]
    return [
        keras.ops.convert_to_tensor(
            x, dtype=model.input_dtype if x.dtype.kind == "f" else None
        )
        if isinstance(x, np.ndarray)
        else x
        for x in keras.tree.flatten(inputs)
    ]


def sampled(
    matrix: Any, random: np.random.Generator, parts: int, most: int = ROWS
) -> np.ndarray:
    """Some rows of a matrix, so many that all parts together have at most `most`."""
    count = min(len(matrix), -(-most // parts))
    chosen = np.sort(random.choice(len(matrix), count, replace=False))
    return np.asarray(matrix, np.float64)[chosen]


def _is_arrays(data: Any) -> bool:
    if not isinstance(data, (np.ndarray, tuple, list, dict)) and not _is_tensor(data):
        return False
    flat = keras.tree.flatten(data)
    return bool(flat) and all(isinstance(x, np.ndarray) or _is_tensor(x) for x in flat)


def _is_tensor(x: Any) -> bool:
    return bool(keras.ops.is_tensor(x))


def _split(data: Any) -> Iterator[Any]:
    total = len(keras.tree.flatten(data)[0])
    for start in range(0, total, BATCH):
        part = slice(start, start + BATCH)
        yield keras.tree.map_structure(lambda x, part=part: x[part], data)
