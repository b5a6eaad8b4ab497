"""Images from folders, files and scikit-learn, as arrays that a Keras model takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from kacc.cli.arguments import PIXEL_RANGES
from kacc.core.errors import KaccError, UsageError

SUFFIXES = (".jpg", ".jpeg", ".png")
DEFAULT_SIDE = 64  # pixels: enough to see what a folder holds, small enough to train on
MOST_BYTES = 2**30  # of a folder as float32: 21,845 colour images of 64x64


@dataclass(frozen=True)
class Dataset:
    """Labelled images in memory.

    Args:
        x: images (n, height, width, channels), uint8.
        y: labels (n,), int64.
        classes: names of the classes, by label.
        source: where the images come from, for people.
    """

    x: np.ndarray
    y: np.ndarray
    classes: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class ImageShape:
    """What a model asks of its images; None leaves it to the images themselves."""

    height: int | None = None
    width: int | None = None
    channels: int | None = None


def digits(shape: ImageShape = ImageShape()) -> Dataset:
    """Scikit-learn's 1,797 handwritten digits of 8x8 grey pixels.

    Args:
        shape: the wanted size and channels; 8, 8 and 1 where it is None.

    Returns:
        The images scaled to 0..255.

    Raises:
        UsageError: scikit-learn is not installed.

    Example:
        >>> digits().x.shape
        (1797, 8, 8, 1)
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UsageError(
            "The digits come with scikit-learn, which is not installed",
            fix='Run `pip install "kacc[demo]"`, or name a folder with --data',
        ) from None
    bundle: Any = load_digits()
    pixels = np.rint(bundle.images * (255 / 16)).astype(np.uint8)
    size = (shape.width or 8, shape.height or 8)
    mode = "RGB" if shape.channels == 3 else "L"
    x = [_fitted(Image.fromarray(image), mode, size) for image in pixels]
    return Dataset(
        np.stack(x),
        bundle.target.astype(np.int64),
        tuple(map(str, range(10))),
        "scikit-learn's digits",
    )


def read_class_folders(root: Path, shape: ImageShape = ImageShape()) -> Dataset:
    """Read a folder that has one sub-folder of JPEG or PNG images for each class.

    Args:
        root: the folder.
        shape: the wanted size and channels. Without a size, images that all have the
            same of at most 64 pixels keep it and others become 64x64; without channels,
            a folder of grey images gives 1 and any other 3.

    Returns:
        The images in the order of their names; of more than `MOST_BYTES` of them a
        part, spread evenly over each class.

    Raises:
        UsageError: there is no such folder, it holds fewer than two classes, a class
            has fewer than two images.
        KaccError: an image cannot be read.
    """
    files = _files_of_classes(root)
    size, mode = _common_format([p for paths in files.values() for p in paths], shape)
    files = _thinned(files, bytes_of_image=4 * size[0] * size[1] * len(mode))
    x = [read_image(p, mode, size) for paths in files.values() for p in paths]
    y = np.repeat(np.arange(len(files)), [len(paths) for paths in files.values()])
    return Dataset(np.stack(x), y, tuple(files), str(root))


def read_folder(root: Path, shape: ImageShape, limit: int) -> np.ndarray:
    """Read images from anywhere below a folder, for a calibration.

    Args:
        root: the folder.
        shape: the wanted size and channels, as for `read_class_folders`.
        limit: the largest number of images, spread evenly over all.

    Returns:
        The images (n, height, width, channels), uint8.

    Raises:
        UsageError: there is no image below the folder.
        KaccError: an image cannot be read.
    """
    paths = _spread(sorted(p for p in root.rglob("*") if _is_image(p)), limit)
    if not paths:
        raise UsageError("The folder must hold JPEG or PNG images", received=str(root))
    size, mode = _common_format(paths, shape)
    return np.stack([read_image(path, mode, size) for path in paths])


def read_image(path: Path, mode: str, size: tuple[int, int]) -> np.ndarray:
    """Read one image: (height, width, channels), uint8.

    Args:
        path: a JPEG or PNG file.
        mode: "L" for grey, "RGB" for colour.
        size: (width, height) in pixels.

    Returns:
        The image, turned as its EXIF data say and resized.

    Raises:
        KaccError: the file cannot be read as an image.
    """
    try:
        with Image.open(path) as image:
            image.draft(mode, size)  # lets JPEG decode large photos at a smaller scale
            return _fitted(ImageOps.exif_transpose(image), mode, size)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error


