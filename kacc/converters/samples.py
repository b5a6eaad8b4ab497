"""Data in any of the forms Keras knows, checked and as plain arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kacc.core.errors import UsageError
from kacc.core.manifest import TensorInfo

_FORMS = (
    "Pass arrays, or a tf.data.Dataset, PyDataset or generator of batches, with or "
    "without labels"
)


@dataclass(frozen=True)
class Samples:
    """Samples for a model: an array per input, and the labels that came with them."""

    inputs: list[np.ndarray]
    labels: Any = None

    def __len__(self) -> int:
        return len(self.inputs[0])

    def batches(self, size: int) -> Iterator[list[np.ndarray]]:
        """Batches of exactly `size`; the last one is filled up with the first samples.

        Example:
            >>> samples = Samples([np.arange(3)])
            >>> [batch[0].tolist() for batch in samples.batches(2)]
            [[0, 1], [2, 0]]
        """
        for start in range(0, len(self), size):
            chosen = np.arange(start, start + size) % len(self)
            yield [array[chosen] for array in self.inputs]


def gather(
    data: Any, inputs: Sequence[TensorInfo], what: str, limit: int | None = None
) -> Samples:
    """Collects samples from data and checks that they fit the inputs.

    Args:
        data: an array, a list or dictionary of arrays for several inputs, a
            tf.data.Dataset, a PyDataset, or a generator. What yields batches may yield
            `inputs`, `(inputs, labels)` or `(inputs, labels, weights)`, as for `fit`.
        inputs: what the model takes.
        what: what the data is called in errors, such as "Calibration data".
        limit: how many samples at most. Arrays are sampled evenly over their length,
            since they may be sorted by class; of batches the first ones are taken.

    Returns:
        The samples, in the model's order of inputs and the inputs' types.

    Raises:
        UsageError: if the data is empty, does not fit the inputs, or holds NaN or
            infinite values.

    Example:
        >>> image = TensorInfo("image", (None, 2), "float32")
        >>> gather(np.zeros((3, 2)), [image], "Calibration data").inputs[0].shape
        (3, 2)
    """
    if _is_arrays(data):
        arrays = check(data, inputs, what)
        chosen = _evenly(len(arrays[0]), limit)
        return Samples([array[chosen] for array in arrays])
    parts: list[list[np.ndarray]] = []
    labels: list[Any] = []
    count = 0
    for batch in _batches(data, what):
        x, y = _split(batch)
        rest = None if limit is None else limit - count
        arrays = [array[:rest] for array in check(x, inputs, what)]
        parts.append(arrays)
        labels.append(None if y is None else np.asarray(y)[:rest])
        count += len(arrays[0])
        if limit is not None and count >= limit:
            break
    if not parts:
        raise _empty(what)
    joined = None if labels[0] is None else np.concatenate(labels)
    return Samples([np.concatenate(a) for a in zip(*parts, strict=True)], joined)


def check(data: Any, inputs: Sequence[TensorInfo], what: str) -> list[np.ndarray]:
    """The arrays of one batch in the order of the inputs, checked against them.

    Args:
        data: an array, or a list or dictionary of arrays.
        inputs: what the model takes.
        what: what the data is called in errors.

    Returns:
        One array per input, of the input's type.

    Raises:
        UsageError: if the data does not fit.
    """
    flat = _by_input(data, inputs, what)
    arrays = [_checked(a, i, what) for a, i in zip(flat, inputs, strict=True)]
    lengths = {i.name: len(a) for i, a in zip(inputs, arrays, strict=True)}
    if len(set(lengths.values())) > 1:
        raise UsageError(
            f"{what} must have as many samples for each input",
            received=lengths,
            fix="Cut the arrays to one length",
        )
    return arrays


def _is_arrays(data: Any) -> bool:
    if isinstance(data, Mapping | list | tuple):
        return True
    return hasattr(data, "shape") and hasattr(data, "__array__")


def _batches(data: Any, what: str) -> Iterable[Any]:
    import keras

    if isinstance(data, keras.utils.PyDataset):
        return _items(data.__getitem__, data.num_batches)
    if isinstance(data, Iterable) and not isinstance(data, str | bytes):
        return data
    raise UsageError(
        f"{what} must be arrays or yield batches",
        received=type(data).__name__,
        fix=_FORMS,
    )


def _items(read: Callable[[int], Any], count: int | None) -> Iterator[Any]:
    index = 0
    while count is None or index < count:  # an endless PyDataset has no count
        yield read(index)
        index += 1


def _split(batch: Any) -> tuple[Any, Any]:
    """Inputs and labels of a batch, by the convention of `keras.Model.fit`."""
    if isinstance(batch, tuple) and len(batch) in (1, 2, 3):
        return batch[0], batch[1] if len(batch) > 1 else None
    return batch, None


def _by_input(data: Any, inputs: Sequence[TensorInfo], what: str) -> list[Any]:
    names = [info.name for info in inputs]
    if isinstance(data, Mapping):
        missing = [name for name in names if name not in data]
        if missing:
            raise UsageError(
                f"{what} must have an array for each input of {names}",
                received=sorted(str(key) for key in data),
                fix=f"Add {missing}",
            )
        return [data[name] for name in names]
    listed = isinstance(data, list | tuple)
    if len(names) > 1:
        if not listed or len(data) != len(names):
            raise UsageError(
                f"{what} must have an array for each input of {names}",
                received=f"{len(data)} arrays" if listed else "one array",
                fix="Pass them in the model's order, or as a dictionary by name",
            )
        return list(data)
    if listed and data and all(hasattr(x, "shape") for x in data):
        if len(data) == 1:
            return list(data)
        raise UsageError(
            f"{what} for a model of one input must be one array",
            received=f"a {type(data).__name__} of {len(data)} arrays",
            fix="Pass the inputs alone, without labels",
        )
    return [data]


def _checked(data: Any, info: TensorInfo, what: str) -> np.ndarray:
    array = _numbers(data, info, what)
    wanted = (None, *info.shape[1:])
    if array.size == 0:
        raise _empty(what)
    if array.ndim != len(wanted) or any(
        want not in (None, have) for want, have in zip(wanted, array.shape, strict=True)
    ):
        shape = ", ".join("any" if size is None else str(size) for size in wanted)
        raise UsageError(
            f"{what} for the input {info.name!r} must have the shape ({shape})",
            received=array.shape,
            fix="Add the batch axis" if array.ndim == len(wanted) - 1 else "",
        )
    array = array.astype(info.dtype, copy=False)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = array.size - int(np.isfinite(array).sum())
        raise UsageError(
            f"{what} must be finite",
            received=f"{bad} NaN or infinite values for the input {info.name!r}",
            fix="Remove these samples",
        )
    return array


def _numbers(data: Any, info: TensorInfo, what: str) -> np.ndarray:
    try:
        array = np.asarray(data)
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"{what} must be arrays of numbers", received=str(error), fix=_FORMS
        ) from error
    if array.dtype.name == "bfloat16":  # NumPy takes it for raw bytes
        array = array.astype(np.float32)
    wanted = "biuf" if info.dtype.startswith("float") else "biu"
    if array.dtype.kind not in wanted:
        raise UsageError(
            f"{what} for the input {info.name!r} must be of a type that becomes "
            f"{info.dtype}",
            received=f"dtype {array.dtype}",
            fix=f"Convert it to {info.dtype}",
        )
    return array


def _evenly(length: int, limit: int | None) -> np.ndarray:
    count = length if limit is None else min(length, limit)
    return np.linspace(0, length - 1, count).round().astype(int)


def _empty(what: str) -> UsageError:
    return UsageError(
        f"{what} must have at least one sample",
        received="none",
        fix="Pass samples like those that the model will see",
    )
