"""Transforms and policies check themselves, and survive JSON."""

import dataclasses
import json

import numpy as np
import pytest

import kacc
from kacc import augmentation as aug
from kacc.augmentation import Policy, policy_of
from kacc.augmentation.config import Transform, transform_from_config
from kacc.augmentation.config_legacy import LegacyWarp, LevelShift
from kacc.augmentation.sampling import _SAMPLERS

IMAGE_TRANSFORMS = [
    value
    for value in vars(aug).values()
    if isinstance(value, type)
    and issubclass(value, Transform)
    and value is not Transform
    and value.modality == "image"
]

EXAMPLES = [
    aug.Flip("both"),
    aug.Rotation((-5, 90)),
    aug.Shear(20, "both"),
    aug.Zoom(0.3, keep_aspect=False),
    aug.Translation(0.1, (0, 0.2), probability=0.5),
    aug.Perspective(0.1),
    aug.RandomCrop(2),
    aug.Brightness((0.5, 2)),
    aug.Contrast(0.5),
    aug.Saturation(0.5),
    aug.Hue(0.2),
    aug.ChannelShift(0.1),
    aug.Grayscale(),
    aug.Posterize((2, 5)),
    aug.Solarize(0.5),
    aug.Equalize(),
    aug.AutoContrast(),
    aug.Sharpness(0.5),
    aug.Blur(1.5),
    aug.Noise(),
    aug.Erasing(value=3.0),
    aug.Rescale(1 / 255, -1),
    aug.MixUp(),
    aug.CutMix(),
    aug.RandAugment(1, 20),
    aug.TrivialAugment(),
]


def test_examples_are_of_all_transforms_and_all_are_sampled():
    assert {type(example) for example in EXAMPLES} == set(IMAGE_TRANSFORMS)
    # Those that ImageDataGenerator's arguments become are not made by name.
    assert set(_SAMPLERS) == {*IMAGE_TRANSFORMS, LegacyWarp, LevelShift}


@pytest.mark.parametrize("transform", EXAMPLES, ids=lambda t: type(t).__name__)
def test_transform_survives_json_and_is_frozen(transform):
    config = json.loads(json.dumps(transform.get_config()))
    assert transform_from_config(config) == transform
    name = dataclasses.fields(transform)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(transform, name, 1)


def test_scalars_of_numpy_are_plain_numbers():
    """As they come out of a search for the best policy."""
    half, two = np.float32(0.5), np.int64(2)
    tenth = np.float32(0.1)
    transforms = [
        aug.Flip(probability=half),
        aug.Rotation(two),
        aug.Perspective(tenth),
        aug.RandomCrop(two),
        aug.MixUp(half),
        aug.RandAugment(two, half),
        aug.Erasing(value=half),
        aug.Rescale(half, half),
        LegacyWarp(rotation=half, shear=half),
        LevelShift(half),
    ]
    policy = Policy(transforms, seed=two, fill_value=half, value_range=(-half, half))
    assert Policy.from_config(json.loads(json.dumps(policy.get_config()))) == policy
    for policy in (
        Policy([aug.SpecAugment(two, two, half, half, half, half)]),
        Policy([aug.TokenDropout(half, two, [two])]),
    ):
        assert Policy.from_config(json.loads(json.dumps(policy.get_config()))) == policy


