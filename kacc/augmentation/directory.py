"""`flow_from_directory`: folders of images as a `tf.data.Dataset`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from kacc.augmentation import arguments, decoding
from kacc.augmentation.folders import Listing, list_images
from kacc.augmentation.store import Store, store
from kacc.core.errors import UsageError

INTERPOLATIONS = (
    "bilinear",
    "nearest",
    "bicubic",
    "area",
    "lanczos3",
    "lanczos5",
    "gaussian",
    "mitchellcubic",
)


def flow_from_directory(
    directory: str | os.PathLike[str],
    label_mode: str | None = "int",
    class_names: Sequence[str] | None = None,
    color_mode: str = "rgb",
    batch_size: int | None = 32,
    image_size: int | tuple[int, int] = (256, 256),
    shuffle: bool = True,
    seed: int | None = None,
    validation_split: float | None = None,
    subset: str | None = None,
    interpolation: str = "bilinear",
    follow_links: bool = False,
    crop_to_aspect_ratio: bool = False,
    pad_to_aspect_ratio: bool = False,
    *,
    augmentation: Any = None,
    cache: bool | str | os.PathLike[str] | None = None,
    on_error: str | None = "skip",
    dtype: str = "float32",
) -> Any:
    """Reads a folder with a sub-folder of images for each class.

    The arguments are those of `keras.utils.image_dataset_from_directory`, and four
    more. Images are decoded in parallel, resized, cached if asked for, shuffled over
    the whole folder (not within a window), batched, augmented, and fetched ahead.
    Pixels are whole numbers from 0 to 255; a rotation noted in EXIF data is not applied.

    Args:
        directory: the folder. Images in folders inside of a class's folder belong to
            the class; hidden files and folders, and files that are no BMP, GIF (of
            which the first picture is taken), JPEG, PNG or WebP, are left out.
        label_mode: "int" for class numbers (int32), "categorical" for one-hot rows,
            "binary" for 0.0 and 1.0 of shape (batch, 1), or None for images alone, all
            that are anywhere below the folder.
        class_names: the sub-folders to read, in the order of their class numbers; by
            default all, by name.
        color_mode: "rgb", "grayscale" or "rgba".
        batch_size: images in a batch, or None for single images.
        image_size: pixels, (height, width) or one number for both.
        shuffle: a new order in each epoch. The validation part is never shuffled.
        seed: of the order and the augmentation, which are then the same in each run.
        validation_split: the share of the images of each class for validation. To which
            part an image belongs depends on its path below the folder alone, so the two
            parts never overlap, whatever the seeds.
        subset: "training", "validation" or "both", with `validation_split`.
        interpolation: as for `keras.ops.image.resize`: "bilinear", "nearest", ...
        follow_links: also goes into linked folders.
        crop_to_aspect_ratio: keeps the proportions and crops what is too long.
        pad_to_aspect_ratio: keeps the proportions and fills up with black.
        augmentation: what to do with the training images: a policy, its name, a list
            of transforms, or a dictionary of arguments of `ImageDataGenerator`. Of such
            a dictionary `rescale` is done with the validation images too, and
            `validation_split` is taken if the argument above is not given.
        cache: True decodes all images once and keeps them in memory; a path keeps them
            in files of that folder, which later calls use, and which are made anew when
            images or settings change.
        on_error: before training each file is decoded once; those that cannot be are
            named, and "skip" leaves them out where "raise" refuses. None trusts the
            files.
        dtype: "float32" or "uint8" of the images.

    Returns:
        A `tf.data.Dataset` of batches of (images, labels), or of images alone; for
        subset="both" a pair of them. `.class_names` and `.file_paths` are those of
        Keras's, `.unreadable` has the names of the files that were left out.

    Raises:
        UsageError: for a wrong argument, a folder without images or classes.
        KaccError: if files cannot be read and `on_error` is "raise", or none can.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"):
        ...     (root / name).parent.mkdir(exist_ok=True)
        ...     keras.utils.save_img(root / name, tf.zeros((9, 12, 3)), scale=False)
        >>> train, validation = flow_from_directory(
        ...     root, image_size=8, validation_split=0.5, subset="both"
        ... )
        >>> train.class_names, train.element_spec[0].shape
        (['cat', 'dog'], TensorShape([None, 8, 8, 3]))
        >>> [labels.numpy().tolist() for _, labels in validation]
        [[0, 1]]
    """
    augmentation, rescale, validation_split = _legacy(augmentation, validation_split)
    form = _Form(
        image_size=arguments.size(image_size),
        color_mode=arguments.one_of("color_mode", color_mode, tuple(decoding.CHANNELS)),
        interpolation=arguments.one_of("interpolation", interpolation, INTERPOLATIONS),
        label_mode=arguments.one_of(
            "label_mode", label_mode, ("int", "categorical", "binary", None)
        ),
        batch_size=arguments.positive("batch_size", batch_size),
        dtype=arguments.one_of("dtype", dtype, ("float32", "uint8")),
        seed=arguments.whole("seed", seed),
        crop=crop_to_aspect_ratio,
        pad=pad_to_aspect_ratio,
        rescale=rescale,
        cache=arguments.cache_folder(cache),
    )
    arguments.one_of("on_error", on_error, ("skip", "raise", None))
    _check_combinations(form, class_names, validation_split, subset)
    listing = list_images(directory, label_mode is not None, class_names, follow_links)
    _check_classes(form, listing)
    kept, bad = None, []
    if form.cache is not None:
        kept = form.store(listing)
        bad = kept.unreadable
    elif on_error is not None:
        bad = decoding.unreadable(listing, form.channels)
    source = _Source(form, kept, listing.names(bad))
    listing = decoding.left_out(listing, bad, on_error or "raise")
    if subset is None or validation_split is None:
        return source.dataset(listing, shuffle, augmentation)
    training, validation = listing.split(validation_split)
    if subset == "validation":
        return source.dataset(validation)
    first = source.dataset(training, shuffle, augmentation)
    return first if subset == "training" else (first, source.dataset(validation))


@dataclass(frozen=True)
class _Form:
    """What images and labels become."""

    image_size: tuple[int, int]
    color_mode: str
    interpolation: str
    label_mode: str | None
    batch_size: int | None
    dtype: str
    seed: int | None
    crop: bool
    pad: bool
    rescale: float | None
    cache: str | None

    @property
    def channels(self) -> int:
        return decoding.CHANNELS[self.color_mode]

    def sized(self, image: Any) -> Any:
        """An image in the wanted size, uint8."""
        size, method = self.image_size, self.interpolation
        if self.crop or self.pad:
            image = keras.ops.image.resize(
                tf.cast(image, tf.float32),
                size,
                method,
                crop_to_aspect_ratio=self.crop,
                pad_to_aspect_ratio=self.pad,
                data_format="channels_last",
            )
        else:
            image = tf.image.resize(image, size, method)
        image = tf.ensure_shape(image, (*size, self.channels))
        return tf.saturate_cast(tf.round(tf.cast(image, tf.float32)), tf.uint8)

    def load(self, path: Any) -> Any:
        """An image from its file, uint8."""
        return self.sized(decoding.read(path, self.channels))

    def store(self, listing: Listing) -> Store:
        """All images, decoded."""
        shape = (*self.image_size, self.channels)
        settings = (shape, self.interpolation, self.crop, self.pad)
        return store(listing, shape, self.sized, self.cache or None, settings)

    def labels(self, listing: Listing) -> Any:
        """The labels of all images."""
        if self.label_mode == "int":
            return tf.constant(listing.labels, tf.int32)
        if self.label_mode == "binary":
            return tf.constant(listing.labels, tf.float32)[:, None]
        return tf.one_hot(listing.labels, len(listing.class_names))

    def pixels(self, images: Any) -> Any:
        """Images as the model gets them, before they are augmented."""
        images = tf.cast(images, self.dtype)
        return images if self.rescale is None else images * self.rescale


@dataclass(frozen=True)
class _Source:
    """Datasets of parts of a folder."""

    form: _Form
    kept: Store | None
    unreadable: list[str]

    def dataset(
        self, listing: Listing, shuffle: bool = False, augmentation: Any = None
    ) -> Any:
        """The dataset of the images of a listing."""
        form, mapped = self.form, {"num_parallel_calls": tf.data.AUTOTUNE}
        data = tf.data.Dataset.from_tensor_slices(self._slices(listing))
        if shuffle:
            data = data.shuffle(len(listing), form.seed)
        if self.kept is None:
            data = data.map(lambda path, *label: (form.load(path), *label), **mapped)
        if form.batch_size is not None:
            data = data.batch(form.batch_size)
        data = data.map(self._finished, **mapped)
        if augmentation is not None:
            data = _augmented(form, data, augmentation)
        data = data.prefetch(tf.data.AUTOTUNE)
        data.class_names = list(listing.class_names) or None
        data.file_paths = [str(path) for path in listing.paths]
        data.unreadable = self.unreadable
        return data

    def _slices(self, listing: Listing) -> tuple[Any, ...]:
        """What is shuffled: paths or places, and labels."""
        first = decoding.encoded(listing)
        if self.kept is not None:
            first = tf.constant(listing.rows, tf.int64)
        if self.form.label_mode is None:
            return (first,)
        return first, self.form.labels(listing)

    def _finished(self, first: Any, *label: Any) -> Any:
        images = first if self.kept is None else self.kept.rows(first)
        images = self.form.pixels(images)
        return (images, *label) if label else images


def _augmented(form: _Form, data: Any, augmentation: Any) -> Any:
    raise NotImplementedError  # until policies are there


def _legacy(
    augmentation: Any, split: float | None
) -> tuple[Any, float | None, float | None]:
    """Takes out of ImageDataGenerator's arguments what is not of a policy.

    Its validation images are rescaled too, or the model would see other numbers.
    """
    if not isinstance(augmentation, Mapping):
        return augmentation, None, split
    rest = dict(augmentation)
    rescale = rest.pop("rescale", None)
    own = rest.pop("validation_split", None)
    return rest or None, rescale or None, (own or None) if split is None else split


# Wrong calls


def _check_combinations(
    form: _Form, class_names: Any, split: Any, subset: str | None
) -> None:
    arguments.one_of("subset", subset, ("training", "validation", "both", None))
    if form.crop and form.pad:
        raise UsageError(
            "`crop_to_aspect_ratio` and `pad_to_aspect_ratio` exclude each other",
            received="both",
            fix="Choose one",
        )
    if class_names is not None and form.label_mode is None:
        raise UsageError(
            "`class_names` are for images with labels",
            received="class_names with label_mode=None",
            fix="Leave one of them out",
        )
    if form.rescale is not None and form.dtype == "uint8":
        raise UsageError(
            "Rescaled pixels are no bytes",
            received=f"rescale={form.rescale} with dtype='uint8'",
            fix="Leave `dtype` out",
        )
    if (split is None) != (subset is None):
        raise UsageError(
            "`validation_split` and `subset` go together",
            received=f"validation_split={split}, subset={subset!r}",
            fix='Pass validation_split=0.2 and subset="both", or neither',
        )
    number = isinstance(split, int | float) and not isinstance(split, bool)
    if split is not None and not (number and 0 < split < 1):
        raise UsageError(
            "`validation_split` must lie between 0 and 1",
            received=split,
            fix="Pass 0.2",
        )


def _check_classes(form: _Form, listing: Listing) -> None:
    if form.label_mode == "binary" and len(listing.class_names) != 2:
        raise UsageError(
            'label_mode="binary" is for two classes',
            received=f"{len(listing.class_names)}: {', '.join(listing.class_names)}",
            fix='Pass label_mode="int" or "categorical", or two `class_names`',
        )
