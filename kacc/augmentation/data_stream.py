"""Data in any form as a stream of batches of samples, with names."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kacc.augmentation import decoding, exif, folders
from kacc.augmentation.progress import Progress
from kacc.core.errors import UsageError

_BATCH = 256
# Images that TensorFlow cannot decode.
_OTHER_IMAGES = (".avif", ".heic", ".heif", ".jp2", ".jxl", ".tga", ".tif", ".tiff")
_FORMS = (
    "Pass the path of a folder, arrays (x, y), a tf.data.Dataset, a PyDataset or a "
    "generator of batches"
)


@dataclass(frozen=True)
class Batch:
    """Some samples.

    Args:
        names: of the samples: their numbers, or names of files.
        inputs: an array for each input, with as many entries as there are names.
        labels: the same for each output; empty without labels.
    """

    names: list[int | str]
    inputs: list[np.ndarray]
    labels: list[np.ndarray] = field(default_factory=list)


@dataclass
class Stream:
    """Batches, and what is known of the data before.

    Args:
        batches: to be read once.
        class_names: by number; empty if there are none.
        is_folder: whether samples are files, which may have any size.
        unread: after reading, the files that cannot be read.
        rotated: after reading, those whose EXIF data says that they are to be turned.
        remarks: what is wrong with the folder itself.
    """

    batches: Iterable[Batch]
    class_names: tuple[str, ...] = ()
    is_folder: bool = False
    unread: list[str] = field(default_factory=list)
    rotated: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def stream(data: Any, what: str, limit: int | None) -> Stream:
    """Opens data of any form.

    Args:
        data: see `kacc.augmentation.check`.
        what: what it is called beside the bar and in errors.
        limit: samples at most, or None.

    Raises:
        UsageError: if it is of no form that is known, empty, or has no end.
    """
    if isinstance(data, str | os.PathLike):
        return _of_folder(Path(data), what, limit)
    if isinstance(data, tf.data.Dataset):
        return Stream(_limited(_of_dataset(data, what, limit), limit))
    if isinstance(data, keras.utils.PyDataset):
        return Stream(_limited(_of_pydataset(data, what, limit), limit))
    if isinstance(data, tuple | Mapping) or hasattr(data, "__array__"):
        return Stream(_limited(_of_arrays(data, what), limit))
    if isinstance(data, Iterable) and not isinstance(data, list):
        return Stream(_limited(_numbered(_shown(data, what, None)), limit))
    raise UsageError(f"`{what}` must be data", received=type(data).__name__, fix=_FORMS)


# Folders


def _of_folder(root: Path, what: str, limit: int | None) -> Stream:
    listing = folders.list_images(root, labelled=False)
    root = listing.root
    tops = [path.relative_to(root).parts[:-1][:1] for path in listing.paths]
    names = tuple(sorted({top[0] for top in tops if top}))
    result = Stream([], is_folder=True, remarks=_remarks(root, set(names)))
    if len(names) > 1:
        result.class_names = names
        loose = [i for i, top in enumerate(tops) if not top]
        if loose:
            said = decoding.named(listing.names(loose))
            result.remarks.append(f"beside the folders of classes lie images: {said}")
        listing, tops = listing.without(loose), [top for top in tops if top]
    if limit is not None:
        kept = np.linspace(0, len(listing) - 1, min(limit, len(listing)))
        indices = kept.round().astype(int).tolist()
        listing, tops = listing.take(indices), [tops[i] for i in indices]
    numbers = [names.index(top[0]) for top in tops] if result.class_names else []
    result.batches = _files(listing, numbers, result, what)
    return result


def _files(
    listing: folders.Listing, numbers: list[int], result: Stream, what: str
) -> Iterator[Batch]:
    found = set()

    def load(path: Any) -> Any:
        return decoding.read(path, 0)

    for index, image in decoding.readable(listing, load, f"reading {what}"):
        found.add(index)
        if exif.is_rotated(listing.paths[index]):
            result.rotated += listing.names([index])
        labels = [np.array([numbers[index]])] if numbers else []
        yield Batch(listing.names([index]), [image[None]], labels)  # type: ignore[arg-type]
    missing = [index for index in range(len(listing)) if index not in found]
    result.unread += listing.names(missing)


def _remarks(root: Path, filled: set[str]) -> list[str]:
    result = []
    inner = [p.name for p in root.iterdir() if p.is_dir() and p.name[0] != "."]
    empty = sorted(set(inner) - filled)
    if filled and empty:
        result.append(f"folders without images: {decoding.named(empty)}")
    suffixes = (
        os.path.splitext(name)[1].lower() for _, _, f in os.walk(root) for name in f
    )
    others = Counter(suffix for suffix in suffixes if suffix in _OTHER_IMAGES)
    if others:
        said = ", ".join(f"{count:,} {suffix}" for suffix, count in others.items())
        result.append(f"images of types that TensorFlow does not read: {said}")
    return result


# Arrays and batches


def _of_arrays(data: Any, what: str) -> Iterator[Batch]:
    inputs, labels = _pair(data)
    lengths = {len(array) for array in (*inputs, *labels) if np.ndim(array)}
    if len(lengths) != 1 or not all(np.ndim(array) for array in (*inputs, *labels)):
        raise UsageError(
            f"Arrays of `{what}` must have an entry for each sample",
            received=[np.shape(array) for array in (*inputs, *labels)],
            fix="Pass (x, y) of one length",
        )
    (length,) = lengths
    with Progress(f"reading {what}", length) as progress:
        for start in range(0, length, _BATCH):
            stop = min(start + _BATCH, length)
            parts = (
                [_array(array[start:stop]) for array in group]
                for group in (inputs, labels)
            )
            yield Batch(list(range(start, stop)), *parts)
            progress.advance(stop - start)


def _of_dataset(data: Any, what: str, limit: int | None) -> Iterator[Batch]:
    count = int(data.cardinality())
    if count == tf.data.INFINITE_CARDINALITY and limit is None:
        raise _endless(what)
    if not _is_batched(data.element_spec):
        data, count = data.batch(_BATCH), -(-count // _BATCH)
    return _numbered(_shown(data, what, count if count >= 0 else None))


def _of_pydataset(data: Any, what: str, limit: int | None) -> Iterator[Batch]:
    count = data.num_batches
    if count is None and limit is None:
        raise _endless(what)
    numbers = range(count) if count is not None else iter(int, 1)
    batches = (data[i] for i, _ in enumerate(numbers))
    return _numbered(_shown(batches, what, count))


def _shown(batches: Iterable[Any], what: str, count: int | None) -> Iterator[Any]:
    with Progress(f"reading {what}", count) as progress:
        for batch in batches:
            yield batch
            progress.advance()


def _numbered(batches: Iterable[Any]) -> Iterator[Batch]:
    start = 0
    for batch in batches:
        groups = ([_array(a) for a in group] for group in _pair(batch))
        inputs, labels = groups
        names: list[int | str] = list(range(start, start + len(inputs[0])))
        start += len(names)
        yield Batch(names, inputs, labels)


def _limited(batches: Iterable[Batch], limit: int | None) -> Iterator[Batch]:
    left = limit
    for batch in batches:
        if left is not None:
            if left <= 0:
                return
            batch = Batch(
                batch.names[:left],
                [array[:left] for array in batch.inputs],
                [array[:left] for array in batch.labels],
            )
            left -= len(batch.names)
        yield batch


def _pair(batch: Any) -> tuple[list[Any], list[Any]]:
    """Inputs and labels of what `fit` takes: x, (x, y) or (x, y, weights)."""
    if not isinstance(batch, tuple):
        return _leaves(batch), []
    labels = batch[1] if len(batch) > 1 else None
    return _leaves(batch[0]), [] if labels is None else _leaves(labels)


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, list) and value and not hasattr(value[0], "shape"):
        return [np.asarray(value)]  # numbers, or nested lists of them
    return keras.tree.flatten(value)


def _array(value: Any) -> np.ndarray:
    """As numpy has it; images of several sizes are an array of objects."""
    if isinstance(value, tf.RaggedTensor):
        result = np.empty(value.shape[0], object)
        result[:] = [part.numpy() for part in value]
        return result
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _is_batched(spec: Any) -> bool:
    """Whether the first axes of all parts can be the batch."""
    first = set()
    for part in keras.tree.flatten(spec):
        if part.shape.rank == 0:
            return False
        first.add(None if part.shape.rank is None else part.shape[0])
    return len(first) == 1


def _endless(what: str) -> UsageError:
    return UsageError(
        f"`{what}` must have an end",
        received="data that repeats for ever",
        fix="Pass limit=10_000 or so",
    )
