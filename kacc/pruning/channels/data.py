"""Batches of the data that scores are measured on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from kacc.core.errors import UsageError

SAMPLES = 512  # at most; scores and refits change little with more
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
    count = 0
    for batch in _split(data) if _is_arrays(data) else data:
        yield batch
        count += len(keras.tree.flatten(batch)[0])
        if count >= samples:
            return
    if not count:
        raise UsageError("`data` must hold samples", received="none")


def inputs_of(batch: Any) -> Any:
    """The inputs of a batch."""
    return batch[0] if isinstance(batch, tuple) else batch


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
