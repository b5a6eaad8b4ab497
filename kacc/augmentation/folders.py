"""Folders of images: which files and classes there are, and how they are split."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kacc.core.errors import UsageError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
_LAYOUT = "Put the images of each class into a sub-folder with the class's name"


@dataclass(frozen=True)
class Listing:
    """Images below a folder, in the order of classes and names.

    Args:
        root: the folder.
        paths: of the images.
        labels: the number of each image's class; empty without labels.
        class_names: by number; empty without labels.
        rows: where the images stand in the listing of the whole folder.
    """

    root: Path
    paths: tuple[Path, ...]
    labels: tuple[int, ...] = ()
    class_names: tuple[str, ...] = ()
    rows: Sequence[int] = ()

    def __post_init__(self) -> None:
        if not self.rows:
            object.__setattr__(self, "rows", range(len(self.paths)))

    def __len__(self) -> int:
        return len(self.paths)

    def names(self, indices: Sequence[int]) -> list[str]:
        """Paths below the folder, as people read them."""
        return [self._name(self.paths[index]) for index in indices]

    def take(self, indices: Sequence[int]) -> Listing:
        """The listing of some of the images."""
        return replace(
            self,
            paths=tuple(self.paths[i] for i in indices),
            labels=tuple(self.labels[i] for i in indices) if self.labels else (),
            rows=tuple(self.rows[i] for i in indices),
        )

    def without(self, indices: Sequence[int]) -> Listing:
        """The listing of all other images."""
        dropped = set(indices)
        return self.take([i for i in range(len(self)) if i not in dropped])

    def split(self, share: float) -> tuple[Listing, Listing]:
        """Parts an image's file belongs to by a hash of its path below the folder.

        Of each class the same share is for validation, at least one image and not all.
        The hash makes the parts the same in each process, on each machine and with each
        seed, so that two calls for one part each never overlap; and a file that comes
        or goes moves few others.

        Args:
            share: of the images for validation, between 0 and 1.

        Returns:
            Those for training and those for validation.

        Raises:
            UsageError: if a class has only one image.
        """
        groups: dict[int, list[int]] = {}
        for index in range(len(self)):
            groups.setdefault(self.labels[index] if self.labels else 0, []).append(
                index
            )
        held: set[int] = set()
        for label, members in groups.items():
            if len(members) < 2:
                name = f"{self.class_names[label]!r} has" if self.labels else "there is"
                raise UsageError(
                    "A class needs two or more images to be split",
                    received=f"{name} 1",
                    fix="Add images, or leave `validation_split` out",
                )
            count = min(max(1, round(share * len(members))), len(members) - 1)
            held.update(sorted(members, key=self._rank)[:count])
        return self.without(sorted(held)), self.take(sorted(held))

    def _rank(self, index: int) -> bytes:
        name = self.paths[index].relative_to(self.root).as_posix()
        return hashlib.sha256(os.fsencode(name)).digest()

    def _name(self, path: Path) -> str:
        text = path.relative_to(self.root).as_posix()
        return os.fsencode(text).decode(errors="replace")


def list_images(
    directory: Any,
    labelled: bool = True,
    class_names: Sequence[str] | None = None,
    follow_links: bool = False,
) -> Listing:
    """Lists the images below a folder, with a class for each sub-folder.

    Images in folders inside of a class's folder belong to the class. Files and folders
    whose names begin with a full stop, and files of other types, are left out.

    Args:
        directory: the folder.
        labelled: whether its sub-folders are classes; if not, all images below it are
            taken.
        class_names: the sub-folders to take, in the order of their numbers; by default
            all, by name.
        follow_links: also goes into linked folders inside of the classes' folders.
            Linked files, and classes' folders that are links, are always read.

    Returns:
        The listing.

    Raises:
        UsageError: if there is no such folder, no image, fewer than two classes, or a
            class without images.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("cat/1.png", "dog/2.png", "dog/.hidden.png", "readme.txt"):
        ...     (root / name).parent.mkdir(exist_ok=True)
        ...     (root / name).touch()
        >>> listing = list_images(root)
        >>> listing.class_names, listing.names([0, 1])
        (('cat', 'dog'), ['cat/1.png', 'dog/2.png'])
    """
    root = _folder(directory)
    if not labelled:
        paths = tuple(_images(root, follow_links))
        if not paths:
            raise _no_images(root, follow_links)
        return Listing(root, paths)
    folders = _class_folders(root, class_names, follow_links)
    files = {name: tuple(_images(root / name, follow_links)) for name in folders}
    for name, members in files.items():
        if not members:
            raise UsageError(
                "Each class must have images",
                received=f"the folder {name!r} of {root} with none",
                fix="Take it away, or pass the others as `class_names`",
            )
    return Listing(
        root,
        tuple(path for members in files.values() for path in members),
        tuple(i for i, members in enumerate(files.values()) for _ in members),
        tuple(files),
    )


def _folder(directory: Any) -> Path:
    try:
        root = Path(directory)
    except TypeError:
        root = None
    if root is None or not root.is_dir():
        raise UsageError(
            "`directory` must be a folder that exists",
            received=directory if root is None else str(directory),
            fix="Check the path",
        )
    return root


def _class_folders(
    root: Path, class_names: Sequence[str] | None, follow_links: bool
) -> list[str]:
    present = sorted(p.name for p in root.iterdir() if p.is_dir() and _seen(p.name))
    if class_names is not None:
        return _chosen(root, class_names, present)
    if not present:
        if not any(_images(root, follow_links)):
            raise _no_images(root, follow_links)
        raise UsageError(
            "The folder must hold a sub-folder for each class",
            received=f"{root} with images, but no sub-folders",
            fix=f"{_LAYOUT}, or pass label_mode=None for images without labels",
        )
    if len(present) < 2:
        only = root / present[0]
        inner = sum(p.is_dir() and _seen(p.name) for p in only.iterdir())
        raise UsageError(
            "The folder must hold two or more classes",
            received=f"{root} with the one sub-folder {present[0]!r}",
            fix=f"Pass {only}"
            if inner > 1
            else f"{_LAYOUT}, or pass label_mode=None for images without labels",
        )
    return present


def _chosen(root: Path, names: Sequence[str], present: list[str]) -> list[str]:
    listed = not isinstance(names, str) and all(isinstance(n, str) for n in names)
    if not listed or len(set(names)) != len(names) or len(names) < 2:
        raise UsageError(
            "`class_names` must be two or more different names of sub-folders",
            received=names,
            fix=f"Choose from {present}",
        )
    missing = [name for name in names if name not in present]
    if missing:
        raise UsageError(
            f"`class_names` must be names of sub-folders of {root}",
            received=missing,
            fix=f"Choose from {present}",
        )
    return list(names)


def _images(top: Path, follow_links: bool) -> Iterator[Path]:
    """Images below a folder by path; a link into a folder above it ends there."""
    visited = {os.path.realpath(top)}
    found: list[Path] = []
    for folder, inner, files in os.walk(top, followlinks=follow_links):
        kept = [name for name in inner if _seen(name)]
        if follow_links:
            real = {name: os.path.realpath(os.path.join(folder, name)) for name in kept}
            kept = [name for name in kept if real[name] not in visited]
            visited.update(real[name] for name in kept)
        inner[:] = sorted(kept)
        found += [
            Path(folder, name)
            for name in files
            if _seen(name) and name.lower().endswith(SUFFIXES)
        ]
    yield from sorted(path for path in found if path.is_file())


def _seen(name: str) -> bool:
    return not name.startswith(".")


def _no_images(root: Path, follow_links: bool) -> UsageError:
    linked = not follow_links and any(p.is_symlink() for p in root.iterdir())
    return UsageError(
        f"The folder must hold images ({', '.join(SUFFIXES)})",
        received=f"{root} with none",
        fix="Pass follow_links=True to go into linked folders" if linked else _LAYOUT,
    )
