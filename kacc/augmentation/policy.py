"""The policy: what is done to images, from which every use of it follows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from kacc.augmentation import checks, config, config_values
from kacc.augmentation.config import Transform, transform_from_config
from kacc.core.errors import UsageError

FILL_MODES = ("reflect", "constant", "nearest", "wrap")
INTERPOLATIONS = ("bilinear", "nearest")

_NAMED: dict[str, tuple[Transform, ...]] = {
    "light": (config.Flip(), config.Translation(0.1)),
    "standard": (
        config.Flip(),
        config.Rotation(15),
        config.Shear(10),
        config.Zoom(0.15),
        config.Translation(0.1),
    ),
    "strong": (
        config.Flip(),
        config.Translation(0.1),
        config.RandAugment(2, 9),
        config_values.Erasing(probability=0.25),
    ),
    "flip_and_crop": (config.Flip(), config.RandomCrop(4)),
    "randaugment": (config.Flip(), config.RandAugment(2, 9)),
    "trivialaugment": (config.Flip(), config.TrivialAugment()),
}


@dataclass(frozen=True)
class Policy:
    """What is done to images in training: the same for callback, layer and `tf.data`.

    The order of the transforms does not matter; what they do is put together and done
    in this order, whatever the engine:

    1. Geometry, as one warp: zoom, shear, rotation, flips, translation and crop,
       perspective. The size stays, so images are resized before.
    2. Colour, as one matrix: brightness, contrast, saturation, hue, channel shift.
    3. Tables: automatic contrast, equalizing, solarizing, posterizing.
    4. Sharpness and blur. 5. Noise. 6. Erasing. 7. Rescaling. 8. MixUp and CutMix.

    Args:
        transforms: of `kacc.augmentation`, all for the same kind of data.
        seed: the same seed gives the same images.
        fill_mode: what is beyond the edge of an image: "reflect" (mirrored),
            "constant", "nearest" (the pixel of the edge) or "wrap" (the other side).
        fill_value: of "constant", and of erased rectangles.
        interpolation: of the warp: "bilinear" or "nearest".
        value_range: the lowest and highest value of float images, which transforms of
            colour need; uint8 images have 0 to 255.

    Raises:
        UsageError: for a wrong argument.

    Example:
        >>> from kacc.augmentation import Flip, Policy, Rotation
        >>> policy = Policy([Flip(), Rotation(10)], seed=1)
        >>> Policy.from_config(policy.get_config()) == policy
        True
    """

    transforms: tuple[Transform, ...]
    seed: int = 0
    fill_mode: str = "reflect"
    fill_value: float = 0.0
    interpolation: str = "bilinear"
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        _check_transforms(self.transforms)
        object.__setattr__(self, "transforms", tuple(self.transforms))
        seed = checks.whole("`seed`", self.seed, 0, 2**31 - 1)
        checks.choice("`fill_mode`", self.fill_mode, FILL_MODES)
        fill_value = checks.number("`fill_value`", self.fill_value)
        checks.choice("`interpolation`", self.interpolation, INTERPOLATIONS)
        object.__setattr__(self, "seed", seed)
        object.__setattr__(self, "fill_value", fill_value)
        if self.value_range is not None:
            object.__setattr__(self, "value_range", _value_range(self.value_range))

    @classmethod
    def from_name(cls, name: str, **options: Any) -> Policy:
        """One of the policies that have a name.

        Args:
            name: "light" (flips, small translations), "standard" (the usual warp),
                "strong" (light, RandAugment and erasing), "flip_and_crop" (as usual
                for CIFAR), "randaugment" or "trivialaugment" (each with flips).
            **options: arguments of `Policy`, such as `seed` and `value_range`.

        Raises:
            UsageError: for an unknown name or a wrong option.

        Example:
            >>> from kacc.augmentation import Policy
            >>> Policy.from_name("light").transforms[0]
            Flip(mode='horizontal', probability=0.5)
        """
        return cls(_NAMED[checks.choice("`name`", name, tuple(_NAMED))], **options)

    @property
    def modality(self) -> str:
        """What the transforms are for: "image", or another kind of data."""
        return self.transforms[0].modality

    @property
    def mixes(self) -> bool:
        """Whether images get a part of others, so that labels must be mixed, too."""
        return bool(self.all(config.MixUp, config.CutMix))

    @property
    def is_projective(self) -> bool:
        """Whether the warp is more than affine."""
        return bool(self.all(config.Perspective))

    @property
    def warp_interpolation(self) -> str:
        """That of the warp; images that move by whole pixels need none."""
        kinds = (config.Flip, config.RandomCrop)
        others = [t for t in self.transforms if t.moves and not isinstance(t, kinds)]
        return self.interpolation if others else "nearest"

    @property
    def blur_radius(self) -> int:
        """Pixels to each side that a blur reads: three deviations."""
        variances = [blur.sigma[1] ** 2 for blur in self.all(config_values.Blur)]
        return math.ceil(3 * math.sqrt(sum(variances)))

    def range_of(self, dtype: Any) -> tuple[float, float]:
        """The lowest and highest value of images of a type.

        Raises:
            UsageError: for floats, if a transform needs it and the policy does not say.
        """
        if str(getattr(dtype, "name", dtype)) == "uint8":
            return 0.0, 255.0
        needing = [type(t).__name__ for t in self.transforms if t.needs_value_range]
        if self.value_range is None and needing:
            raise UsageError(
                f"{needing[0]} of float images needs the range of their values",
                received="a policy without value_range",
                fix="Pass value_range=(0, 255), or (0, 1), or uint8 images",
            )
        return self.value_range or (0.0, 255.0)

    def all(self, *classes: type) -> list[Any]:
        """Its transforms of some classes."""
        return [t for t in self.transforms if isinstance(t, classes)]

    def sample(
        self, seed: Sequence[int], batch: int, height: int, width: int
    ) -> dict[str, Any]:
        """The parameters that are drawn for a batch.

        Args:
            seed: two or three integers of 32 bits; the same give the same parameters.
            batch: images.
            height: of an image, in pixels.
            width: of an image, in pixels.

        Returns:
            Name -> tensor; see `kacc.augmentation.sampling.draw`.

        Example:
            >>> from kacc.augmentation import Flip, Policy
            >>> Policy([Flip()]).sample((1, 2), 8, 32, 32)["matrix"].shape
            TensorShape([8, 3, 3])
        """
        import tensorflow as tf

        from kacc.augmentation.sampling import compiled_draw

        whole = [checks.whole("`seed`", part, -(2**31), 2**31 - 1) for part in seed]
        return compiled_draw(self, batch, height, width)(
            tf.constant((*whole, 0, 0)[:3])
        )

    def map(
        self,
        dataset: Any,
        engine: str = "auto",
        *,
        key: Any = None,
        bounding_box_format: str | None = None,
    ) -> Any:
        """A dataset whose batches are changed, anew in each epoch.

        Put it behind `cache`, `shuffle` and `batch`, and `prefetch` behind it.

        Args:
            dataset: a tf.data.Dataset of batches: images; (images, labels) or (images,
                labels, weights); or Keras's dictionaries with "images" and what there
                is of "labels", "bounding_boxes" and "segmentation_masks". Labels of
                the height and width of the images are masks, and move too.
            engine: "host" (OpenCV), "graph" (TensorFlow, compiled by XLA for each shape
                of batches), or "auto": the host if OpenCV is installed.
            key: of the images, where the inputs are a dictionary or a tuple.
            bounding_box_format: as Keras names it, such as "xyxy" or "rel_xywh".

        Returns:
            A tf.data.Dataset of the same structure. Bounding boxes that have left the
            image have labels of -1.

        Raises:
            UsageError: for anything but such a dataset, or labels that cannot be mixed.

        Example:
            >>> import numpy as np, tensorflow as tf
            >>> from kacc.augmentation import Policy
            >>> data = tf.data.Dataset.from_tensor_slices(np.zeros((8, 32, 32, 3)))
            >>> Policy.from_name("light").map(data.batch(4)).element_spec.shape
            TensorShape([None, 32, 32, 3])
        """
        from kacc.augmentation.pipeline import map_dataset

        return map_dataset(self, dataset, engine, key, bounding_box_format)

    def preview(self, images: Any, path: Any, columns: int = 8, rows: int = 8) -> Any:
        """Draws what the policy does: originals on the left, changed images beside.

        Args:
            images: a batch (n, height, width, channels) of which the first are drawn.
            path: of the PNG file to write.
            columns: changed images beside each original.
            rows: originals.

        Returns:
            The path.

        Raises:
            UsageError: for anything but such a batch.

        Example:
            >>> import numpy as np, tempfile, pathlib
            >>> from kacc.augmentation import Policy
            >>> path = pathlib.Path(tempfile.mkdtemp()) / "light.png"
            >>> images = np.zeros((2, 32, 32, 3), "uint8")
            >>> Policy.from_name("light").preview(images, path) == path
            True
        """
        from kacc.augmentation.preview import draw_grid

        return draw_grid(self, images, path, columns, rows)

    def get_config(self) -> dict[str, Any]:
        """The policy as JSON values, for layers and logs."""
        return {
            "transforms": [transform.get_config() for transform in self.transforms],
            "seed": self.seed,
            "fill_mode": self.fill_mode,
            "fill_value": self.fill_value,
            "interpolation": self.interpolation,
            "value_range": None if self.value_range is None else [*self.value_range],
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Policy:
        """The policy that `get_config` describes.

        Raises:
            UsageError: for an unknown transform or a wrong argument.
        """
        transforms = [transform_from_config(entry) for entry in config["transforms"]]
        return cls(**{**config, "transforms": transforms})


def policy_of(policy: Any, **options: Any) -> Policy:
    """The policy that a name, a list of transforms or one transform stands for.

    Args:
        policy: a `Policy`, a name, transforms, a transform, or a dictionary: a policy's
            config, or arguments of `ImageDataGenerator`.
        **options: arguments of `Policy` to set; None leaves what the policy says.

    Raises:
        UsageError: if it is none of them.

    Example:
        >>> from kacc.augmentation import Flip
        >>> policy_of([Flip()], seed=3) == policy_of(Policy([Flip()]), seed=3)
        True
    """
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(policy, Policy):
        return replace(policy, **given) if given else policy
    if isinstance(policy, str):
        return Policy.from_name(policy, **given)
    if isinstance(policy, Transform):
        return Policy((policy,), **given)
    if isinstance(policy, dict) and "transforms" in policy:
        return replace(Policy.from_config(policy), **given)
    if isinstance(policy, dict):
        from kacc.augmentation.image_data_generator import from_image_data_generator

        return replace(from_image_data_generator(**policy), **given)
    if isinstance(policy, Sequence):
        return Policy(tuple(policy), **given)
    names = ", ".join(f'"{name}"' for name in _NAMED)
    raise UsageError(
        "A policy must be a kacc.augmentation.Policy, a list of transforms or a name",
        received=policy,
        fix=f"The names are {names}",
    )


def _check_transforms(transforms: Any) -> None:
    fix = "Pass a list like [Flip(), Rotation(10)]"
    if not isinstance(transforms, (tuple, list)) or not transforms:
        raise UsageError(
            "`transforms` must be a list with at least one transform",
            received=transforms,
            fix=fix,
        )
    for transform in transforms:
        if not isinstance(transform, Transform):
            raise UsageError(
                "`transforms` must be transforms of kacc.augmentation",
                received=transform,
                fix=fix,
            )
    if len({transform.modality for transform in transforms}) > 1:
        raise UsageError(
            "The transforms of a policy must be for one kind of data",
            received=sorted({transform.modality for transform in transforms}),
            fix="Make a policy for each",
        )


def _value_range(value: Any) -> tuple[float, float]:
    if isinstance(value, (tuple, list)):
        low, high = checks.interval("`value_range`", tuple(value))
        if low < high:
            return low, high
    raise UsageError(
        "`value_range` must be (lowest, highest)",
        received=value,
        fix="Pass (0, 1), (0, 255) or (-1, 1)",
    )