def test_policy_survives_json():
    policy = Policy(EXAMPLES, seed=3, fill_mode="wrap", value_range=(-1, 1))
    assert Policy.from_config(json.loads(json.dumps(policy.get_config()))) == policy
    assert hash(policy) == hash(Policy(EXAMPLES, 3, "wrap", value_range=(-1, 1)))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: aug.Flip("diagonal"), "`mode` must be one of"),
        (lambda: aug.Flip(probability=1.5), "`probability` must be a number"),
        (lambda: aug.Rotation("a lot"), "`degrees` must be a number, zero or more"),
        (lambda: aug.Rotation(-5), "`degrees` must be a number, zero or more"),
        (lambda: aug.Rotation((5, -5)), "the lowest value first"),
        (lambda: aug.Rotation(float("nan")), "`degrees` must be a number"),
        (lambda: aug.Shear(95), "from -89 to 89"),
        (lambda: aug.Shear(5, axis="x"), "`axis` must be one of"),
        (lambda: aug.Zoom((0, 1)), "`range` must be a range"),
        (lambda: aug.Zoom(1.2), "below 1"),
        (lambda: aug.Zoom(-0.1), "`range` must be a number, zero or more"),
        (lambda: aug.Translation(2), "from -1 to 1"),
        (lambda: aug.Translation(0, vertical=2), "`vertical`"),
        (lambda: aug.Perspective(0.3), "`scale` must be a number"),
        (lambda: aug.RandomCrop(0), "`padding`"),
        (lambda: aug.RandomCrop(1.5), "`padding` must be a whole number"),
        (lambda: aug.RandomCrop(True), "`padding` must be a whole number"),
        (lambda: aug.Brightness((-1, 1)), "`factor`"),
        (lambda: aug.Hue(2), "`fraction`"),
        (lambda: aug.ChannelShift(2), "`fraction`"),
        (lambda: aug.Grayscale(-1), "`probability`"),
        (lambda: aug.Posterize(0), "`bits`"),
        (lambda: aug.Posterize((5, 2)), "`bits`"),
        (lambda: aug.Solarize(2), "`threshold`"),
        (lambda: aug.Equalize(2), "`probability`"),
        (lambda: aug.AutoContrast(2), "`probability`"),
        (lambda: aug.Blur(9), "`sigma`"),
        (lambda: aug.Noise(2), "`deviation`"),
        (lambda: aug.Erasing(area=2), "`area`"),
        (lambda: aug.Erasing(aspect=(0, 1)), "`aspect`"),
        (lambda: aug.Erasing(value="black"), "`value`"),
        (lambda: aug.Rescale("1/255"), "`scale`"),
        (lambda: aug.MixUp(0), "`alpha`"),
        (lambda: aug.CutMix(-1), "`alpha`"),
        (lambda: aug.RandAugment(0), "`n`"),
        (lambda: aug.RandAugment(magnitude=31), "`magnitude`"),
        (lambda: aug.TrivialAugment(2), "`probability`"),
        (lambda: Policy([]), "at least one transform"),
        (lambda: Policy("light"), "must be a list"),
        (lambda: Policy([aug.Flip]), "must be transforms"),
        (lambda: Policy([aug.Flip()], seed=-1), "`seed`"),
        (lambda: Policy([aug.Flip()], fill_mode="mirror"), "`fill_mode`"),
        (lambda: Policy([aug.Flip()], fill_value="red"), "`fill_value`"),
        (lambda: Policy([aug.Flip()], interpolation="cubic"), "`interpolation`"),
        (
            lambda: Policy([aug.Flip()], value_range=(1, 0)),
            "must be a range, the lowest value first",
        ),
        (lambda: Policy([aug.Flip()], value_range=1), "`value_range` must be"),
        (lambda: Policy.from_name("weak"), '"light", "standard", "strong"'),
        (lambda: policy_of("weak"), "`name` must be one of"),
        (lambda: policy_of(5), "A policy must be"),
        (lambda: Policy([aug.Flip()]).sample((1.5,), 1, 8, 8), "`seed`"),
        (lambda: transform_from_config({"transform": "Twirl"}), "The names are"),
        (lambda: transform_from_config({"transform": "Flip", "x": 1}), "arguments"),
    ],
)
def test_wrong_calls_are_errors_of_one_line(make, text):
    with pytest.raises(kacc.UsageError) as error:
        make()
    assert text in str(error.value)
    assert "\n" not in str(error.value)


def test_policies_are_taken_in_every_form():
    flip = aug.Flip()
    policy = Policy((flip,), seed=2)
    forms = (policy, Policy([flip]), [flip], (flip,), flip, policy.get_config())
    assert all(policy_of(form, seed=2) == policy for form in forms)
    assert policy_of("light", seed=2) == Policy.from_name("light", seed=2)
    assert policy_of(policy) is policy


def test_kinds_of_data_do_not_mix():
    class Hiss(Transform):
        modality = "sound of a test"

    with pytest.raises(kacc.UsageError, match="one kind of data"):
        Policy([aug.Flip(), Hiss()])


def test_whole_pixels_need_no_interpolation():
    exact = Policy([aug.Flip(), aug.RandomCrop(), aug.Brightness(0.1)])
    assert exact.warp_interpolation == "nearest"
    assert Policy([aug.Flip(), aug.Rotation(5)]).warp_interpolation == "bilinear"
