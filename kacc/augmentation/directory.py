"""`flow_from_directory`: folders of images as a `tf.data.Dataset`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from kacc.augmentation import decoding
from kacc.augmentation import directory_checks as asked
from kacc.augmentation.config_values import Rescale
from kacc.augmentation.folders import Listing, list_images
from kacc.augmentation.policy import Policy, policy_of
from kacc.augmentation.store import Store, store

LABEL_MODES = ("int", "categorical", "binary", None)
_OVERSHOOTING = ("bicubic", "lanczos3", "lanczos5", "mitchellcubic")
_BATCH = 32  # images that are augmented at once where none are batched
_AHEAD = 2  # batches that wait to be taken
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
    **others: Any,
) -> Any:
    """Reads a folder with a sub-folder of images for each class.

    The arguments are those of `keras.utils.image_dataset_from_directory`, and four
    more. Images are decoded in parallel, resized, cached if asked for, shuffled over
    the whole folder (not within a window), batched, augmented, and fetched ahead.
    Pixels are whole numbers from 0 to 255; rotations noted in EXIF data are ignored, as
    Keras does: `kacc.augmentation.check` names such files, and PIL's
    `ImageOps.exif_transpose` turns their pixels.

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
        **others: none; for those of `ImageDataGenerator.flow_from_directory` the error
            says what they are called here.

    Returns:
        A `tf.data.Dataset` of batches of (images, labels), or of images alone; for
        subset="both" a pair of them. `.class_names` and `.file_paths` are those of
        Keras's, `.unreadable` has the names of the files that were left out.

    Raises:
        UsageError: for a wrong argument, a folder without images or classes.
        KaccError: if files cannot be read and `on_error` is "raise", or none can.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
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
    asked.no_others(others)
    if isinstance(augmentation, Mapping) and "validation_split" in augmentation:
        augmentation = dict(augmentation)
        share = augmentation.pop("validation_split") or None
        validation_split = share if validation_split is None else validation_split
    form = _Form(
        image_size=asked.size(image_size),
        color_mode=asked.one_of("color_mode", color_mode, tuple(decoding.CHANNELS)),
        interpolation=asked.one_of("interpolation", interpolation, INTERPOLATIONS),
        label_mode=asked.one_of("label_mode", label_mode, LABEL_MODES),
        batch_size=asked.whole("batch_size", batch_size, 1),
        dtype=asked.one_of("dtype", dtype, ("float32", "uint8")),
        seed=asked.whole("seed", seed, 0),
        crop=crop_to_aspect_ratio,
        pad=pad_to_aspect_ratio,
        cache=asked.cache_folder(cache),
        policy=_policy(augmentation, seed),
    )
    asked.one_of("on_error", on_error, ("skip", "raise", None))
    asked.combinations(form, class_names, validation_split, subset)
    listing = list_images(directory, label_mode is not None, class_names, follow_links)
    asked.binary(label_mode, listing.class_names)
    kept, bad, native = None, [], False
    if form.cache is not None:
        kept = form.store(listing)
        bad = kept.unreadable
    elif on_error is not None:
        bad, native = decoding.examine(listing, form.channels)
    source = _Source(form, kept, listing.names(bad), native)
    listing = decoding.left_out(listing, bad, on_error or "raise")
    if subset is None or validation_split is None:
        return source.dataset(listing, shuffle, form.policy)
    training, validation = listing.split(validation_split)
    if subset == "validation":
        return source.dataset(validation)
    first = source.dataset(training, shuffle, form.policy)
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
    cache: str | None
    policy: Policy | None

    @property
    def channels(self) -> int:
        return decoding.CHANNELS[self.color_mode]

    @property
    def rescales(self) -> list[Rescale]:
        """What a policy does to the numbers that the model takes, in the end."""
        transforms = () if self.policy is None else self.policy.transforms
        return [one for one in transforms if isinstance(one, Rescale)]

    def load(self, path: Any, native: bool = False) -> Any:
        """An image from its file, in the wanted size: whole numbers, perhaps floats."""
        image = decoding.read(path, self.channels, native)
        size, method = self.image_size, self.interpolation
        if self.pad:
            image = tf.image.resize_with_pad(image, *size, method=method)
        elif self.crop:
            image = keras.ops.image.resize(
                image,
                size,
                method,
                crop_to_aspect_ratio=True,
                data_format="channels_last",
            )
        else:
            image = tf.image.resize(image, size, method)
        image = tf.ensure_shape(image, (*size, self.channels))
        if image.dtype == tf.uint8:
            return image
        if method in _OVERSHOOTING:
            image = tf.clip_by_value(image, 0.0, 255.0)
        return tf.round(image)

    def load_bytes(self, path: Any, native: bool = False) -> Any:
        """The same as uint8."""
        return tf.cast(self.load(path, native), tf.uint8)

    def store(self, listing: Listing) -> Store:
        """All images, decoded."""
        shape = (*self.image_size, self.channels)
        settings = (shape, self.interpolation, self.crop, self.pad)
        return store(listing, shape, self.load_bytes, self.cache or None, settings)

    def labels(self, listing: Listing) -> Any:
        """The labels of all images."""
        if self.label_mode == "int":
            return tf.constant(listing.labels, tf.int32)
        if self.label_mode == "binary":
            return tf.constant(listing.labels, tf.float32)[:, None]
        return tf.one_hot(listing.labels, len(listing.class_names))

    def validation_pixels(self, images: Any) -> Any:
        """Images that are not augmented, on the scale of those that are."""
        images = tf.cast(images, self.dtype)
        for rescale in self.rescales:
            images = images * rescale.scale + rescale.offset
        return images


