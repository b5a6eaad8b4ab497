"""Policies in tf.data: structures, epochs, labels and boxes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kacc
from kacc import augmentation as aug
from kacc.augmentation import Policy

IMAGES = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3)).astype("uint8")
WARP = Policy([aug.Flip(), aug.Rotation(20)], seed=4)


def batches(data, size=4):
    return tf.data.Dataset.from_tensor_slices(data).batch(size)


def images_in(dataset):
    return np.concatenate([np.asarray(batch) for batch in dataset])


@pytest.mark.parametrize("engine", ["graph", "host", "auto"])
def test_each_epoch_is_new_and_the_seed_repeats_all(engine):
    dataset = WARP.map(batches(IMAGES), engine)
    first, second = images_in(dataset), images_in(dataset)
    assert first.shape == IMAGES.shape
    assert first.dtype == np.uint8
    assert not np.array_equal(first, second)
    again = WARP.map(batches(IMAGES), engine)
    np.testing.assert_array_equal(images_in(again), first)
    np.testing.assert_array_equal(images_in(again), second)
    other = aug.policy_of(WARP, seed=5).map(batches(IMAGES), engine)
    assert not np.array_equal(images_in(other), first)


def test_engines_draw_the_same():
    one, other = (images_in(WARP.map(batches(IMAGES), e)) for e in ("graph", "host"))
    assert np.abs(one.astype(float) - other).max() <= 1


@pytest.mark.parametrize("engine", ["graph", "host"])
def test_structures_stay(engine):
    labels, weights = np.arange(10), np.ones(10, "float32")
    for data in ((IMAGES,), (IMAGES, labels), (IMAGES, labels, weights)):
        dataset = batches(data)
        mapped = WARP.map(dataset, engine)
        assert mapped.element_spec == dataset.element_spec
        got = list(mapped)
        for part, expected in enumerate(data[1:], 1):
            found = np.concatenate([element[part] for element in got])
            np.testing.assert_array_equal(found, expected)
    inputs = {"picture": IMAGES, "age": weights}
    mapped = WARP.map(batches((inputs, labels)), engine)
    assert mapped.element_spec == batches((inputs, labels)).element_spec
    changed = np.concatenate([element[0]["picture"] for element in mapped])
    assert not np.array_equal(changed, IMAGES)


FORMATS = ["xyxy", "yxyx", "xywh", "center_xywh", "rel_xyxy", "rel_yxyx", "rel_xywh"]


@pytest.mark.parametrize("box_format", FORMATS)
def test_boxes_in_every_form_of_keras(box_format):
    boxes = np.array([[[2, 4, 8, 7], [12, 0, 16, 16], [0, 0, 0, 0]]], "float32")
    given = keras.utils.bounding_boxes.convert_format(
        boxes, "xyxy", box_format, height=16, width=16
    )
    given = np.asarray(given)
    labels = np.array([[5, 6, -1]])
    images = IMAGES[:1].astype("float32")
    data = {
        "images": images,
        "labels": labels[:, 0],
        "bounding_boxes": {"boxes": given, "labels": labels},
        "segmentation_masks": images[..., :1].astype("int64"),
    }
    policy = Policy(
        [aug.Flip(probability=1), aug.Translation((-0.375, -0.375), 0)],
        fill_mode="constant",
    )
    dataset = batches(data)
    mapped = policy.map(dataset, bounding_box_format=box_format)
    assert mapped.element_spec == dataset.element_spec
    (result,) = list(mapped)
    found = result["bounding_boxes"]
    np.testing.assert_array_equal(found["labels"], [[5, -1, -1]])
    moved = keras.utils.bounding_boxes.convert_format(
        np.asarray(found["boxes"])[:, :1], box_format, "xyxy", height=16, width=16
    )
    # Mirrored to 8 .. 14, then 6 pixels to the left.
    np.testing.assert_allclose(moved[0, 0], [2, 4, 8, 7], atol=1e-3)
    np.testing.assert_array_equal(found["boxes"][0, 1:], -1)
    mask = np.asarray(result["segmentation_masks"])[..., 0]
    np.testing.assert_array_equal(mask[:, :, :10], np.asarray(images)[:, :, 9::-1, 0])
    np.testing.assert_array_equal(mask[:, :, 10:], 0)


def test_boxes_as_labels():
    labels = {"boxes": np.zeros((10, 1, 4), "float32"), "labels": np.zeros((10, 1))}
    mapped = WARP.map(batches((IMAGES, labels)), bounding_box_format="xyxy")
    assert mapped.element_spec == batches((IMAGES, labels)).element_spec


def test_boxes_as_labels_of_several_inputs():
    boxes = np.tile(np.array([[[2, 4, 8, 7]]], "float32"), (10, 1, 1))
    labels = {"boxes": boxes, "labels": np.zeros((10, 1))}
    inputs = {"a": IMAGES, "b": np.arange(10)}
    mapped = Policy([aug.Flip(probability=1)]).map(
        batches((inputs, labels)), bounding_box_format="xyxy"
    )
    first, found = next(iter(mapped))
    np.testing.assert_array_equal(first["a"], IMAGES[:4, :, ::-1])
    np.testing.assert_array_equal(first["b"], [0, 1, 2, 3])
    np.testing.assert_array_equal(found["boxes"][0], [[8, 4, 14, 7]])


@pytest.mark.sampled(3)
@pytest.mark.parametrize("engine", ["graph", "host"])
@pytest.mark.parametrize("form", ["classes", "flat classes", "one-hot", "of outputs"])
def test_labels_and_weights_of_pixels_move_with_the_images(engine, form):
    """Grey images of whole numbers are their own masks where nothing is between."""
    x = np.repeat(IMAGES[..., :1], 3, -1)
    y, size = x[..., :1].astype("int32"), x[..., 0].astype("float32")
    policy = Policy([aug.Rotation(40), aug.Flip()], interpolation="nearest", seed=2)
    labels = {
        "classes": y,
        "flat classes": y[..., 0],
        "one-hot": x.astype("float32"),
        "of outputs": {"a": y, "b": np.arange(10)},
    }[form]
    mapped = policy.map(batches((x, labels, size)), engine)
    assert mapped.element_spec == batches((x, labels, size)).element_spec
    changed = 0
    for (images, found, weights), given in zip(mapped, batches(x), strict=True):
        first = found["a"] if form == "of outputs" else found
        shown = np.asarray(first).reshape(*images.shape[:3], -1)
        # OpenCV rounds where pixels lie to 1/32 before it takes the nearest.
        tolerance = 0.02 if engine == "host" else 0.0
        assert np.mean(shown[..., :1] != np.asarray(images)[..., :1]) <= tolerance
        assert np.mean(np.asarray(weights) != images[..., 0]) <= tolerance
        changed += not np.array_equal(images, given)
    assert changed == 3


def test_labels_of_pixels_stay_where_nothing_moves():
    """And floats are blended as the images are."""
    x = IMAGES.astype("float32") / 255
    data = batches((x, x), 10)
    colours = Policy([aug.Brightness(0.5)], value_range=(0, 1))
    ((_, y),) = list(colours.map(data))
    np.testing.assert_array_equal(y, x)
    ((mixed, y),) = list(Policy([aug.MixUp(1.0)]).map(data, "graph"))
    assert not np.array_equal(mixed, x)
    np.testing.assert_allclose(mixed, y, atol=1e-6)


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    "transforms",
    [[aug.MixUp(1.0)], [aug.CutMix(1.0)], [aug.MixUp(1.0), aug.CutMix(1.0, 0.5)]],
)
@pytest.mark.parametrize("engine", ["graph", "host"])
def test_labels_are_mixed_as_images_are(transforms, engine):
    """Images of one colour, that of their class, tell the share of each class."""
    count = 8
    one_hot = np.eye(count, dtype="float32")
    images = np.broadcast_to(one_hot[:, None, None], (count, 12, 12, count))
    weights = np.arange(count, dtype="float32")
    dataset = batches((images, one_hot, weights), count)
    (element,) = list(Policy(transforms).map(dataset, engine))
    mixed, labels, mixed_weights = (np.asarray(part) for part in element)
    np.testing.assert_allclose(mixed.mean((1, 2)), labels, atol=1e-5)
    np.testing.assert_allclose(labels @ weights, mixed_weights, atol=1e-4)
    np.testing.assert_allclose(labels.sum(1), 1, atol=1e-5)
    assert np.mean((labels > 0.01).sum(1)) > 1.4
    if isinstance(transforms[0], aug.CutMix):
        assert set(np.unique(mixed)) == {0.0, 1.0}


def test_a_last_batch_of_one_has_no_partner():
    data = (np.ones((1, 8, 8, 3), "float32"), np.ones((1, 2), "float32"))
    ((images, labels),) = list(Policy([aug.MixUp(1.0)]).map(batches(data)))
    np.testing.assert_allclose(images, 1)
    np.testing.assert_allclose(labels, 1)


@pytest.mark.parametrize(
    ("policy", "make", "options", "text"),
    [
        (WARP, lambda: IMAGES, {}, "Only a tf.data.Dataset"),
        (WARP, lambda: batches(IMAGES), {"engine": "gpu"}, "`engine` must be"),
        (WARP, lambda: batches(IMAGES).unbatch(), {}, "Call dataset.batch first"),
        (WARP, lambda: batches({"a": IMAGES, "b": IMAGES}), {}, "'a', 'b'"),
        (
            Policy([aug.SpecAugment()]),
            lambda: batches({"sound": np.zeros((4, 20, 8), "float32")}),
            {},
            "Pass `key` as one of ['sound']",
        ),
        (
            WARP,
            lambda: batches({"a": IMAGES}),
            {"key": "b"},
            "Pass `key` as one of ['a']",
        ),
        (
            WARP,
            lambda: batches({"images": IMAGES, "bounding_boxes": {"boxes": IMAGES}}),
            {},
            'bounding_box_format="xyxy"',
        ),
        (
            WARP,
            lambda: batches({"images": IMAGES, "bounding_boxes": {"boxes": IMAGES}}),
            {"bounding_box_format": "xyxy"},
            'as {"boxes", "labels"}',
        ),
        (
            WARP,
            lambda: batches((IMAGES, {"boxes": IMAGES, "classes": np.arange(10)})),
            {"bounding_box_format": "xyxy"},
            'Name the classes of the boxes "labels"',
        ),
        (
            WARP,
            lambda: tf.data.Dataset.from_tensors(
                (
                    IMAGES,
                    {
                        "boxes": tf.RaggedTensor.from_row_lengths(
                            np.zeros((10, 4)), [1] * 10
                        ),
                        "labels": np.zeros((10, 1)),
                    },
                )
            ),
            {"bounding_box_format": "xyxy"},
            "boxes.to_tensor(-1)",
        ),
        (
            WARP,
            lambda: batches(IMAGES),
            {"bounding_box_format": "ltrb"},
            "`bounding_box_format` must be one of",
        ),
        (
            WARP,
            lambda: batches({"images": IMAGES, "segmentation_masks": IMAGES[:, ::2]}),
            {},
            "Masks must have the height and width of the images",
        ),
        (WARP, lambda: batches(IMAGES), {"key": "a"}, "for images alone"),
        (WARP, lambda: batches(IMAGES[..., 0]), {}, "an axis of one channel"),
        (WARP, lambda: batches(IMAGES.astype("int32")), {}, "astype('uint8')"),
        (Policy([aug.MixUp()]), lambda: batches(IMAGES), {}, "need labels"),
        (
            Policy([aug.MixUp()]),
            lambda: batches((IMAGES, np.arange(10))),
            {},
            "tf.one_hot(labels, classes)",
        ),
        (
            Policy([aug.CutMix()]),
            lambda: batches({"images": IMAGES, "segmentation_masks": IMAGES}),
            {},
            "Leave them out where there are bounding boxes or masks",
        ),
        (
            Policy([aug.CutMix()]),
            lambda: batches((IMAGES, IMAGES.astype("float32"))),
            {},
            "Leave them out where there are bounding boxes or masks",
        ),
        (
            Policy([aug.MixUp()]),
            lambda: batches((IMAGES, IMAGES[..., 0])),
            {},
            "Leave them out where there are bounding boxes or masks",
        ),
    ],
)
def test_wrong_datasets_are_errors(policy, make, options, text):
    data = make()
    with pytest.raises(kacc.UsageError) as error:
        policy.map(data, **options)
    assert text in str(error.value)


def test_preview_has_originals_on_the_left(tmp_path):
    from PIL import Image

    path = WARP.preview(IMAGES, tmp_path / "grid.png", columns=3, rows=2)
    picture = np.asarray(Image.open(path))
    # 16 pixels at 6 for each; the first original lies behind the margin.
    top = picture.shape[0] - 12 - 2 * 96 - 4
    original = picture[top : top + 96 : 6, 12 : 12 + 96 : 6]
    np.testing.assert_array_equal(original, IMAGES[0])
    assert picture.shape[1] == 2 * 12 + 4 * 100 - 4 + 16
    with pytest.raises(kacc.UsageError, match="a batch"):
        WARP.preview(IMAGES[0], path)
    with pytest.raises(kacc.UsageError, match=r"next\(iter\(dataset\)\)"):
        WARP.preview(batches(IMAGES), path)
    with pytest.raises(kacc.UsageError, match="folder of the picture must exist"):
        WARP.preview(IMAGES, tmp_path / "none" / "grid.png")
