import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kacc.cli import images
from kacc.cli.images import (
    ImageShape,
    digits,
    read_class_folders,
    read_folder,
    read_image,
    scale,
)
from kacc.core.errors import KaccError, UsageError


def test_classes_are_the_folders_in_order(class_folders):
    dataset = read_class_folders(class_folders)
    assert dataset.classes == ("blue sky", "lawn")
    assert np.bincount(dataset.y).tolist() == [24, 24]
    # Each image stands beside its own label: the first class is blue, the second green.
    mean = dataset.x.mean((1, 2))
    assert (mean[dataset.y == 0].argmax(1) == 2).all()
    assert (mean[dataset.y == 1].argmax(1) == 1).all()


def test_mixed_sizes_become_one(class_folders):
    assert read_class_folders(class_folders).x.shape == (48, 64, 64, 3)


def test_small_images_of_one_size_keep_it(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.new("RGB", (12, 9)).save(tmp_path / name / f"{i}.png")
    assert read_class_folders(tmp_path).x.shape == (4, 9, 12, 3)


def test_a_model_asks_for_size_and_channels(class_folders):
    dataset = read_class_folders(class_folders, ImageShape(10, 14, 1))
    assert dataset.x.shape == (48, 10, 14, 1)


def test_grey_images_give_one_channel(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.new("L", (8, 8)).save(tmp_path / name / f"{i}.png")
    assert read_class_folders(tmp_path).x.shape == (4, 8, 8, 1)


def test_folder_that_is_none(tmp_path):
    with pytest.raises(UsageError, match="folder of class folders"):
        read_class_folders(tmp_path / "none")


def test_no_class_folders(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(UsageError, match="no class folders"):
        read_class_folders(tmp_path)


def test_one_class(class_folders):
    for path in (class_folders / "lawn").iterdir():
        path.unlink()
    (class_folders / "lawn").rmdir()
    with pytest.raises(UsageError, match="one class folder"):
        read_class_folders(class_folders)


def test_classes_one_level_too_deep(class_folders):
    with pytest.raises(UsageError, match=r"Pass .*photos\.$"):
        read_class_folders(class_folders.parent)


def test_empty_class_is_named(class_folders):
    (class_folders / "water").mkdir()
    with pytest.raises(UsageError, match=r"two or more.*0 in .*water"):
        read_class_folders(class_folders)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("kept", [0, 0.5, None])
def test_broken_file_is_named(class_folders, suffix, kept):
    pixels = np.random.default_rng(0).integers(0, 255, (16, 20, 3), dtype=np.uint8)
    path = class_folders / "lawn" / f"broken.{suffix}"
    Image.fromarray(pixels).save(path)
    whole = path.read_bytes()
    path.write_bytes(b"words" if kept is None else whole[: int(len(whole) * kept)])
    with pytest.raises(KaccError, match=f"cannot be read.*broken.{suffix}"):
        read_class_folders(class_folders)


def test_large_folders_are_thinned_evenly(class_folders, monkeypatch):
    monkeypatch.setattr(images, "MOST_BYTES", 12 * 64 * 64 * 3 * 4)
    assert np.bincount(read_class_folders(class_folders).y).tolist() == [6, 6]


def test_folder_for_a_calibration_is_read_at_any_depth(class_folders):
    x = read_folder(class_folders.parent, ImageShape(8, 8, 3), limit=10)
    assert x.shape == (10, 8, 8, 3)
    # Evenly spread: both classes are in it.
    assert set(x.mean((1, 2)).argmax(1)) == {1, 2}


def test_folder_for_a_calibration_without_images(tmp_path):
    with pytest.raises(UsageError, match="JPEG or PNG"):
        read_folder(tmp_path, ImageShape(8, 8, 3), limit=10)


def test_turned_photos_are_set_upright(tmp_path):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = 255  # white on top
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    assert read_image(tmp_path / "a.png", "L", (8, 8))[:4].max() == 0


def test_sixteen_bit_grey_keeps_its_shades(tmp_path):
    pixels = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png", "L", (8, 8))[..., 0]
    np.testing.assert_array_equal(read, pixels >> 8)


def test_digits_keep_their_order_at_any_size():
    small, large = digits(), digits(ImageShape(16, 16, 3))
    assert large.x.shape == (1797, 16, 16, 3)
    np.testing.assert_array_equal(small.y, large.y)
    assert small.x.min() == 0
    assert small.x.max() == 255


@given(st.sampled_from(["0..255", "0..1", "-1..1"]), st.integers(0, 255))
def test_pixels_are_scaled_linearly(pixels, value):
    low, high = map(float, pixels.split(".."))
    found = scale(np.array([0, value, 255], np.uint8), pixels)
    assert found.dtype == np.float32
    expected = [low, low + value / 255 * (high - low), high]
    np.testing.assert_allclose(found, expected, rtol=0, atol=(high - low) * 1e-6)
