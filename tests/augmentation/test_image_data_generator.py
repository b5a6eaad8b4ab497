"""ImageDataGenerator: the same images for the same numbers, and drawn as often."""

import inspect
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from tf_keras.preprocessing.image import ImageDataGenerator

import kacc
from kacc.augmentation import (
    Flip,
    Policy,
    flow_from_directory,
    from_image_data_generator,
    policy_of,
)
from kacc.augmentation import image_data_generator as module
from kacc.augmentation.apply import augment
from kacc.augmentation.functional import warp
from kacc.augmentation.legacy_sampling import legacy_matrix

RNG = np.random.default_rng(0)


def smooth(height=36, width=36, channels=3):
    """An image without high frequencies, on which interpolations agree."""
    y, x = np.mgrid[:height, :width]
    waves = [
        127 + 100 * np.sin(x / 5 + c) * np.cos(y / (6 + c)) for c in range(channels)
    ]
    return np.stack(waves, -1).astype("float32")


def centred(matrix_rows, height, width):
    """The matrix around the middle, from that around (0, 0)."""
    middle = np.array([[1, 0, (width - 1) / 2], [0, 1, (height - 1) / 2], [0, 0, 1]])
    matrix = np.array([*np.array(matrix_rows, float), [0, 0, 1]])
    return middle @ matrix @ np.linalg.inv(middle)


@pytest.mark.parametrize(
    "numbers",
    [
        {"theta": 25},
        {"theta": -130},
        {"tx": 5, "ty": -3},
        {"tx": 2.5},
        {"shear": 20},
        {"shear": -35},
        {"zx": 0.7, "zy": 1.4},
        {"theta": 15, "tx": 3, "ty": 4.5, "shear": 12, "zx": 0.8, "zy": 0.9},
        {"theta": -40, "tx": -6, "ty": 2, "shear": -25, "zx": 1.3, "zy": 0.7},
    ],
    ids=str,
)
@pytest.mark.parametrize("fill_mode", ["nearest", "reflect"])
def test_fixed_numbers_give_the_same_image(numbers, fill_mode):
    image = smooth()
    generator = ImageDataGenerator(fill_mode=fill_mode)
    wanted = generator.apply_transform(image, numbers)
    defaults = {"theta": 0, "tx": 0, "ty": 0, "shear": 0, "zx": 1, "zy": 1}
    given = defaults | numbers
    for angle in ("theta", "shear"):
        given[angle] = np.deg2rad(given[angle])
    rows = legacy_matrix(*(tf.constant(float(v)) for v in given.values()))
    matrix = centred(rows, *image.shape[:2]).astype("float32")
    found = warp(image[None], matrix[None], "bilinear", fill_mode, projective=False)
    # Both interpolate linearly, in single and in double precision.
    np.testing.assert_allclose(found[0], wanted, atol=0.05)
    assert np.abs(wanted - image).max() > 10  # the numbers do something


def columns(arguments, batch=4000, height=40, width=30):
    """Matrices around the middle, and the other parameters, of many images."""
    policy = from_image_data_generator(**arguments)
    found = {
        name: np.asarray(value)
        for name, value in policy.sample((1, 2, 3), batch, height, width).items()
    }
    if "matrix" in found:
        middle = centred(np.eye(3)[:2], height, width)
        assert np.allclose(middle, np.eye(3))
        shift = np.array([[1, 0, (width - 1) / 2], [0, 1, (height - 1) / 2], [0, 0, 1]])
        found["matrix"] = np.linalg.inv(shift) @ found["matrix"] @ shift
    return found


def theirs(arguments, batch=2000, height=40, width=30):
    """What the generator draws: name -> numbers."""
    generator = ImageDataGenerator(**arguments)
    np.random.seed(0)  # noqa: NPY002 - the generator draws from it
    drawn = [generator.get_random_transform((height, width, 3)) for _ in range(batch)]
    return {name: np.array([d[name] for d in drawn], float) for name in drawn[0]}


def assert_alike(ours, wanted):
    """Two samples of one distribution (Kolmogorov and Smirnov, at a thousandth)."""
    ours, wanted = np.round(ours, 4), np.round(wanted, 4)
    places = np.union1d(ours, wanted)
    shares = [
        np.searchsorted(np.sort(x), places, side="right") / len(x)
        for x in (ours, wanted)
    ]
    bound = 1.95 * np.sqrt(1 / len(ours) + 1 / len(wanted))
    assert np.abs(shares[0] - shares[1]).max() < bound
    assert np.ptp(ours) == pytest.approx(np.ptp(wanted), rel=0.02)
    assert np.ptp(wanted) > 0


