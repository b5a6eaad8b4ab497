"""Both engines do the same; seeds decide; batches of any size and type are taken."""

import numpy as np
import pytest
import tensorflow as tf

import kacc
from kacc import augmentation as aug
from kacc.augmentation import Policy, host
from kacc.augmentation.apply import augment, engine_named

SEED = (1, 2, 3)

GROUPS = {
    "geometry": [aug.Flip(), aug.Rotation(30), aug.Zoom(0.2), aug.Perspective(0.1)],
    "crop": [aug.Flip(), aug.RandomCrop(4)],
    "colour": [
        aug.Brightness(0.3),
        aug.Contrast(0.5),
        aug.Saturation(0.5),
        aug.Hue(0.2),
        aug.ChannelShift(0.1),
        aug.Grayscale(0.2),
    ],
    "tables": [
        aug.AutoContrast(0.5),
        aug.Equalize(0.5),
        aug.Solarize((0.3, 0.8), 0.5),
        aug.Posterize((2, 6), 0.5),
    ],
    "filters": [aug.Sharpness(0.9), aug.Blur(1.5, 0.5)],
    "rest": [
        aug.Noise(),
        aug.Erasing(),
        aug.Rescale(1 / 255),
        aug.MixUp(),
        aug.CutMix(),
    ],
}


