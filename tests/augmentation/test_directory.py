"""Folders of images as datasets: against Keras's, and with all that folders hold."""

import inspect
import itertools
import os
import re
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import kacc
from kacc.augmentation import decoding, flow_from_directory
from kacc.augmentation.folders import list_images

RNG = np.random.default_rng(0)


def picture(height=9, width=12, channels=3):
    return RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)


def save(path, array=None, **options):
    array = picture() if array is None else array
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.squeeze()).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path):
    """Two classes of 10 and 6 images, in several formats and sizes."""
    for index in range(10):
        suffix = ("png", "jpg", "bmp", "jpeg", "PNG")[index % 5]
        save(tmp_path / "data/cats" / f"{index}.{suffix}", picture(8 + index, 12))
    for index in range(6):
        save(tmp_path / "data/dogs" / f"{index}.png", picture(20, 10 + index))
    return tmp_path / "data"


def flow(folder, **options):
    return flow_from_directory(folder, **({"image_size": 8, "seed": 0} | options))


def everything(data):
    """All images and labels in the order of the dataset."""
    pairs = list(data.as_numpy_iterator())
    return tuple(np.concatenate(part) for part in zip(*pairs, strict=True))


@pytest.mark.sampled(5)
@pytest.mark.parametrize("label_mode", ["int", "categorical", None])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"interpolation": "nearest"},
        {"interpolation": "bicubic"},
        {"interpolation": "lanczos5"},
        {"interpolation": "gaussian"},
        {"crop_to_aspect_ratio": True},
        {"pad_to_aspect_ratio": True},
        {"image_size": (5, 20), "batch_size": 3},
    ],
    ids=str,
)
def test_images_and_labels_are_those_of_keras(folder, label_mode, options):
    given = {"image_size": (8, 8), "shuffle": False, "label_mode": label_mode}
    given |= options
    theirs = keras.utils.image_dataset_from_directory(folder, verbose=False, **given)
    ours = flow_from_directory(folder, **given)
    if given.get("interpolation") != "nearest":  # Keras's are bytes then
        assert ours.element_spec == theirs.element_spec
    assert ours.class_names == theirs.class_names
    assert ours.file_paths == theirs.file_paths
    assert ours.cardinality() == theirs.cardinality()
    pairs = zip(ours.as_numpy_iterator(), theirs.as_numpy_iterator(), strict=True)
    for our, their in pairs:
        image, wanted = (our, their) if label_mode is None else (our[0], their[0])
        # Whole numbers, and within 0 and 255, where Keras keeps what resizing gave.
        np.testing.assert_allclose(image, np.clip(wanted, 0, 255), atol=0.5001)
        assert (image == np.rint(image)).all()
        if label_mode is not None:
            np.testing.assert_array_equal(our[1], their[1])


def test_binary_labels_are_those_of_keras(folder):
    given = {"image_size": (8, 8), "label_mode": "binary", "shuffle": False}
    theirs = keras.utils.image_dataset_from_directory(folder, verbose=False, **given)
    ours = flow_from_directory(folder, **given)
    assert ours.element_spec == theirs.element_spec
    np.testing.assert_array_equal(everything(ours)[1], everything(theirs)[1])