def test_keras_2_itself_moves_sideways_by_heights():
    """What is not copied; if this fails, the note in the docstring is out of date."""
    image = smooth()
    np.random.seed(0)  # noqa: NPY002
    generator = ImageDataGenerator(height_shift_range=[5])
    moved = generator.apply_transform(
        image, generator.get_random_transform((36, 36, 3))
    )
    sideways = [generator.apply_transform(image, {"tx": tx}) for tx in (5, -5)]
    assert any((moved == one).all() for one in sideways)
    shift = {
        abs(s)
        for s in np.round(columns({"height_shift_range": [5]})["matrix"])[:, 1, 2]
    }
    assert shift == {5}


def test_images_that_are_not_square_turn_around_their_middle():
    matrix = columns({"rotation_range": 50}, height=40, width=20)["matrix"]
    np.testing.assert_allclose(matrix[:, :2, 2], 0, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "name", "ours"),
    [
        (
            {"rotation_range": 30},
            "theta",
            lambda m: np.rad2deg(np.arctan2(m[:, 1, 0], m[:, 0, 0])),
        ),
        (
            {"shear_range": 20},
            "shear",
            lambda m: -np.rad2deg(np.arctan2(m[:, 0, 1], m[:, 1, 1])),
        ),
        ({"zoom_range": 0.3}, "zx", lambda m: m[:, 0, 0]),
        ({"zoom_range": 0.3}, "zy", lambda m: m[:, 1, 1]),
        ({"zoom_range": [0.5, 0.8]}, "zx", lambda m: m[:, 0, 0]),
        ({"height_shift_range": 0.2}, "tx", lambda m: m[:, 1, 2]),
        ({"width_shift_range": 0.2}, "ty", lambda m: m[:, 0, 2]),
        ({"width_shift_range": 4.0}, "ty", lambda m: m[:, 0, 2]),
        ({"width_shift_range": 1.0}, "ty", lambda m: m[:, 0, 2]),
        ({"height_shift_range": 5}, "tx", lambda m: m[:, 1, 2]),
        ({"height_shift_range": [-3, 0, 8]}, "tx", lambda m: m[:, 1, 2]),
        ({"width_shift_range": [0.1, 0.3]}, "ty", lambda m: m[:, 0, 2]),
    ],
    ids=lambda value: None if callable(value) else str(value),
)
def test_geometry_is_drawn_as_the_generator_draws_it(arguments, name, ours):
    assert_alike(ours(columns(arguments)["matrix"]), theirs(arguments)[name])


def test_whole_pixels_are_the_same_set():
    for arguments in ({"height_shift_range": 5}, {"height_shift_range": [-3, 0, 8]}):
        ours = columns(arguments)["matrix"][:, 1, 2]
        wanted = theirs(arguments)["tx"]
        assert set(np.round(ours, 3) + 0.0) == set(wanted + 0.0)


def test_width_and_height_are_zoomed_each_by_itself():
    matrix = columns({"zoom_range": 0.3})["matrix"]
    assert abs(np.corrcoef(matrix[:, 0, 0], matrix[:, 1, 1])[0, 1]) < 0.1


def test_flips_are_drawn_as_often():
    arguments = {"horizontal_flip": True, "vertical_flip": True}
    matrix = columns(arguments)["matrix"]
    flipped = theirs(arguments)
    for axis, name in ((0, "flip_horizontal"), (1, "flip_vertical")):
        share = (matrix[:, axis, axis] < 0).mean()
        assert share == pytest.approx(flipped[name].mean(), abs=0.05)
    assert columns({"vertical_flip": True})["matrix"][:, 0, 0].min() > 0


def test_colours_are_drawn_as_the_generator_draws_them():
    arguments = {"brightness_range": (0.5, 1.2), "channel_shift_range": 30.0}
    colour, wanted = columns(arguments)["colour"], theirs(arguments)
    assert_alike(colour[:, 0, 0], wanted["brightness"])
    assert_alike(colour[:, 1, 3] * 255, wanted["channel_shift_intensity"])
    for channel in (1, 2):  # one number for all channels
        np.testing.assert_array_equal(colour[:, channel, 3], colour[:, 0, 3])


@pytest.mark.parametrize("engine", ["graph", "host"])
def test_colours_are_the_same_images(engine):
    image = smooth() * 0.7 + 20
    generator = ImageDataGenerator()
    for arguments, numbers in (
        ({"brightness_range": (0.6, 0.6)}, {"brightness": 0.6}),
        ({"brightness_range": (1.5, 1.5)}, {"brightness": 1.5}),
        ({"rescale": 1 / 255}, {}),
    ):
        policy = from_image_data_generator(**arguments)
        found = augment(policy, (1, 2, 3), {"images": tf.constant(image[None])}, engine)
        wanted = generator.apply_transform(image, numbers)
        wanted = wanted * arguments.get("rescale", 1)
        # The generator goes through bytes, which it cuts off.
        bytes_cut = 0 if "rescale" in arguments else 2.0
        np.testing.assert_allclose(found["images"][0], wanted, atol=bytes_cut + 1e-5)


