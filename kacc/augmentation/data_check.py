"""`check`: what is wrong with data, before a model is trained on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kacc.augmentation import checks, decoding
from kacc.augmentation.data_scan import Name, Scan, Summary
from kacc.augmentation.data_stream import stream
from kacc.core.errors import UsageError

# A class with so many times fewer samples than another is reported.
IMBALANCE = 5.0
_SCALE = 10  # between the largest values of two sets that are scaled alike
_COLUMNS = ("", "train", "validation")


@dataclass(frozen=True)
class DataCheck:
    """What `check` found; `print` and a rich console show it.

    Args:
        train: of the training data.
        validation: of the validation data, or None.
        shared: pairs of equal samples, of training and validation data.
        problems: what is wrong, a sentence for each.
    """

    train: Summary
    validation: Summary | None
    shared: tuple[tuple[Name, Name], ...]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def __str__(self) -> str:
        lines = [self._title()]
        for name, *cells in self._rows():
            said = [f"{c} {v}" for c, v in zip(_COLUMNS[1:], cells, strict=False) if v]
            lines.append(f"  {name}: {'; '.join(said)}")
        return "\n".join(lines + [f"- {problem}" for problem in self.problems])

    def __rich__(self) -> Any:
        from rich.box import SIMPLE
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(
            title=self._title(), title_justify="left", title_style="bold", box=SIMPLE
        )
        sets = 1 if self.validation is None else 2
        for column in _COLUMNS[: sets + 1]:
            table.add_column(column, justify="right" if column else "left")
        for row in self._rows():
            table.add_row(*map(Text, row))
        return Group(table, *(Text(f"- {problem}") for problem in self.problems))

    def _title(self) -> str:
        count = len(self.problems)
        found = f"{count} problem{'s' * (count != 1)}" if count else "nothing wrong"
        return f"Check of data: {found}"

    def _rows(self) -> list[tuple[str, ...]]:
        sets = [self.train] + ([self.validation] if self.validation else [])
        rows = [
            ("samples", *(f"{s.samples:,}" for s in sets)),
            ("shapes", *map(_shapes, sets)),
            ("values", *map(_values, sets)),
        ]
        counts = (
            ("cannot be read", lambda s: len(s.unreadable)),
            ("turned by EXIF data", lambda s: len(s.rotated)),
            ("NaN or infinite", lambda s: len(s.not_finite)),
            ("of one value alone", lambda s: len(s.constant)),
            ("copies of others", lambda s: s.copies),
            ("copies with other labels", lambda s: sum(map(len, s.conflicts))),
        )
        rows += [(n, *(f"{count(s):,}" for s in sets)) for n, count in counts]
        if self.validation:
            rows.append(("also in the other set", "", f"{len(self.shared):,}"))
        rows.append(("labels", *map(_labels, sets)))
        named = dict.fromkeys(name for s in sets for name in s.classes)
        if len(named) <= _MOST_CLASSES:
            rows += [(f"  class {n}", *(_share(s, n) for s in sets)) for n in named]
        return rows


_MOST_CLASSES = 30  # beyond, the table would be a list


def check(train: Any, validation: Any = None, *, limit: int | None = None) -> DataCheck:
    """Looks for what is wrong with data: one pass, a batch in memory at a time.

    It finds files that are no images or broken; photos that lie on their side, since
    neither kacc nor Keras turns them as their EXIF data says; NaN and infinite values;
    samples of one value alone; samples that are equal to the last bit, within and
    across training and validation data, and those of them whose labels differ; classes
    that are rare, or that only one of the sets has; ranges of values, shapes and labels
    in which the sets differ. Of samples equal in all but their type (uint8 and float)
    it knows that they are equal; of rescaled or recompressed ones not.

    Args:
        train: the path of a folder, with a sub-folder for each class or without;
            arrays x or (x, y); a tf.data.Dataset, a PyDataset or a generator, of
            batches or, of datasets, of single samples; with labels or without.
        validation: the same, or None.
        limit: samples of each set at most. Of a folder they are spread over all of it,
            of other data the first are taken.

    Returns:
        What was found: `.ok`, `.problems`, and the figures in `.train`, `.validation`
        and `.shared`.

    Raises:
        UsageError: if data is of no form that is known, empty or endless.

    Example:
        >>> import numpy as np
        >>> x = np.arange(12.0).reshape(4, 3)
        >>> x[1] = x[0]
        >>> x[2, 0] = np.nan
        >>> found = check((x, [0, 1, 0, 1]))
        >>> for problem in found.problems:
        ...     print(problem)
        train: 1 sample has NaN or infinite values: 2
        train: 1 sample is a copy of another: 0 = 1
        train: equal samples have different labels: 0 = 1
    """
    if limit is not None:
        checks.whole("`limit`", limit, 1)
    first = Scan(stream(train, "train", limit)).run()
    second = None
    if validation is not None:
        second = Scan(stream(validation, "validation", limit)).run()
    for name, scan in (("train", first), ("validation", second)):
        if scan is not None and not scan.samples and not scan.stream.unread:
            raise UsageError(f"`{name}` must have samples", received="none")
    summary = first.summary()
    other = None if second is None else second.summary()
    shared = () if second is None else _shared(first, second)
    problems = _problems("train", summary)
    if other is not None:
        problems += _problems("validation", other)
        problems += _across(summary, other, shared)
    return DataCheck(summary, other, shared, tuple(problems))


def _shared(first: Scan, second: Scan) -> tuple[tuple[Name, Name], ...]:
    pairs = []
    for key, (name, _) in second.first.items():
        if key in first.first:
            names = second.groups.get(key, [name])
            pairs += [(first.first[key][0], one) for one in names]
    return tuple(sorted(pairs, key=lambda pair: pair[1]))


# What is wrong


def _problems(what: str, one: Summary) -> list[str]:
    found: list[str] = [*one.remarks]
    for names, singular, plural in (
        (one.unreadable, "file cannot be read", "files cannot be read"),
        (
            one.rotated,
            "image lies on its side: its EXIF rotation is ignored; turn the pixels",
            "images lie on their side: their EXIF rotation is ignored; turn the pixels",
        ),
        (
            one.not_finite,
            "sample has NaN or infinite values",
            "samples have NaN or infinite values",
        ),
        (
            one.constant,
            "sample has one value alone",
            "samples have one value alone each",
        ),
        (
            one.wrong_labels,
            "label is NaN or infinite",
            "labels are NaN or infinite",
        ),
    ):
        if names:
            said = singular if len(names) == 1 else plural
            found.append(f"{len(names):,} {said}: {_named(names)}")
    if one.duplicates:
        few = "sample is a copy of another"
        said = few if one.copies == 1 else "samples are copies of others"
        found.append(f"{one.copies:,} {said}: {_groups(one.duplicates)}")
    if one.conflicts:
        said = f"equal samples have different labels: {_groups(one.conflicts)}"
        found.append(said)
    if len(one.shapes) > 1 and not one.is_folder and len(set(one.dtypes)) == 1:
        found.append(f"samples have {len(one.shapes)} shapes: {_shapes(one)}")
    found += _of_classes(one)
    return [f"{what}: {problem}" for problem in found]


def _of_classes(one: Summary) -> list[str]:
    found = []
    empty = [name for name, count in one.classes.items() if not count]
    if empty:
        found.append(f"classes without samples: {_named(empty)}")
    counts = {n: c for n, c in one.classes.items() if c}
    if counts:
        least, most = (
            min(counts, key=counts.__getitem__),
            max(counts, key=counts.__getitem__),
        )
        ratio = counts[most] / counts[least]
        if ratio >= IMBALANCE:
            found.append(
                f"class {most} has {ratio:.1f} times as many samples as class {least}: "
                f"{counts[most]:,} and {counts[least]:,}; pass class_weight to fit, or "
                "draw rare ones more often"
            )
        numbers = [int(n) for n in counts if n.lstrip("-").isdigit()]
        if any(n < 0 for n in numbers) and set(numbers) != {-1, 1}:
            found.append("some labels are below 0")
    return found


def _across(
    train: Summary, validation: Summary, shared: Sequence[tuple[Name, Name]]
) -> list[str]:
    found = []
    if shared:
        one = len(shared) == 1
        said = "validation sample is" if one else "validation samples are"
        pairs = _groups(shared)
        found.append(f"{len(shared):,} {said} in the training data too: {pairs}")
    if _ranges_differ(train, validation):
        found.append(
            f"values have other ranges: {_values(train)} in train, "
            f"{_values(validation)} in validation; rescale both alike"
        )
    sets = (train, validation)
    if not any(s.is_folder for s in sets) and set(train.shapes) != set(
        validation.shapes
    ):
        found.append(
            f"samples have other shapes: {_shapes(train)} in train, "
            f"{_shapes(validation)} in validation"
        )
    if train.labelled != validation.labelled:
        found.append(f"only {'train' if train.labelled else 'validation'} has labels")
    if train.classes and validation.classes:
        for having, lacking, where in (
            (validation, train, "training"),
            (train, validation, "validation"),
        ):
            missing = [n for n in having.classes if not lacking.classes.get(n)]
            if missing:
                found.append(
                    f"classes that the {where} data has none of: {_named(missing)}"
                )
    return found


def _ranges_differ(one: Summary, other: Summary) -> bool:
    """Whether values are scaled otherwise: 0..255, 0..1 and -1..1, for example."""
    kinds = []
    for each in (one, other):
        if each.minimum is None or each.maximum is None:
            return False
        size = max(abs(each.minimum), abs(each.maximum))
        kinds.append((size, each.minimum < -0.1 * size))
    (small, negative), (large, also_negative) = sorted(kinds)
    return small > 0 and (large > _SCALE * small or negative != also_negative)


# How it is said


def _named(names: Sequence[Name]) -> str:
    return decoding.named([str(name) for name in names])


def _groups(groups: Sequence[Sequence[Name]]) -> str:
    return decoding.named([" = ".join(map(str, group)) for group in groups])


def _shapes(one: Summary) -> str:
    shapes = list(one.shapes.items())
    if len(shapes) < 2:
        return str(shapes[0][0]) if shapes else "-"
    if one.is_folder:
        return f"{len(shapes):,}, mostly {shapes[0][0]}"
    said = ", ".join(f"{shape} x {count:,}" for shape, count in shapes[:3])
    return said + (f" and {len(shapes) - 3:,} more" if len(shapes) > 3 else "")


def _values(one: Summary) -> str:
    if one.minimum is None:
        return "no numbers"
    return f"{one.minimum:g} .. {one.maximum:g} ({', '.join(one.dtypes)})"


def _labels(one: Summary) -> str:
    if not one.labelled:
        return "none"
    if not one.classes:
        return "no classes"
    return f"{len(one.classes):,} classes"


def _share(one: Summary, name: str) -> str:
    count = one.classes.get(name, 0)
    total = sum(one.classes.values())
    return f"{count:,} ({count / total:.1%})" if total else "-"