def test_arguments_of_keras_have_its_names_order_and_defaults():
    theirs = dict(
        inspect.signature(keras.utils.image_dataset_from_directory).parameters
    )
    for name in ("labels", "data_format", "format", "verbose"):  # not taken
        theirs.pop(name)
    ours = dict(inspect.signature(flow_from_directory).parameters)
    assert list(ours)[: len(theirs)] == list(theirs)
    assert {n: ours[n].default for n in theirs} == {
        n: p.default for n, p in theirs.items()
    }
    rest = list(ours)[len(theirs) :]
    assert rest.pop() == "others"  # for which there are only errors
    assert all(ours[name].kind is inspect.Parameter.KEYWORD_ONLY for name in rest)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"target_size": (9, 8), "class_mode": "sparse", "rescale": 0.5},
            "target_size, class_mode, rescale'. Pass image_size=(9, 8), "
            "label_mode='int', augmentation={'rescale': 0.5}.",
        ),
        ({"classes": ["a"]}, "Pass class_names=['a']."),
        ({"featurewise_center": True}, "(`featurewise_center`)."),
        ({"save_to_dir": "x", "save_prefix": "y"}, "preview in place of `save_to_dir`"),
        ({"verbose": False, "seeds": 1}, "Leave `verbose` out; leave `seeds` out."),
    ],
)
def test_arguments_of_the_generator_are_told_their_names_here(folder, given, said):
    with pytest.raises(kacc.UsageError, match=re.escape(said)) as caught:
        flow_from_directory(folder, **given)
    assert "\n" not in str(caught.value)


def test_what_the_error_says_is_taken(folder):
    theirs = {"target_size": (9, 8), "class_mode": "categorical", "rescale": 0.5}
    with pytest.raises(kacc.UsageError) as caught:
        flow_from_directory(folder, **theirs)
    way = str(caught.value).rpartition("Pass ")[2].rstrip(".")
    images, labels = everything(eval(f"flow_from_directory(folder, {way})"))
    assert images.shape[1:] == (9, 8, 3)
    assert images.max() <= 127.5
    assert labels.shape == (16, 2)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("color_mode", ["grayscale", "rgb", "rgba"])
@pytest.mark.parametrize(
    ("suffix", "channels"),
    [
        *itertools.product(("png", "bmp", "webp"), (1, 3, 4)),
        *itertools.product(("jpg", "gif"), (1, 3)),  # which have no opacity
    ],
)
def test_all_formats_become_all_colours(tmp_path, color_mode, channels, suffix):
    array = np.broadcast_to(picture(1, 1, channels), (8, 8, channels)).copy()
    array[..., -1] = 200 if channels == 4 else array[..., -1]
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(tmp_path / f"1.{suffix}", array, **options)
    (found,) = flow(tmp_path, label_mode=None, color_mode=color_mode)
    mode = {"grayscale": "L", "rgb": "RGB", "rgba": "RGBA"}[color_mode]
    colour = Image.fromarray(array.squeeze())
    if color_mode == "grayscale" and channels == 4:
        colour = colour.convert("RGB")
    wanted = np.asarray(colour.convert(mode)).reshape(8, 8, -1)
    # JPEG and GIF store colours inexactly; grey is rounded by two formulas.
    inexact = {"jpg": 4, "gif": 26}.get(suffix, 1)
    assert path.exists()
    np.testing.assert_allclose(found[0], wanted, atol=inexact)


def test_formats_are_asked_for_where_the_decoder_does_not_give_the_channels(tmp_path):
    """Elsewhere they are not, and the images are the same."""
    for index, suffix in enumerate(("png", "jpg", "png")):
        save(tmp_path / f"{index}.{suffix}", picture(8, 8))
    listing = list_images(tmp_path, labelled=False)
    assert decoding.examine(listing, 3) == ([], True)
    assert decoding.examine(listing, 4) == ([], False)  # JPEG has no opacity
    options = {"label_mode": None, "shuffle": False}
    asked, native = (
        np.concatenate(list(flow(tmp_path, on_error=on_error, **options)))
        for on_error in (None, "raise")
    )
    np.testing.assert_array_equal(asked, native)
    save(tmp_path / "3.bmp", picture(8, 8, 1))
    (tmp_path / "4.bmp").touch()
    listing = list_images(tmp_path, labelled=False)
    assert decoding.examine(listing, 3) == ([4], False)


def test_calls_are_fixed_from_the_start(folder):
    for options in ({}, {"augmentation": "light"}, {"cache": True}):
        assert flow(folder, **options).options().autotune.enabled is False


