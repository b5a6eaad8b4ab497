"""What `check` finds in data of all forms, and that it finds nothing in sound data."""

import io
import struct
import tempfile
import tracemalloc
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

import kacc
from kacc.augmentation import check, exif

RNG = np.random.default_rng(0)


def images(count=40, shape=(6, 5, 3), dtype="uint8"):
    return RNG.integers(0, 256, (count, *shape)).astype(dtype)


def labels(count=40):
    return np.arange(count) % 4


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y=None, size=7):
        super().__init__()
        self.x, self.y, self.size = x, y, size

    def __len__(self):
        return -(-len(self.x) // self.size)

    def __getitem__(self, index):
        part = slice(index * self.size, (index + 1) * self.size)
        return self.x[part] if self.y is None else (self.x[part], self.y[part])


def batched(x, y=None):
    return tf.data.Dataset.from_tensor_slices(x if y is None else (x, y)).batch(7)


def single(x, y=None):
    return tf.data.Dataset.from_tensor_slices(x if y is None else (x, y))


def generated(x, y=None):
    data = Batches(x, y)
    return (data[i] for i in range(len(data)))


def arrays(x, y=None):
    return x if y is None else (x, y)


FORMS = pytest.mark.parametrize("form", [arrays, batched, single, generated, Batches])


@FORMS
def test_sound_data_has_no_problems(form):
    found = check(form(images(), labels()), form(images(), labels()))
    assert found.ok
    assert found.problems == ()
    assert found.train.samples == found.validation.samples == 40
    assert found.train.classes == {"0": 10, "1": 10, "2": 10, "3": 10}
    assert found.train.shapes == {(6, 5, 3): 40}
    assert found.train.imbalance == 1
    assert (found.train.minimum, found.train.maximum) == (0, 255)


@FORMS
def test_every_fault_is_found_by_number(form):
    x, y = images(dtype="float32"), labels().astype("float32")
    x[3, 0, 0, 0] = np.nan
    x[4, 1, 1, 1] = np.inf
    x[10] = 7
    x[20] = x[30] = x[24] = x[0]  # of the same class, but for 30
    y[25] = np.nan
    other = images(8, dtype="float32")
    other[5] = x[1]
    other[6] = x[20]
    found = check(form(x, y), form(other, labels(8).astype("float32")))
    train = found.train
    assert train.not_finite == (3, 4)
    assert train.constant == (10,)
    assert train.duplicates == ((0, 20, 24, 30),)
    assert train.conflicts == ((0, 20, 24, 30),)
    assert train.wrong_labels == (25,)
    assert train.copies == 3
    assert found.shared == ((1, 5), (0, 6))
    assert found.problems == (
        "train: 2 samples have NaN or infinite values: 3, 4",
        "train: 1 sample has one value alone: 10",
        "train: 1 label is NaN or infinite: 25",
        "train: 3 samples are copies of others: 0 = 20 = 24 = 30",
        "train: equal samples have different labels: 0 = 20 = 24 = 30",
        "2 validation samples are in the training data too: 1 = 5, 0 = 6",
    )


@settings(max_examples=25)
@given(
    copies=st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=5),
    size=st.integers(1, 50),
)
def test_copies_are_those_of_a_plain_comparison(copies, size):
    x = images()
    for to, source in copies:
        x[to] = x[source]
    groups = {}
    for index, image in enumerate(x):
        groups.setdefault(image.tobytes(), []).append(index)
    wanted = tuple(sorted(tuple(g) for g in groups.values() if len(g) > 1))
    assert check(Batches(x, size=size)).train.duplicates == wanted


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "float16"])
def test_equal_numbers_of_another_type_are_equal(dtype):
    x = images()
    found = check(x, x[:3].astype(dtype))
    assert found.shared == ((0, 0), (1, 1), (2, 2))


def test_almost_equal_samples_are_not_equal():
    x = images(dtype="float32")
    other = x.copy()
    other[:, 0, 0, 0] = (other[:, 0, 0, 0] + 1) % 256
    assert check(x, other).shared == ()
    assert check(x + 0.5, np.nextafter(x + 0.5, 300)).shared == ()