@pytest.mark.parametrize("engine", ["graph", "host"])
def test_flips_come_after_the_warp(engine):
    image = smooth()
    arguments = {"height_shift_range": [3], "width_shift_range": [5]}
    generator = ImageDataGenerator()
    policy = from_image_data_generator(**arguments, horizontal_flip=True)
    batch = np.repeat(image[None], 32, 0)
    found = np.asarray(
        augment(policy, (1, 2, 3), {"images": tf.constant(batch)}, engine)["images"]
    )
    wanted = [
        generator.apply_transform(image, {"tx": tx, "ty": ty, "flip_horizontal": flip})
        for tx in (5, -5)
        for ty in (3, -3)
        for flip in (False, True)
    ]
    nearest = [
        min(range(8), key=lambda i: np.abs(one - wanted[i]).max()) for one in found
    ]
    assert set(nearest) == set(range(8))
    for one, index in zip(found, nearest, strict=True):
        np.testing.assert_allclose(one, wanted[index], atol=0.01)


# As a policy


ARGUMENTS = {
    "rotation_range": 20,
    "width_shift_range": [1, 2],
    "height_shift_range": 3,
    "shear_range": 5.0,
    "zoom_range": 0.1,
    "brightness_range": [0.8, 1.2],
    "channel_shift_range": 10.0,
    "horizontal_flip": True,
    "rescale": 1 / 255,
    "fill_mode": "constant",
    "cval": 9.0,
    "interpolation_order": 0,
}


def test_settings_of_the_policy():
    policy = from_image_data_generator(**ARGUMENTS, seed=4)
    assert policy.seed == 4
    assert policy.fill_mode == "constant"
    assert policy.fill_value == 9
    assert policy.interpolation == "nearest"
    assert policy.value_range == (0, 255)
    names = [type(transform).__name__ for transform in policy.transforms]
    assert names == ["LegacyWarp", "Flip", "Brightness", "LevelShift", "Rescale"]
    assert from_image_data_generator(horizontal_flip=True).fill_mode == "nearest"


def test_policies_survive_json():
    policy = from_image_data_generator(**ARGUMENTS)
    config = json.loads(json.dumps(policy.get_config()))
    assert Policy.from_config(config) == policy


def test_a_dictionary_is_taken_where_a_policy_is():
    assert policy_of(ARGUMENTS) == from_image_data_generator(**ARGUMENTS)
    assert policy_of(ARGUMENTS, seed=3) == from_image_data_generator(
        **ARGUMENTS, seed=3
    )
    named = from_image_data_generator(**ARGUMENTS)
    assert policy_of(named.get_config()) == named


def test_all_arguments_of_the_generator_are_known():
    names = set(inspect.signature(ImageDataGenerator.__init__).parameters) - {"self"}
    assert names == set(module.DEFAULTS) | set(module.ELSEWHERE)
    for name, default in module.DEFAULTS.items():
        parameter = inspect.signature(ImageDataGenerator.__init__).parameters[name]
        assert parameter.default == default


# In flow_from_directory


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for index in range(10):
            image = RNG.integers(0, 256, (12, 12, 3))
            keras.utils.save_img(tmp_path / name / f"{index}.png", image, scale=False)
    return tmp_path


@pytest.mark.parametrize(
    "augmentation",
    [
        {"rotation_range": 20, "rescale": 1 / 255, "validation_split": 0.2},
        from_image_data_generator(rotation_range=20, rescale=1 / 255),
    ],
    ids=["dictionary", "policy"],
)
def test_training_and_validation_are_on_one_scale(folder, augmentation):
    split = {} if isinstance(augmentation, dict) else {"validation_split": 0.2}
    train, val = flow_from_directory(
        folder, image_size=12, augmentation=augmentation, subset="both", **split
    )
    for data, count in ((train, 16), (val, 4)):
        images = np.concatenate([x for x, _ in data.as_numpy_iterator()])
        assert images.shape == (count, 12, 12, 3)
        assert images.dtype == np.float32
        assert 0.5 < images.max() <= 1