def test_first_picture_of_an_animation_is_taken(tmp_path):
    first, second = (np.full((8, 8, 3), v, np.uint8) for v in (0, 255))
    save(
        tmp_path / "1.gif",
        first,
        save_all=True,
        append_images=[Image.fromarray(second)],
    )
    (found,) = flow(tmp_path, label_mode=None)
    assert found.shape == (1, 8, 8, 3)
    assert found.numpy().max() == 0


def test_names_links_hidden_and_nested_files(tmp_path):
    root = tmp_path / "data"
    save(root / "класс один" / "größe 1.png")
    save(root / "класс один" / "deeper" / "still deeper" / "2.png")
    save(root / "class b" / "it's [3] %s.png")
    save(root / "class b" / ".4.png")
    save(root / ".git" / "5.png")
    save(root / "6.png")
    (root / "class b" / "notes.txt").write_text("no image")
    outside = save(tmp_path / "outside" / "7.png")
    (root / "class b" / "linked file.png").symlink_to(outside)
    (root / "class b" / "linked folder").symlink_to(outside.parent)
    (root / "class b" / "broken.png").symlink_to(tmp_path / "nothing")
    data = flow(root)
    assert data.class_names == ["class b", "класс один"]
    names = [os.path.relpath(path, root) for path in data.file_paths]
    assert names == [
        "class b/it's [3] %s.png",
        "class b/linked file.png",
        "класс один/deeper/still deeper/2.png",
        "класс один/größe 1.png",
    ]
    assert sorted(everything(data)[1]) == [0, 0, 1, 1]
    followed = flow(root, follow_links=True)
    assert len(followed.file_paths) == 5


def test_names_that_are_no_unicode(tmp_path):
    source = save(tmp_path / "a" / "1.png")
    save(tmp_path / "b" / "1.png")
    try:
        os.rename(source, os.path.join(os.fsencode(source.parent), b"\xff\xfe.png"))
    except OSError:
        pytest.skip("the file system refuses such names")
    assert len(everything(flow(tmp_path))[0]) == 2


def test_links_that_lead_back_end(tmp_path):
    save(tmp_path / "a" / "1.png")
    save(tmp_path / "b" / "1.png")
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a")
    (tmp_path / "b" / "up").symlink_to(tmp_path)
    data = flow(tmp_path, follow_links=True)
    # Through b/up all of the tree is seen once more, and no more.
    assert len(data.file_paths) < 8


def test_linked_folders_of_classes_are_read(tmp_path):
    save(tmp_path / "elsewhere" / "1.png")
    save(tmp_path / "data" / "a" / "1.png")
    (tmp_path / "data" / "b").symlink_to(tmp_path / "elsewhere")
    assert flow(tmp_path / "data").class_names == ["a", "b"]


# Splits


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.99])
def test_parts_never_overlap_and_hold_all_classes(folder, share):
    train, val = flow(folder, validation_split=share, subset="both")
    one = flow(folder, validation_split=share, subset="training", seed=1)
    other = flow(folder, validation_split=share, subset="validation", seed=2)
    assert (one.file_paths, other.file_paths) == (train.file_paths, val.file_paths)
    assert not set(one.file_paths) & set(other.file_paths)
    assert len(one.file_paths) + len(other.file_paths) == 16
    assert set(everything(one)[1]) == set(everything(other)[1]) == {0, 1}
    counts = np.bincount(everything(other)[1])
    wanted = [min(max(1, round(n * share)), n - 1) for n in (10, 6)]
    assert counts.tolist() == wanted


def test_split_does_not_depend_on_where_the_folder_is(folder, tmp_path):
    moved = tmp_path / "moved"
    before = flow(folder, validation_split=0.3, subset="validation").file_paths
    os.rename(folder, moved)
    after = flow(moved, validation_split=0.3, subset="validation").file_paths
    assert [os.path.relpath(p, folder) for p in before] == [
        os.path.relpath(p, moved) for p in after
    ]