def images_of(dtype, count=6, size=(24, 20), channels=3):
    """Smooth, as photographs are, with some noise."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, (count, 4, 4, channels))
    smooth = tf.image.resize(coarse, size, "bicubic").numpy()
    return np.clip(smooth + rng.normal(0, 3, smooth.shape), 0, 255).astype(dtype)


@pytest.mark.parametrize(
    ("group", "dtype"),
    [(group, "uint8") for group in GROUPS]
    + [(group, "float32") for group in ("geometry", "colour", "tables", "filters")],
)
def test_engines_agree(group, dtype):
    policy = Policy(GROUPS[group], value_range=(0, 255))
    images = images_of(dtype)
    one, other = (
        augment(policy, SEED, {"images": images}, engine)["images"].numpy()
        for engine in ("graph", "host")
    )
    assert one.dtype == other.dtype == ("float32" if group == "rest" else dtype)
    assert not np.array_equal(one, images)
    difference = np.abs(one.astype(float) - other)
    if dtype == "float32" and group != "tables":
        assert difference.max() < 0.05  # of 255
        return
    # Roundings of halves, and a level that becomes quite another where it differs by
    # one, as at a threshold.
    assert difference.max() <= (1 if group != "tables" else 255)
    # OpenCV's colour matrix has 10 bits for uint8: more values round the other way.
    assert np.mean(difference > 0.5) < (0.15 if group == "colour" else 0.06)


@pytest.mark.parametrize("value_range", [(0, 255), (-40, 300)])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_each_image_is_changed_as_if_it_were_alone(dtype, value_range):
    """The host works on groups of images: none gets what belongs to another."""
    names = ("geometry", "colour", "tables", "filters")
    transforms = [t for name in names for t in GROUPS[name]]
    policy = Policy(transforms, value_range=value_range)
    images = images_of(dtype, 12)
    drawn = {name: v.numpy() for name, v in policy.sample(SEED, 12, 24, 20).items()}
    whole = host.change(images, drawn, policy)
    for number in range(12):
        rows = slice(number, number + 1)
        own = {name: values[rows] for name, values in drawn.items()}
        alone = host.change(images[rows], own, policy)
        np.testing.assert_array_equal(alone, whole[rows])
    assert not np.array_equal(whole, images)


def test_on_the_host_neutral_images_stay_and_mirrored_ones_are_exact():
    policy = Policy([aug.Flip(), aug.RandAugment(1, 9, 0.0)], value_range=(0, 255))
    images = images_of("float32", 16, (7, 9))
    result = augment(policy, SEED, {"images": images}, "host")["images"].numpy()
    same = [np.array_equal(a, b) for a, b in zip(result, images, strict=True)]
    mirrored = [
        np.array_equal(a, b[:, ::-1]) for a, b in zip(result, images, strict=True)
    ]
    assert any(same)
    assert any(mirrored)
    assert np.logical_xor(same, mirrored).all()


@pytest.mark.parametrize("engine", ["graph", "host"])
def test_the_same_seed_gives_the_same_images(engine):
    policy = Policy(GROUPS["geometry"])
    images = images_of("uint8")

    def changed(*seed):
        return augment(policy, seed, {"images": images}, engine)["images"].numpy()

    first = changed(1, 2, 3)
    np.testing.assert_array_equal(first, changed(1, 2, 3))
    for other in ((2, 2, 3), (1, 3, 3), (1, 2, 4)):
        assert not np.array_equal(first, changed(*other))
    assert not np.array_equal(first[0], changed(1, 2, 3)[1])


def test_sampling_is_the_same_inside_a_compiled_step():
    policy = Policy(GROUPS["geometry"])
    images = images_of("float32")
    inside = tf.function(
        lambda x: augment(policy, SEED, {"images": x})["images"] * 2.0, jit_compile=True
    )
    plain = augment(policy, SEED, {"images": images})["images"].numpy()
    np.testing.assert_allclose(inside(images).numpy(), plain * 2, atol=0.05)


def test_sampled_parameters_are_those_that_are_applied():
    policy = Policy([aug.Brightness((0.2, 2))], value_range=(0, 1))
    images = np.full((5, 8, 9, 3), 0.25, "float32")
    drawn = policy.sample(SEED, 5, 8, 9)["colour"].numpy()[:, 0, 0]
    changed = augment(policy, SEED, {"images": images})["images"].numpy()
    np.testing.assert_allclose(changed[:, 0, 0, 0], drawn * 0.25, rtol=1e-5)
    assert len(set(drawn)) == 5


@pytest.mark.parametrize("engine", ["graph", "host"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_floats_keep_their_type(engine, dtype):
    images = tf.cast(images_of("float32"), dtype)
    policy = Policy([aug.Translation((0.25, 0.25))], fill_mode="wrap")
    result = augment(policy, SEED, {"images": images}, engine)["images"]
    assert result.dtype == images.dtype
    moved = tf.roll(images, (6, 5), (1, 2))
    np.testing.assert_array_equal(tf.cast(result, "float32"), tf.cast(moved, "float32"))


@pytest.mark.parametrize("engine", ["graph", "host"])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_any_number_of_channels_is_warped_and_filtered(engine, channels):
    policy = Policy([aug.Flip(probability=1), aug.Sharpness((1, 1)), aug.Blur(0.01)])
    images = images_of("uint8", channels=channels)
    result = augment(policy, SEED, {"images": images}, engine)["images"].numpy()
    np.testing.assert_array_equal(result, images[:, :, ::-1])


@pytest.mark.parametrize("engine", ["graph", "host"])
def test_grey_images_are_coloured_like_grey_pixels(engine):
    policy = Policy([*GROUPS["colour"], aug.Posterize(4)], value_range=(0, 255))
    grey = images_of("uint8", channels=1)
    one = augment(policy, SEED, {"images": grey}, engine)["images"].numpy()
    assert one.shape == grey.shape
    plain = Policy([aug.Contrast(0.5), aug.Brightness(0.4), aug.Saturation(0.5)])
    grey_result = augment(plain, SEED, {"images": grey}, engine)["images"].numpy()
    three = np.repeat(grey, 3, -1)
    colour_result = augment(plain, SEED, {"images": three}, engine)["images"].numpy()
    difference = np.abs(colour_result - grey_result.astype(float))
    assert difference.max() <= 1  # of rounding


def test_batches_of_unknown_and_changing_size():
    policy = Policy(GROUPS["crop"])
    run = tf.function(
        lambda x: augment(policy, SEED, {"images": x})["images"],
        input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8)],
    )
    for count, size in ((1, (8, 8)), (5, (8, 12)), (3, (20, 8))):
        images = images_of("uint8", count, size)
        assert run(images).shape == images.shape


@pytest.mark.parametrize(
    ("policy", "images", "text"),
    [
        (Policy([aug.Flip()]), np.zeros((8, 8, 3)), "must come in batches"),
        (Policy([aug.Flip()]), np.zeros((1, 8, 8, 3), "int32"), "uint8 or float"),
        (Policy([aug.Hue(0.1)]), np.zeros((1, 8, 8, 3)), "value_range=(0, 255)"),
        (Policy([aug.Hue(0.1)]), np.zeros((1, 8, 8, 4), "uint8"), "4 channels"),
        (Policy([aug.RandAugment()]), np.zeros((1, 8, 8, 2), "uint8"), "2 channels"),
    ],
)
def test_images_that_do_not_fit_are_refused(policy, images, text):
    with pytest.raises(kacc.UsageError) as error:
        augment(policy, SEED, {"images": images})
    assert text in str(error.value)


def test_without_opencv_the_graph_is_offered(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert engine_named("auto") == "graph"
    with pytest.raises(kacc.UsageError, match='pass engine="graph"'):
        engine_named("host")
    with pytest.raises(kacc.UsageError, match="`engine` must be one of"):
        engine_named("gpu")


@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment"])
def test_chosen_changes_reach_every_kind(policy):
    drawn = Policy.from_name(policy).sample(SEED, 500, 32, 32)
    assert 0 < np.mean(drawn["equalize"]) < 0.3
    assert 0 < np.mean(drawn["autocontrast"]) < 0.3
    assert 0 < np.mean(drawn["bits"] < 8) < 0.3
    assert 0 < np.mean(drawn["threshold"] < 1.5) < 0.3
    assert 0 < np.mean(drawn["sharpness"] != 1) < 0.3
    linear = drawn["matrix"].numpy()[:, :2, :2]
    assert 0 < np.mean(np.abs(linear[:, 0, 1]) > 1e-6) < 0.4
    colour = drawn["colour"].numpy()[:, :, :3]
    assert 0 < np.mean(np.abs(colour - np.eye(3)).max((1, 2)) > 1e-6) < 0.5