@dataclass(frozen=True)
class _Source:
    """Datasets of parts of a folder."""

    form: _Form
    kept: Store | None
    unreadable: list[str]
    native: bool

    def dataset(
        self, listing: Listing, shuffle: bool = False, policy: Policy | None = None
    ) -> Any:
        """The dataset of the images of a listing."""
        form = self.form
        data = tf.data.Dataset.from_tensor_slices(self._slices(listing))
        if shuffle:
            data = data.shuffle(len(listing), form.seed)
        if self.kept is None:
            # A policy takes bytes, whose range of values is known.
            floats = policy is None and form.dtype == "float32"
            load = form.load if floats else form.load_bytes
            data = _map(data, lambda path: load(path, self.native), decoding.CALLS)
        data = data.batch(form.batch_size or _BATCH)
        if self.kept is not None:
            data = _map(data, self.kept.rows)
        if policy is None:
            data = _map(data, form.validation_pixels)
        else:
            data = _map(policy.map(data), lambda images: _as_floats(images, form.dtype))
        if form.batch_size is None:
            data = data.unbatch()
            data = data.apply(tf.data.experimental.assert_cardinality(len(listing)))
        data = decoding.untuned(data.prefetch(_AHEAD))
        data.class_names = list(listing.class_names) or None
        data.file_paths = [str(path) for path in listing.paths]
        data.unreadable = self.unreadable
        return data

    def _slices(self, listing: Listing) -> Any:
        """What is shuffled: paths or places, and labels."""
        first = decoding.encoded(listing)
        if self.kept is not None:
            first = tf.constant(listing.rows, tf.int64)
        alone = self.form.label_mode is None
        return first if alone else (first, self.form.labels(listing))


def _map(data: Any, function: Any, calls: int = tf.data.AUTOTUNE) -> Any:
    """Maps what comes first, images or what stands for them."""

    def mapped(*parts: Any) -> Any:
        first, *rest = parts
        return (function(first), *rest) if rest else function(first)

    return data.map(mapped, num_parallel_calls=calls)


def _as_floats(images: Any, dtype: str) -> Any:
    """Bytes as they are asked for; what the policy made floats stays so."""
    return tf.cast(images, dtype) if images.dtype == tf.uint8 else images


def _policy(augmentation: Any, seed: int | None) -> Policy | None:
    return None if augmentation is None else policy_of(augmentation, seed=seed)