def scale(x: np.ndarray, pixels: str) -> np.ndarray:
    """Turn uint8 images into floats of the range that a model takes.

    Args:
        x: images, uint8.
        pixels: a key of `PIXEL_RANGES`.

    Returns:
        The same images, float32.

    Example:
        >>> scale(np.array([0, 255], np.uint8), "-1..1")
        array([-1.,  1.], dtype=float32)
    """
    low, high = PIXEL_RANGES[pixels]
    return x.astype(np.float32) * np.float32((high - low) / 255) + np.float32(low)


_UNREADABLE = (
    UnidentifiedImageError,
    OSError,
    SyntaxError,  # what Pillow raises for a broken PNG
    ValueError,
    Image.DecompressionBombError,
)


def _unreadable(path: Path, error: Exception) -> KaccError:
    return KaccError(
        f"An image cannot be read ({error})",
        received=str(path),
        fix="Repair it or take it away",
    )


def _fitted(image: Image.Image, mode: str, size: tuple[int, int]) -> np.ndarray:
    if image.mode.startswith(("I;16", "I")):  # 16-bit grey, which Pillow would clip
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = image.convert(mode)
    if image.size != size:
        image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2)
    array = np.asarray(image, dtype=np.uint8)
    return array[..., None] if array.ndim == 2 else array


def _files_of_classes(root: Path) -> dict[str, list[Path]]:
    if not root.is_dir():
        raise UsageError("--data takes a folder of class folders", received=str(root))
    folders = _visible_folders(root)
    files = {f.name: sorted(p for p in f.iterdir() if _is_image(p)) for f in folders}
    _check_classes(root, folders, files)
    return files


def _thinned(
    files: dict[str, list[Path]], bytes_of_image: int
) -> dict[str, list[Path]]:
    total = bytes_of_image * sum(map(len, files.values()))
    share = min(1.0, MOST_BYTES / total)
    return {
        name: _spread(paths, max(2, int(len(paths) * share)))
        for name, paths in files.items()
    }


def _check_classes(
    root: Path, folders: Sequence[Path], files: dict[str, list[Path]]
) -> None:
    nested = [f for f in folders if not files[f.name] and len(_visible_folders(f)) > 1]
    if nested:
        raise UsageError(
            "The class folders must lie directly in the folder",
            received=str(root),
            fix=f"Pass {nested[0]}",
        )
    if len(files) < 2:
        count = "one class folder" if files else "no class folders"
        raise UsageError(
            f"The folder must hold two or more class folders and holds {count}",
            received=str(root),
            fix="Put the images of each class into a sub-folder with the class's name",
        )
    for name, members in files.items():
        if len(members) < 2:
            raise UsageError(
                "A class needs two or more JPEG or PNG images",
                received=f"{len(members)} in {root / name}",
                fix="Add images or take the folder away",
            )


def _visible_folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and p.name[0] not in "._")


def _is_image(path: Path) -> bool:
    # macOS leaves files named ._photo.jpg beside the photos.
    hidden = path.name.startswith(".")
    return path.suffix.lower() in SUFFIXES and not hidden and path.is_file()


def _spread(items: list[Path], limit: int) -> list[Path]:
    """At most `limit` of the items, evenly spaced."""
    if len(items) <= limit:
        return items
    return [items[i * len(items) // limit] for i in range(limit)]


def _common_format(
    paths: Sequence[Path], shape: ImageShape
) -> tuple[tuple[int, int], str]:
    """The (width, height) and mode that the images get."""
    sizes: Counter[tuple[int, int]] = Counter()
    modes: Counter[str] = Counter()
    for path in paths:
        try:
            with Image.open(path) as image:  # reads the header only
                sizes[image.size] += 1
                modes[image.mode] += 1
        except _UNREADABLE as error:
            raise _unreadable(path, error) from error
    (width, height), count = sizes.most_common(1)[0]
    if count < len(paths) or max(width, height) > DEFAULT_SIDE:
        width = height = DEFAULT_SIDE
    grey = shape.channels == 1 or (shape.channels is None and _all_grey(modes))
    return (shape.width or width, shape.height or height), "L" if grey else "RGB"


def _all_grey(modes: Counter[str]) -> bool:
    return all(mode in ("1", "L", "LA") or mode.startswith("I") for mode in modes)
