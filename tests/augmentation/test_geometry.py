"""The warp against scipy and PIL, on both engines; boxes and masks move with it."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from kacc import augmentation as aug
from kacc.augmentation import Policy, functional, geometry, host
from kacc.augmentation.apply import augment

SIZE = (13, 17)
MODES = {"reflect": "reflect", "constant": "constant", "nearest": "nearest"}
MODES["wrap"] = "grid-wrap"


def graph(images, matrix, policy):
    return functional.warp(
        images,
        tf.constant(matrix, tf.float32)[None],
        policy.interpolation,
        policy.fill_mode,
        policy.fill_value,
        policy.is_projective,
    ).numpy()


def opencv(images, matrix, policy):
    return host.change(images, {"matrix": np.float32(matrix)[None]}, policy)


ENGINES = {"graph": graph, "host": opencv}

affine = st.tuples(
    st.floats(-math.pi, math.pi),
    st.floats(0.5, 2),
    st.floats(0.5, 2),
    st.floats(-1, 1),
    st.floats(-20, 20),
    st.floats(-20, 20),
)


def matrix_of(angle, zoom_x, zoom_y, shear, x, y):
    turn = np.array(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    linear = turn @ np.array([[1, shear], [0, 1]]) @ np.diag([zoom_x, zoom_y])
    return np.vstack([np.column_stack([linear, [x, y]]), [0, 0, 1]])


@pytest.mark.parametrize("engine", ENGINES)
@given(
    affine, st.sampled_from(list(MODES)), st.integers(1, 6), st.integers(0, 2**32 - 1)
)
@settings(max_examples=60)
def test_warp_equals_scipy(engine, numbers, mode, channels, seed):
    images = np.random.default_rng(seed).uniform(0, 1, (1, *SIZE, channels))
    images, matrix = images.astype("float32"), matrix_of(*numbers)
    policy = Policy([aug.Rotation(5)], fill_mode=mode, fill_value=0.5)
    result = ENGINES[engine](images, matrix, policy)
    # scipy has rows first.
    swap = [1, 0]
    for channel in range(channels):
        expected = ndimage.affine_transform(
            images[0, :, :, channel],
            matrix[:2, :2][swap][:, swap],
            matrix[:2, 2][swap],
            order=1,
            mode="grid-constant" if mode == "constant" else MODES[mode],
            cval=0.5,
        )
        # Positions in float32, up to 60 pixels away, times the largest step of 1.
        np.testing.assert_allclose(result[0, :, :, channel], expected, atol=2e-4)


@pytest.mark.parametrize("engine", ENGINES)
@given(st.lists(st.floats(-0.15, 0.15), min_size=8, max_size=8), st.integers(0, 99))
@settings(max_examples=40)
def test_perspective_equals_pil(engine, corners, seed):
    policy = Policy([aug.Perspective(0.15)], fill_mode="constant")
    draws = type("Size", (), {"width": tf.constant(17.0), "height": tf.constant(13.0)})
    draws.batch = 1
    shifts = tf.constant(corners, tf.float32, (1, 4, 2))
    matrix = geometry.matrix({"corners": shifts}, draws)[0].numpy()
    image = np.random.default_rng(seed).uniform(0, 1, SIZE).astype("float32")
    result = ENGINES[engine](image[None, :, :, None], matrix, policy)[0, :, :, 0]
    # PIL reads from edges of pixels, where ours has their middles.
    to_middle = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])
    edges = np.linalg.inv(to_middle) @ matrix.astype(float) @ to_middle
    edges /= edges[2, 2]
    expected = np.asarray(
        Image.fromarray(image).transform(
            SIZE[::-1],
            Image.Transform.PERSPECTIVE,
            tuple(edges.ravel()[:8]),
            Image.Resampling.BILINEAR,
        )
    )
    # PIL fills a pixel as a whole where its middle is outside, and at the edge reads
    # the pixel of the edge twice: compared where all four neighbours are inside.
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    u, v, w = np.tensordot(matrix.astype(float), np.stack([x, y, np.ones_like(x)]), 1)
    u, v = u / w, v / w
    inside = (u > 0.01) & (u < SIZE[1] - 1.01) & (v > 0.01) & (v < SIZE[0] - 1.01)
    np.testing.assert_allclose(result[inside], expected[inside], atol=2e-4)


def test_corners_go_where_they_are_sent():
    draws = type("Size", (), {"width": tf.constant(17.0), "height": tf.constant(13.0)})
    draws.batch = 1
    shifts = np.random.default_rng(0).uniform(-0.2, 0.2, (1, 4, 2)).astype("float32")
    matrix = geometry.matrix({"corners": tf.constant(shifts)}, draws)[0].numpy()
    unit = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)
    for corner, shift in zip(unit, shifts[0], strict=True):
        x, y, w = matrix @ [*(corner * (17, 13) - 0.5), 1]
        np.testing.assert_allclose(
            ((x / w + 0.5) / 17, (y / w + 0.5) / 13), corner + shift, atol=1e-4
        )


@given(st.lists(st.floats(-0.2, 0.2), min_size=8, max_size=8))
@settings(max_examples=60)
def test_no_point_of_an_image_is_behind_the_viewer(corners):
    draws = type("Size", (), {"width": tf.constant(17.0), "height": tf.constant(13.0)})
    draws.batch = 1
    shifts = tf.constant(corners, tf.float32, (1, 4, 2))
    back = geometry.inverse(geometry.matrix({"corners": shifts}, draws))[0].numpy()
    ends = [back @ [x, y, 1] for x in (-0.5, 16.5) for y in (-0.5, 12.5)]
    signs = {float(np.sign(end[2])) for end in ends}
    assert len(signs) == 1


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (aug.Flip("horizontal", 1), lambda x: x[:, ::-1]),
        (aug.Flip("vertical", 1), lambda x: x[::-1]),
        (aug.Flip("both", 1), lambda x: x[::-1, ::-1]),
        (aug.Rotation((90, 90)), lambda x: np.rot90(x)),
        (aug.Rotation((180, 180)), lambda x: np.rot90(x, 2)),
        (aug.Translation((0.25, 0.25), 0), lambda x: np.roll(x, 2, 1)),
        (aug.Translation(0, (-0.5, -0.5)), lambda x: np.roll(x, -4, 0)),
        (aug.Zoom((2, 2)), lambda x: None),
        (aug.Shear((45, 45)), lambda x: None),
    ],
)
def test_directions(transform, expected):
    """Which way is which: as the docstrings say."""
    image = np.arange(64, dtype="float32").reshape(8, 8)
    policy = Policy([transform], fill_mode="wrap")
    result = augment(policy, (1, 2, 3), {"images": image[None, :, :, None]})
    result = result["images"].numpy()[0, :, :, 0]
    wanted = expected(image)
    if isinstance(transform, aug.Zoom):  # neighbours are half as far apart
        assert result[3, 4] - result[3, 3] == pytest.approx(0.5)
    elif isinstance(transform, aug.Shear):
        # A row goes as far to the right as it is below the middle, here 6 - 3.5.
        assert result[6, 6] == pytest.approx((image[6, 3] + image[6, 4]) / 2)
    else:
        np.testing.assert_allclose(result, wanted, atol=1e-3)


GEOMETRY = [
    aug.Flip("both"),
    aug.Rotation(30),
    aug.Shear(15, "both"),
    aug.Zoom(0.3, keep_aspect=False),
    aug.Translation(0.2),
    aug.Perspective(0.1),
    aug.RandomCrop(5),
]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("engine", ["graph", "host"])
@pytest.mark.parametrize(
    "transforms", [[t] for t in GEOMETRY] + [GEOMETRY], ids=lambda t: str(len(t))
)
def test_boxes_and_masks_move_with_the_image(transforms, engine):
    """Of a bright rectangle: its box, and its mask, are found again in the image."""
    rng = np.random.default_rng(1)
    count, height, width = 12, 64, 80
    boxes = np.zeros((count, 1, 4), "float32")
    images = np.zeros((count, height, width, 1), "float32")
    for image, box in zip(images, boxes, strict=True):
        left, top = rng.integers(20, 40), rng.integers(15, 30)
        right, bottom = left + rng.integers(12, 25), top + rng.integers(12, 20)
        box[0] = left, top, right, bottom
        image[top:bottom, left:right] = 1
    masks = images[..., 0].astype("int32")
    policy = Policy(transforms, fill_mode="constant")
    fields = {"images": images, "masks": masks, "boxes": boxes}
    result = augment(policy, (4, 5, 6), fields, engine)
    seen = result["images"].numpy()[..., 0]
    mask, box = result["masks"].numpy(), result["boxes"].numpy()[:, 0]
    assert mask.dtype == masks.dtype
    found = 0
    for i in range(count):
        # Bilinear values say how much of a pixel is covered, near enough.
        assert np.mean((seen[i] > 0.5) != (mask[i] == 1)) < 0.01
        rows, columns = np.nonzero(seen[i] > 0.05)
        if len(rows) < 20:
            continue
        found += 1
        drawn = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        # A pixel of the edge is more or less covered, and corners end in points.
        np.testing.assert_allclose(box[i], drawn, atol=2.5)
    assert found >= count // 2
    if transforms != [aug.Flip("both")]:
        assert np.any(np.abs(box - boxes[:, 0]) > 1)


def test_boxes_that_leave_have_no_area():
    policy = Policy([aug.Translation((0.9, 0.9), 0)], fill_mode="constant")
    boxes = np.array([[[0, 0, 8, 8], [24, 4, 32, 9]]], "float32")
    images = np.zeros((1, 32, 32, 3), "uint8")
    result = augment(policy, (0, 0, 0), {"images": images, "boxes": boxes})
    sides = result["boxes"].numpy()[0]
    assert sides[0, 2] - sides[0, 0] == pytest.approx(32 * 0.1, abs=1e-3)
    assert sides[1, 2] - sides[1, 0] == 0
