"""One pass over data: what is wrong with single samples, and which are equal."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kacc.augmentation.data_stream import Batch, Stream

Name = int | str


@dataclass(frozen=True)
class Summary:
    """What one set of data holds.

    Samples are named by their number, or by the name of their file.

    Args:
        samples: how many there are, without those that cannot be read.
        shapes: of samples -> how many have it, the most frequent first.
        dtypes: types of the inputs.
        minimum: the lowest value; None where there are no numbers.
        maximum: the highest value.
        classes: name or number of a class -> samples; empty if labels are no classes.
        labelled: whether there are labels.
        unreadable: files that are no images, or broken.
        not_finite: samples with NaN or infinite values.
        constant: samples of one value alone.
        duplicates: groups of equal samples.
        conflicts: groups of equal samples with different labels.
        wrong_labels: samples whose label is NaN or infinite.
        rotated: JPEG files whose EXIF data says that they are to be turned.
        remarks: what is wrong with a folder.
        is_folder: whether samples are files, of any size.
    """

    samples: int
    shapes: dict[tuple[int, ...], int]
    dtypes: tuple[str, ...]
    minimum: float | None
    maximum: float | None
    classes: dict[str, int]
    labelled: bool
    unreadable: tuple[str, ...]
    not_finite: tuple[Name, ...]
    constant: tuple[Name, ...]
    duplicates: tuple[tuple[Name, ...], ...]
    conflicts: tuple[tuple[Name, ...], ...]
    wrong_labels: tuple[Name, ...]
    rotated: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    is_folder: bool = False

    @property
    def copies(self) -> int:
        """How many samples could go, and each would still be there once."""
        return sum(len(group) - 1 for group in self.duplicates)

    @property
    def imbalance(self) -> float | None:
        """Samples of the largest class by those of the smallest."""
        if not self.classes:
            return None
        return max(self.classes.values()) / max(min(self.classes.values()), 1)


@dataclass
class Scan:
    """Collects a summary while batches pass; it keeps a hash of each sample."""

    stream: Stream
    samples: int = 0
    shapes: Counter[tuple[int, ...]] = field(default_factory=Counter)
    dtypes: dict[str, None] = field(default_factory=dict)
    low: float = np.inf
    high: float = -np.inf
    not_finite: list[Name] = field(default_factory=list)
    constant: list[Name] = field(default_factory=list)
    wrong_labels: list[Name] = field(default_factory=list)
    labels: Counter[Any] = field(default_factory=Counter)
    are_classes: bool = True
    labelled: bool = False
    # By the hash of a sample: its first name and the number of its label; all names of
    # samples that came more than once; and those that came with several labels.
    first: dict[bytes, tuple[Name, int]] = field(default_factory=dict)
    groups: dict[bytes, list[Name]] = field(default_factory=dict)
    conflicts: set[bytes] = field(default_factory=set)
    label_numbers: dict[bytes, int] = field(default_factory=dict)

    def run(self) -> Scan:
        """Reads everything."""
        for batch in self.stream.batches:
            self._add(batch)
        return self

    def summary(self) -> Summary:
        """What was seen."""
        known = self.low <= self.high
        return Summary(
            samples=self.samples,
            shapes=dict(self.shapes.most_common()),
            dtypes=tuple(self.dtypes),
            minimum=self.low if known else None,
            maximum=self.high if known else None,
            classes=self._classes(),
            labelled=self.labelled,
            unreadable=tuple(self.stream.unread),
            not_finite=_sorted(self.not_finite),
            constant=_sorted(self.constant),
            duplicates=_sorted(_sorted(names) for names in self.groups.values()),
            conflicts=_sorted(_sorted(self.groups[key]) for key in self.conflicts),
            wrong_labels=_sorted(self.wrong_labels),
            rotated=_sorted(self.stream.rotated),
            remarks=tuple(self.stream.remarks),
            is_folder=self.stream.is_folder,
        )

    def _add(self, batch: Batch) -> None:
        self.samples += len(batch.names)
        keys = [hashlib.blake2b(digest_size=16) for _ in batch.names]
        constant = np.ones(len(batch.names), bool)
        finite = np.ones(len(batch.names), bool)
        for array in batch.inputs:
            if array.dtype == object and array.ndim == 1:
                for place, one in enumerate(array):  # of several shapes
                    at = slice(place, place + 1)
                    self._look(
                        np.asarray(one)[None], keys[at], constant[at], finite[at]
                    )
            else:
                self._look(array, keys, constant, finite)
        for name, is_finite, is_constant in zip(
            batch.names, finite, constant, strict=True
        ):
            if not is_finite:
                self.not_finite.append(name)
            elif is_constant:
                self.constant.append(name)
        hashes = [key.digest() for key in keys]
        numbers = self._label_numbers(batch)
        for name, key, number in zip(batch.names, hashes, numbers, strict=True):
            known = self.first.setdefault(key, (name, number))
            if known[0] != name:
                self.groups.setdefault(key, [known[0]]).append(name)
                if known[1] != number:
                    self.conflicts.add(key)
        if batch.labels:
            self._label(batch)

    def _look(
        self, array: np.ndarray, keys: list[Any], constant: Any, finite: Any
    ) -> None:
        """Looks at one input; fills in what it finds of each sample."""
        self.dtypes.setdefault(array.dtype.name)
        shape = array.shape[1:]
        self.shapes[shape] += len(array)
        flat = array.reshape(len(array), -1)
        if array.dtype.kind not in "biuf":
            constant[:] = False
            for key, row in zip(keys, flat, strict=True):
                key.update(repr(row.tolist()).encode())
            return
        good = np.isfinite(flat).all(1)
        finite &= good
        if flat.shape[1] == 0:
            return
        low, high = flat.min(1), flat.max(1)
        constant &= (low == high) & (flat.shape[1] > 1)
        if good.any():
            self.low = min(self.low, float(low[good].min()))
            self.high = max(self.high, float(high[good].max()))
        bytelike = good & (low >= 0) & (high <= 255)
        if array.dtype.kind == "f":
            bytelike &= (flat == np.floor(flat)).all(1)
        wide = np.float32 if array.dtype.kind == "f" else np.int64
        for key, row, small in zip(keys, flat, bytelike, strict=True):
            # The same numbers in another type are the same sample.
            key.update(repr(shape).encode())
            key.update(row.astype(np.uint8 if small else wide).tobytes())

    def _label_numbers(self, batch: Batch) -> list[int]:
        """A number for the label of each sample, equal for equal labels."""
        if not batch.labels:
            return [0] * len(batch.names)
        said = (
            hashlib.blake2b(b"".join(np.asarray(p).tobytes() for p in parts)).digest()
            for parts in zip(*batch.labels, strict=True)
        )
        known = self.label_numbers
        return [known.setdefault(one, len(known)) for one in said]

    def _label(self, batch: Batch) -> None:
        self.labelled = True
        self.are_classes &= len(batch.labels) == 1
        if self.are_classes:
            self._count(batch.names, batch.labels[0])

    def _count(self, names: list[Name], labels: np.ndarray) -> None:
        flat = labels.reshape(len(labels), -1)
        if flat.dtype.kind in "SUO":
            self.labels.update(_text(value) for value in flat[:, 0])
            return
        right = np.isfinite(flat).all(1)
        one = flat.shape[1] == 1
        whole = (flat[right] == np.floor(flat[right])).all()
        self.wrong_labels += [n for n, r in zip(names, right, strict=True) if not r]
        flat = flat[right]
        if one and whole:
            self.labels.update(flat[:, 0].astype(np.int64).tolist())
        elif not one and labels.ndim == 2 and np.isin(flat, (0, 1)).all():
            for number, count in enumerate(flat.sum(0).astype(int)):
                self.labels[number] += int(count)
        else:
            self.are_classes = False

    def _classes(self) -> dict[str, int]:
        many = len(self.labels) > max(20, self.samples / 2)
        if not self.are_classes or many:
            return {}
        names = self.stream.class_names
        counts = dict(sorted(self.labels.items()))
        if names:
            return {name: counts.get(i, 0) for i, name in enumerate(names)}
        return {str(label): count for label, count in counts.items()}


def _sorted(items: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(sorted(items))


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