def test_a_new_image_moves_at_most_one_other(folder):
    before = set(flow(folder, validation_split=0.3, subset="validation").file_paths)
    save(folder / "cats" / "new.png")
    after = set(flow(folder, validation_split=0.3, subset="validation").file_paths)
    assert len(before - after) <= 1


def test_images_without_labels_are_split_too(folder):
    train, val = flow(folder, label_mode=None, validation_split=0.25, subset="both")
    assert (len(train.file_paths), len(val.file_paths)) == (12, 4)
    assert train.class_names is None


# Order


@pytest.mark.parametrize("cache", [None, True, "files"])
def test_order_is_new_in_each_epoch_and_the_same_in_each_run(folder, tmp_path, cache):
    cache = str(tmp_path / "cache") if cache == "files" else cache
    first, second = (flow(folder, cache=cache, batch_size=4) for _ in range(2))
    epochs = [everything(first) for _ in range(2)]
    assert not np.array_equal(epochs[0][0], epochs[1][0])
    for ours, theirs in zip(epochs[0], everything(second), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    other = everything(flow(folder, cache=cache, batch_size=4, seed=1))
    assert not np.array_equal(epochs[0][0], other[0])
    fixed = everything(flow(folder, cache=cache, shuffle=False))
    np.testing.assert_array_equal(fixed[1], np.repeat([0, 1], [10, 6]))
    # The same pairs of image and label, in any order.
    pairs = [{(i.tobytes(), int(n)) for i, n in zip(*e, strict=True)} for e in epochs]
    assert pairs[0] == pairs[1]
    assert len(pairs[0]) == 16


def test_shuffle_reaches_over_the_whole_folder(tmp_path):
    tiny = np.zeros((1, 1, 3), np.uint8)
    for name in ("a", "b"):
        for index in range(150):
            save(tmp_path / name / f"{index}.png", tiny)
    labels = everything(flow(tmp_path, batch_size=1))[1]
    assert 20 < labels[:100].sum() < 80  # Keras's window of 8 has none of class b here


def test_single_images(folder):
    images = flow(folder, batch_size=None)
    assert images.element_spec[0] == tf.TensorSpec((8, 8, 3), tf.float32)
    assert images.cardinality() == 16
    cached = flow(folder, batch_size=None, cache=True)
    assert cached.element_spec == images.element_spec


def test_bytes_are_given_as_they_are(folder):
    floats, whole = (
        everything(flow(folder, shuffle=False, dtype=dtype))[0]
        for dtype in ("float32", "uint8")
    )
    assert whole.dtype == np.uint8
    np.testing.assert_array_equal(whole, floats)


# Files that cannot be read


@pytest.fixture
def broken(folder):
    """The folder with four files that are no images, or half of one."""
    (folder / "cats" / "empty.png").touch()
    (folder / "cats" / "page.jpg").write_text("<html>not found</html>")
    (folder / "dogs" / "zeros.bmp").write_bytes(bytes(100))
    whole = save(folder / "dogs" / "half.jpg", picture(40, 40)).read_bytes()
    (folder / "dogs" / "half.jpg").write_bytes(whole[: len(whole) // 2])
    return folder


BROKEN = ["cats/empty.png", "cats/page.jpg", "dogs/half.jpg", "dogs/zeros.bmp"]


@pytest.mark.parametrize("cache", [None, True])
def test_broken_files_are_named_and_left_out(broken, cache):
    said = "4 of 20 images cannot be read and are left out: " + ", ".join(BROKEN)
    with pytest.warns(UserWarning, match=f"^{re.escape(said)}$") as warned:
        data = flow(broken, cache=cache)
    assert [w.filename for w in warned] == [__file__]
    assert data.unreadable == BROKEN
    assert len(everything(data)[0]) == len(data.file_paths) == 16


def test_broken_files_are_refused_by_name(broken):
    with pytest.raises(kacc.KaccError, match="4 of 20 images cannot be read") as error:
        flow(broken, on_error="raise")
    assert not isinstance(error.value, kacc.UsageError)
    assert all(name in str(error.value) for name in BROKEN)


def test_many_broken_files_are_counted(folder):
    for index in range(30):
        (folder / "cats" / f"x{index:02}.png").touch()
    with pytest.warns(UserWarning, match=r"^30 of 46.*x09\.png and 20 more$"):
        data = flow(folder)
    assert len(data.unreadable) == 30


def test_a_folder_of_broken_files_alone_is_an_error(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").touch()
    with pytest.raises(kacc.KaccError, match="2 of 2 images cannot be read"):
        flow(tmp_path)


def test_trusted_files_fail_where_they_are_read(broken):
    data = flow(broken, on_error=None)
    assert len(data.file_paths) == 20
    with pytest.raises(tf.errors.InvalidArgumentError):
        everything(data)
    with pytest.raises(kacc.KaccError, match="4 of 20 images cannot be read"):
        flow(broken, on_error=None, cache=True)


def test_sound_folders_are_silent(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert flow(folder).unreadable == []


# Caches


def test_cache_gives_the_same_images(folder, tmp_path):
    plain = everything(flow(folder, shuffle=False))
    for cache in (True, tmp_path / "cache"):
        for ours, theirs in zip(
            everything(flow(folder, shuffle=False, cache=cache)), plain, strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)


def test_files_of_a_cache_are_used_again_and_never_stale(folder, tmp_path):
    cache = tmp_path / "new" / "cache"
    before = everything(flow(folder, shuffle=False, cache=cache))[0]
    (made,) = cache.iterdir()
    stamp = (made / "images.npy").stat().st_mtime_ns
    flow(folder, cache=cache, validation_split=0.5, subset="both")
    assert [made] == list(cache.iterdir())
    assert (made / "images.npy").stat().st_mtime_ns == stamp
    save(folder / "cats" / "0.png", picture())
    after = everything(flow(folder, shuffle=False, cache=cache))[0]
    assert not np.array_equal(before[0], after[0])
    np.testing.assert_array_equal(before[1:], after[1:])
    flow(folder, cache=cache, image_size=9)
    assert len(list(cache.iterdir())) == 3


def test_unreadable_files_are_remembered_with_the_cache(broken, tmp_path):
    for _ in range(2):
        with pytest.warns(UserWarning, match="4 of 20"):
            data = flow(broken, cache=tmp_path / "cache")
        assert data.unreadable == BROKEN
        assert len(everything(data)[0]) == 16


def test_an_interrupted_cache_is_not_taken_for_whole(folder, tmp_path, monkeypatch):
    from kacc.augmentation import store

    def stop(*_):
        raise KeyboardInterrupt

    cache = tmp_path / "cache"
    with monkeypatch.context() as patch:
        patch.setattr(store, "_fill", stop)
        with pytest.raises(KeyboardInterrupt):
            flow(folder, cache=cache)
    assert list(cache.iterdir()) == []
    assert len(everything(flow(folder, cache=cache))[0]) == 16


def test_images_that_do_not_fit_into_memory_are_refused(folder):
    with pytest.raises(kacc.UsageError, match="must fit into memory"):
        flow(folder, cache=True, image_size=10**6)


# Training


def test_a_model_trains_and_evaluates(folder):
    train, val = flow(
        folder, validation_split=0.25, subset="both", batch_size=4, cache=True
    )
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    history = model.fit(train, epochs=2, validation_data=val, verbose=0)
    assert len(history.history["val_accuracy"]) == 2


# Wrong calls


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": (8, 8, 3)}, "`image_size` must be"),
        ({"image_size": 0}, "`image_size` must be"),
        ({"image_size": "8"}, "`image_size` must be"),
        ({"batch_size": 0}, "`batch_size` must be a number, at least 1"),
        ({"batch_size": 2.5}, "`batch_size` must be a whole number"),
        ({"seed": "one"}, "`seed` must be a whole number"),
        ({"label_mode": "float"}, "`label_mode` must be one of"),
        ({"color_mode": "bgr"}, "`color_mode` must be one of"),
        ({"interpolation": "cubic"}, "`interpolation` must be one of"),
        ({"dtype": "float64"}, "`dtype` must be one of"),
        ({"on_error": "ignore"}, "`on_error` must be one of"),
        ({"subset": "test", "validation_split": 0.2}, "`subset` must be one of"),
        ({"validation_split": 0.2}, "go together"),
        ({"subset": "training"}, "go together"),
        ({"validation_split": 1.0, "subset": "both"}, "must lie between 0 and 1"),
        ({"validation_split": True, "subset": "both"}, "must be a number"),
        ({"validation_split": "0.2", "subset": "both"}, "must be a number"),
        ({"crop_to_aspect_ratio": True, "pad_to_aspect_ratio": True}, "exclude"),
        ({"class_names": ["cats", "dogs"], "label_mode": None}, "with labels"),
        ({"class_names": ["cats", "mice"]}, "must be names of sub-folders"),
        ({"class_names": "cats"}, "two or more different names"),
        ({"class_names": ["cats", "cats"]}, "two or more different names"),
        ({"class_names": ["cats"]}, "two or more different names"),
        ({"cache": 3}, "`cache` must be True, or the path"),
        ({"cache": ""}, "`cache` must be True, or the path"),
    ],
    ids=str,
)
def test_wrong_arguments(folder, options, message):
    with pytest.raises(kacc.UsageError, match=message):
        flow(folder, **options)


def test_a_file_is_no_cache(folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(kacc.UsageError, match="`cache` must be a folder"):
        flow(folder, cache=tmp_path / "file")


def test_wrong_folders(tmp_path, folder):
    wrong = pytest.raises(kacc.UsageError, match="must be a folder that exists")
    with wrong:
        flow(tmp_path / "none")
    with wrong:
        flow(None)
    empty = tmp_path / "empty"
    empty.mkdir()
    for label_mode in ("int", None):
        with pytest.raises(kacc.UsageError, match="must hold images"):
            flow(empty, label_mode=label_mode)
    with pytest.raises(kacc.UsageError, match="sub-folder for each class"):
        flow(folder / "cats")
    with pytest.raises(kacc.UsageError, match="two or more classes") as error:
        flow(save(tmp_path / "up/data/a/1.png").parents[2])
    assert "label_mode=None" in str(error.value)
    save(tmp_path / "up/data/b/1.png")
    with pytest.raises(kacc.UsageError, match="two or more classes") as error:
        flow(tmp_path / "up")
    assert str(tmp_path / "up/data") in str(error.value).split("Pass")[-1]
    (folder / "empty").mkdir()
    with pytest.raises(kacc.UsageError, match="Each class must have images"):
        flow(folder)
    assert flow(folder, class_names=["dogs", "cats"]).class_names == ["dogs", "cats"]


def test_classes_that_cannot_be_split_or_are_not_two(folder):
    save(folder / "mice" / "1.png")
    with pytest.raises(kacc.UsageError, match="two or more images to be split"):
        flow(folder, validation_split=0.5, subset="both")
    with pytest.raises(kacc.UsageError, match="is for two classes"):
        flow(folder, label_mode="binary")


def test_linked_folders_alone_are_explained(tmp_path):
    save(tmp_path / "elsewhere" / "1.png")
    root = tmp_path / "data"
    root.mkdir()
    (root / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(kacc.UsageError, match="follow_links=True"):
        flow(root, label_mode=None)


def test_flowers(data):
    root = data / "data" / "flowers128" / "train"
    train, val = flow_from_directory(
        root, image_size=32, validation_split=0.2, subset="both"
    )
    assert train.class_names == ["daisy", "dandelion", "roses", "sunflowers", "tulips"]
    assert len(train.file_paths) + len(val.file_paths) == 2934
    assert train.unreadable == []
    images, labels = everything(val)
    assert images.shape[1:] == (32, 32, 3)
    assert set(labels) == set(range(5))
