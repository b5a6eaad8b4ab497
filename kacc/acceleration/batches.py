"""Batches of whatever `fit` takes, for measuring."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kacc.core.arguments import whole
from kacc.core.errors import UsageError


def check_data(data: Any, batch_size: int) -> None:
    """Raises a UsageError for what has no batches with targets."""
    whole("batch_size", batch_size, 1)
    kinds = tf.data.Dataset | keras.utils.PyDataset
    if isinstance(data, kinds):
        return
    if isinstance(data, tuple) and len(data) in (2, 3):
        _check_lengths(data)
        return
    raise UsageError(
        "The data must be a tf.data.Dataset or PyDataset of batches, or arrays (x, y)",
        received=type(data).__name__,
        fix="Pass what fit takes, arrays as one tuple",
    )


def _check_lengths(arrays: tuple[Any, ...]) -> None:
    shapes = [tuple(np.shape(array)) for array in keras.tree.flatten(arrays)]
    if len({shape[:1] for shape in shapes}) != 1 or not shapes[0]:
        raise UsageError(
            "Arrays must have an entry for each example",
            received=f"arrays of the shapes {', '.join(map(str, shapes[:4]))}",
            fix="Pass (x, y) of one length, without None",
        )


def batches(data: Any, batch_size: int = 32) -> Iterator[Any]:
    """The batches of data once, in order, as tensors.

    Args:
        data: a tf.data.Dataset or PyDataset of batches, or arrays (x, y) or
            (x, y, sample_weight), each maybe a list or dictionary of arrays.
        batch_size: of arrays.

    Yields:
        (x, y) or (x, y, sample_weight).

    Example:
        >>> x, y = np.zeros((5, 4)), np.zeros(5)
        >>> [len(batch[0]) for batch in batches((x, y), 2)]
        [2, 2, 1]
    """
    check_data(data, batch_size)
    if isinstance(data, tf.data.Dataset):
        yield from data
    elif isinstance(data, keras.utils.PyDataset):
        for index in range(data.num_batches or 0):
            yield _tensors(data[index])
    else:
        arrays = _floats(data)
        size = len(keras.tree.flatten(arrays)[0])
        for start in range(0, size, batch_size):
            part = slice(start, start + batch_size)
            yield keras.tree.map_structure(
                lambda array, part=part: tf.convert_to_tensor(array[part]), arrays
            )


def first_batch(data: Any, batch_size: int) -> Any:
    """The first batch, as `fit` gives it to a step.

    Raises:
        UsageError: if there is none, or it has no targets.
    """
    batch = next(iter(batches(data, batch_size)), None)
    if not isinstance(batch, tuple) or len(batch) < 2:
        raise UsageError(
            "The data must have batches of (x, y)",
            received="no batch" if batch is None else type(batch).__name__,
            fix="Batch a Dataset of pairs",
        )
    return batch


def _tensors(batch: Any) -> Any:
    return keras.tree.map_structure(tf.convert_to_tensor, _floats(tuple(batch)))


def _floats(structure: Any) -> Any:
    """Arrays, with floats in Keras's own type as `fit` makes them."""

    def one(value: Any) -> Any:
        array = value if tf.is_tensor(value) else np.asarray(value)
        if getattr(array.dtype, "kind", "") in ("O", "S", "U"):
            return array  # texts
        name = getattr(array.dtype, "name", str(array.dtype))
        is_other = name in ("float64", "float16") and name != keras.config.floatx()
        return keras.ops.convert_to_numpy(array).astype(
            keras.config.floatx() if is_other else name
        )

    # Lists as `fit` takes them, which TensorFlow would make one tensor of.
    return keras.tree.map_structure(one, keras.tree.lists_to_tuples(structure))