def test_reshaped_samples_are_not_equal():
    x = images(4)
    found = check(x, x.reshape(4, 5, 6, 3))
    assert found.shared == ()
    assert found.problems == (
        "samples have other shapes: (6, 5, 3) in train, (5, 6, 3) in validation",
    )


def test_several_inputs_are_equal_together():
    a, b = images(6), images(6)
    a[3] = a[1]
    assert check({"a": a, "b": b}).ok
    b[3] = b[1]
    assert check({"a": a, "b": b}).train.duplicates == ((1, 3),)


# Labels


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        (labels(), {"0": 10, "1": 10, "2": 10, "3": 10}),
        (labels()[:, None], {"0": 10, "1": 10, "2": 10, "3": 10}),
        (np.eye(4)[labels()], {"0": 10, "1": 10, "2": 10, "3": 10}),
        (np.array(["a", "b"])[labels() % 2], {"a": 20, "b": 20}),
        (np.array([b"a", b"b"])[labels() % 2], {"a": 20, "b": 20}),
        (np.array([[0, 0], [0, 1], [1, 1], [1, 1]])[labels()], {"0": 20, "1": 30}),
        (RNG.normal(size=40), {}),
        (np.arange(40), {}),
        (np.where(labels() % 2, 1, -1), {"-1": 20, "1": 20}),
        (RNG.normal(size=(40, 3)), {}),
        (images()[..., 0], {}),
    ],
    ids=lambda value: str(getattr(value, "shape", "")),
)
def test_classes_are_counted_in_all_forms(y, classes):
    found = check((images(), y)).train
    assert found.classes == classes
    assert found.labelled


@pytest.mark.parametrize("part", [{"a": labels()}, {"a": labels(), "b": labels()}])
def test_labels_of_several_outputs(part):
    found = check((images(), part)).train
    assert found.labelled
    assert bool(found.classes) == (len(part) == 1)


def test_weights_are_left_alone():
    assert check((images(), labels(), np.ones(40))).ok


def test_rare_and_missing_classes_and_negative_numbers():
    y = np.repeat([0, 1, 2], [30, 5, 5])
    found = check((images(), y), (images(), np.repeat([0, 1, 3], [10, 10, 20])))
    assert found.train.imbalance == 6
    assert found.problems == (
        "train: class 0 has 6.0 times as many samples as class 1: 30 and 5; pass "
        "class_weight to fit, or draw rare ones more often",
        "classes that the training data has none of: 3",
        "classes that the validation data has none of: 2",
    )
    assert check((images(), labels() - 1)).problems == (
        "train: some labels are below 0",
    )
    one_hot = np.eye(5)[labels()]
    assert check((images(), one_hot)).problems == ("train: classes without samples: 4",)


def test_missing_labels_of_one_set():
    found = check((images(), labels()), images())
    assert found.problems == ("only train has labels",)
    assert check(images()).ok
    assert not check(images()).train.labelled


# Ranges and shapes


@pytest.mark.parametrize(
    ("first", "second", "differ"),
    [
        (lambda x: x, lambda x: x / 255, True),
        (lambda x: x, lambda x: x / 127.5 - 1, True),
        (lambda x: x / 255, lambda x: x / 127.5 - 1, True),
        (lambda x: x, lambda x: x * 1.0, False),
        (lambda x: x / 255, lambda x: x / 300, False),
        (lambda x: x * 1.0, lambda x: x * 1.1 - 1, False),
        (lambda x: x - 128.0, lambda x: x - 120.0, False),
        (lambda x: x, lambda x: x * 100.0, True),
    ],
)
def test_other_ranges_are_reported(first, second, differ):
    found = check(first(images()), second(images()))
    said = [p for p in found.problems if "values have other ranges" in p]
    assert len(said) == differ == (not found.ok)


def test_images_of_several_sizes():
    ragged = tf.data.Dataset.from_tensor_slices([3, 4, 5, 5]).map(
        lambda n: tf.ones((n, 2)) * tf.range(1.0, 3.0)
    )
    odd = ragged.ragged_batch(3)
    found = check(odd)
    assert found.train.shapes == {(5, 2): 2, (3, 2): 1, (4, 2): 1}
    assert found.train.duplicates == ((2, 3),)
    assert any("samples have 3 shapes" in problem for problem in found.problems)