@pytest.mark.parametrize("cache", [None, True])
@pytest.mark.parametrize(
    ("label_mode", "batch_size"), [("int", 8), (None, 8), ("categorical", None)]
)
def test_training_images_alone_are_changed(folder, cache, label_mode, batch_size):
    options = {
        "image_size": 12,
        "shuffle": False,
        "cache": cache,
        "label_mode": label_mode,
        "batch_size": batch_size,
    }
    flips = [Flip(probability=1)]

    def pixels(**more):
        data = flow_from_directory(folder, **options, **more)
        parts = [b if label_mode is None else b[0] for b in data.as_numpy_iterator()]
        assert data.cardinality() == len(parts)
        return np.stack(parts) if batch_size is None else np.concatenate(parts)

    plain, flipped = pixels(), pixels(augmentation=flips)
    np.testing.assert_array_equal(flipped, plain[:, :, ::-1])
    split = {"validation_split": 0.5, "subset": "validation"}
    np.testing.assert_array_equal(pixels(**split, augmentation=flips), pixels(**split))


def test_augmentation_is_new_in_each_epoch_and_the_same_in_each_run(folder):
    options = {"image_size": 12, "augmentation": "standard", "seed": 1}
    one, two = (flow_from_directory(folder, **options, cache=True) for _ in range(2))
    epochs = [next(iter(one))[0].numpy() for _ in range(2)]
    np.testing.assert_array_equal(epochs[0], next(iter(two))[0])
    assert (epochs[0] != epochs[1]).any()
    assert epochs[0].dtype == np.float32
    assert np.ptp(epochs[0]) > 100


def test_mixing_needs_one_hot_labels(folder):
    from kacc.augmentation import MixUp

    with pytest.raises(kacc.UsageError, match="label_mode"):
        flow_from_directory(folder, image_size=12, augmentation=[MixUp()])
    mixed = flow_from_directory(
        folder, image_size=12, augmentation=[MixUp()], label_mode="categorical"
    )
    labels = next(iter(mixed))[1].numpy()
    assert ((labels > 0) & (labels < 1)).any()
    np.testing.assert_allclose(labels.sum(1), 1, rtol=1e-6)


def test_policies_of_other_data_are_refused(folder):
    from kacc.augmentation import TimeShift

    with pytest.raises(kacc.UsageError, match="of images"):
        flow_from_directory(folder, image_size=12, augmentation=[TimeShift()])


def test_rescaled_bytes_are_refused(folder):
    with pytest.raises(kacc.UsageError, match="Rescaled images are floats"):
        flow_from_directory(folder, augmentation={"rescale": 0.1}, dtype="uint8")


# Wrong calls


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"featurewise_center": True}, "keras.layers.Normalization"),
        ({"featurewise_std_normalization": True}, "keras.layers.Normalization"),
        ({"samplewise_center": True}, "per_image_standardization"),
        ({"samplewise_std_normalization": True}, "per_image_standardization"),
        ({"zca_whitening": True}, "keras.layers.Dense"),
        ({"preprocessing_function": abs}, "dataset.map"),
        ({"validation_split": 0.1, "rotation_range": 3}, "flow_from_directory"),
        ({"data_format": "channels_first"}, "channels_last"),
        ({"dtype": "float64"}, "float32"),
        ({"rotation": 3}, "must be those of ImageDataGenerator"),
        ({}, "must change images"),
        ({"rotation_range": 0, "featurewise_center": False}, "must change images"),
        ({"rotation_range": -3}, "`rotation_range` must be"),
        ({"shear_range": "a"}, "`shear_range` must be"),
        ({"zoom_range": 1.5}, "`zoom_range` must be"),
        ({"zoom_range": (1, 2, 3)}, "`zoom_range` must be"),
        ({"zoom_range": "a"}, "`zoom_range` must be"),
        ({"width_shift_range": -1}, "`width_shift_range` must be"),
        ({"width_shift_range": []}, "`width_shift_range` must be"),
        ({"height_shift_range": ["a"]}, "`height_shift_range` must be"),
        ({"brightness_range": 0.5}, "`brightness_range` must be"),
        ({"brightness_range": (1.2, 0.8)}, "`brightness_range` must be"),
        ({"channel_shift_range": 300}, "`channel_shift_range` must be"),
        ({"rescale": "a"}, "`rescale` must be"),
        ({"horizontal_flip": "yes"}, "`horizontal_flip` must be"),
        ({"rotation_range": 3, "fill_mode": "mirror"}, "`fill_mode` must be"),
        ({"rotation_range": 3, "interpolation_order": 3}, "`interpolation_order`"),
        ({"rotation_range": 3, "seed": -1}, "`seed` must be"),
    ],
    ids=str,
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(kacc.UsageError, match=message):
        from_image_data_generator(**arguments)