def test_texts_are_compared_too():
    texts = np.array(["one", "two", "one", "three"])
    found = check((texts, np.array([0, 1, 1, 0])))
    assert found.train.duplicates == found.train.conflicts == ((0, 2),)
    assert found.train.minimum is None


# Folders


@pytest.fixture
def folder(tmp_path):
    for name, count in (("cats", 6), ("dogs", 5)):
        for index in range(count):
            save(tmp_path / name / f"{index}.png", images(1, (6 + index, 5, 3))[0])
    return tmp_path


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def test_sound_folders(folder):
    found = check(folder)
    assert found.ok
    assert found.train.classes == {"cats": 6, "dogs": 5}
    assert check(str(folder / "cats")).ok
    assert not check(folder / "cats").train.labelled


def test_faults_of_folders_are_found_by_name(folder):
    picture = images(1)[0]
    save(folder / "cats" / "a.png", picture)
    save(folder / "dogs" / "b.bmp", picture)  # the same pixels in another file
    save(folder / "dogs" / "flat.png", np.full((4, 4, 3), 9, "uint8"))
    (folder / "dogs" / "half.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "dogs" / "x.tiff").touch()
    (folder / "birds").mkdir()
    save(folder / "loose.png", images(1)[0])
    found = check(folder)
    assert found.problems == (
        "train: folders without images: birds",
        "train: images of types that TensorFlow does not read: 1 .tiff",
        "train: beside the folders of classes lie images: loose.png",
        "train: 1 file cannot be read: dogs/half.png",
        "train: 1 sample has one value alone: dogs/flat.png",
        "train: 1 sample is a copy of another: cats/a.png = dogs/b.bmp",
        "train: equal samples have different labels: cats/a.png = dogs/b.bmp",
    )


def photo(path, orientation, before=b""):
    """A JPEG file that says how it is to be turned, as PIL writes it."""
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    if orientation is not None:
        exif[0x0112] = orientation
    image = Image.fromarray(images(1, (8, 12, 3))[0])
    image.save(path, exif=exif)
    if before:
        data = path.read_bytes()
        path.write_bytes(data[:2] + before + data[2:])


@pytest.mark.parametrize("before", [b"", b"\xff\xfe\x00\x06note"])
@pytest.mark.parametrize("value", [None, *range(10)])
def test_the_rotation_of_a_photo_is_known(value, before, tmp_path):
    path = tmp_path / "photo.jpg"
    photo(path, value, before)
    assert exif.is_rotated(path) == (value in range(2, 9))


def exif_segment(order, mark, value):
    """The segment of a JPEG file with an orientation, in an order of bytes."""
    entry = struct.pack(f"{order}IHHHIHHI", 8, 1, 0x0112, 3, 1, value, 0, 0)
    body = b"Exif\0\0" + mark + entry
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


@pytest.mark.parametrize(("order", "mark"), [("<", b"II*\0"), (">", b"MM\0*")])
def test_the_rotation_is_read_in_either_order_of_bytes(order, mark, tmp_path):
    for value, rotated in ((6, True), (1, False)):
        path = tmp_path / f"{value}.jpg"
        photo(path, None, exif_segment(order, mark, value))
        assert exif.is_rotated(path) == rotated


@given(st.binary(max_size=60))
def test_the_rotation_of_a_broken_file_is_none(tail):
    head = b"\xff\xd8\xff\xe1\x00\x30Exif\0\0II*\0"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo.jpg"
        for content in (head + tail, tail):
            path.write_bytes(content)
            assert not exif.is_rotated(path)


@given(st.binary(max_size=40))
def test_broken_exif_data_of_a_whole_file_is_no_error(data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo.jpg"
        body = b"Exif\0\0II*\0\x08\0\0\0" + data
        segment = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
        photo(path, None, segment)
        exif.is_rotated(path)  # raises nothing


def test_photos_that_lie_on_their_side_are_named(folder):
    photo(folder / "cats" / "upright.jpg", 1)
    photo(folder / "cats" / "side.jpg", 6)
    found = check(folder)
    assert found.train.rotated == ("cats/side.jpg",)
    assert found.problems == (
        "train: 1 image lies on its side: its EXIF rotation is ignored; turn the "
        "pixels: cats/side.jpg",
    )
    photo(folder / "dogs" / "head.jpg", 3)
    assert "2 images lie on their side" in check(folder).problems[0]
    assert check(images()).train.rotated == ()


def test_folders_against_each_other_and_against_arrays(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    for name in ("cats", "dogs"):
        save(other / name / "new.png", images(1)[0])
    array = np.asarray(Image.open(folder / "cats" / "3.png"))
    save(other / "cats" / "old.png", array)
    assert check(folder, other).shared == (("cats/3.png", "cats/old.png"),)
    assert check(folder, array[None]).shared == (("cats/3.png", 0),)


def test_limit_of_a_folder_is_spread_over_its_classes(folder):
    assert check(folder, limit=4).train.classes == {"cats": 2, "dogs": 2}


# Long, endless and large data


@FORMS
def test_limit(form):
    found = check(form(images(), labels()), limit=9)
    assert found.train.samples == 9
    assert sum(found.train.classes.values()) == 9


def test_endless_data_needs_a_limit():
    endless = batched(images(), labels()).repeat()
    with pytest.raises(kacc.UsageError, match="must have an end"):
        check(endless)
    assert check(endless, limit=20).train.samples == 20

    class Endless(Batches):
        num_batches = None

        def __getitem__(self, index):
            return super().__getitem__(index % 3)

    with pytest.raises(kacc.UsageError, match="must have an end"):
        check(Endless(images()))
    assert check(Endless(images()), limit=30).train.samples == 30


def test_memory_does_not_grow_with_the_size_of_samples():
    def stream():
        for index in range(60):
            yield np.full((8, 64, 64, 3), index, "float32") + np.arange(3)

    tracemalloc.start()
    assert check(stream()).train.samples == 480
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20  # all samples have 22 MiB


# What is shown


def shown(value):
    console = Console(file=io.StringIO(), width=100)
    console.print(value)
    return console.file.getvalue()


def test_table_and_text_say_the_same():
    x, y = images(), labels()
    x[1] = x[0]
    found = check((x, y), (x[:2], y[:2]))
    for text in (str(found), shown(found)):
        assert "Check of data: 6 problems" in text
        for word in ("samples", "40", "copies of others", "class 3", "25.0%"):
            assert word in text
        joined = " ".join(text.split())
        for problem in found.problems:
            assert " ".join(problem.split()) in joined
    assert "nothing wrong" in str(check(images()))
    assert "validation" not in shown(check(images()))


def test_many_classes_and_many_names_stay_short():
    y = np.arange(400) // 10
    x = images(400)
    x[:] = x[0]
    text = shown(check((x, y)))
    assert "40 classes" in text
    assert "class 7" not in text
    assert len(check((x, y)).problems[0]) < 3000


def test_result_is_frozen():
    with pytest.raises(AttributeError):
        check(images()).problems = ()


# Wrong calls


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, "`train` must be data"),
        (None, "`train` must be data"),
        ([images()], "`train` must be data"),
        ((images(), labels(3)), "must have an entry for each sample"),
        (np.float32(3), "must have an entry for each sample"),
        (images(0), "`train` must have samples"),
        ("/no/such/folder", "must be a folder that exists"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_wrong_data(data, message):
    with pytest.raises(kacc.UsageError, match=message):
        check(data)


def test_wrong_limit_and_wrong_validation():
    with pytest.raises(kacc.UsageError, match="`limit` must be"):
        check(images(), limit=0)
    with pytest.raises(kacc.UsageError, match="`validation` must be data"):
        check(images(), 3)


# Real data


def test_flowers_have_three_copies(data):
    found = check(data / "data" / "flowers128" / "train")
    assert found.train.samples == 2934
    assert found.train.copies == 3
    assert found.train.conflicts == (
        (
            "roses/15922772266_1167a06620.jpg",
            "tulips/15922772266_1167a06620.jpg",
        ),
    )
    assert found.train.unreadable == ()


def test_cifar10_is_clean(load):
    found = check(load.cifar10("train", shards=1), load.cifar10("val"))
    assert found.ok
    assert found.train.samples == 10_000
