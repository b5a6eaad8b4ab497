"""Zeros and compressed sizes, counted from the bytes of files."""

import gzip

import keras
import numpy as np
import pytest

import kacc
from kacc.converters.stored import stored_weights
from kacc.core.errors import UsageError

layers = keras.layers
X = np.random.default_rng(0).normal(size=(32, 6, 6, 4)).astype("float32")


@pytest.fixture(scope="module")
def pruned():
    """Three of four weights of 1x1 convolutions and dense layers are zero."""
    keras.utils.set_random_seed(2)
    image = keras.Input((6, 6, 4))
    x = layers.Conv2D(64, 1, activation="relu", name="point")(image)
    x = layers.DepthwiseConv2D(3, name="depth")(x)
    x = layers.Conv2D(64, 1, name="mix")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, layers.Dense(3, name="head")(x))
    return kacc.strip(kacc.prune(model, 0.75, keep_ends=False, scope="layer"))


def kernels_of(model):
    """The kernels in the layout of a file: outputs first, of depthwise ones last."""
    point, depth, mix, head = (
        model.get_layer(name).kernel.numpy()
        for name in ("point", "depth", "mix", "head")
    )
    return {
        "CONV_2D": [k.transpose(3, 0, 1, 2) for k in (point, mix)],
        "DEPTHWISE_CONV_2D": [depth.transpose(3, 0, 1, 2)],
        "FULLY_CONNECTED": [head.T],
    }


def test_weights_of_a_float_file_are_the_model_s(pruned, tmp_path):
    artifact = kacc.convert(pruned, tmp_path / "m.tflite", "tflite-float32")
    found: dict[str, list] = {}
    for weight in stored_weights(artifact.read()):
        found.setdefault(weight.operator, []).append(weight)
    wanted = kernels_of(pruned)
    assert {kind: len(rows) for kind, rows in found.items()} == {
        kind: len(kernels) for kind, kernels in wanted.items()
    }
    for kind, kernels in wanted.items():
        for weight, kernel in zip(found[kind], kernels, strict=True):
            assert weight.size == kernel.size
            assert weight.zeros == np.sum(kernel == 0)
            np.testing.assert_array_equal(
                np.sort(weight.values, axis=None), np.sort(kernel, axis=None)
            )
    kernels = [k for each in wanted.values() for k in each]
    zeros = sum(int(np.sum(k == 0)) for k in kernels)
    assert artifact.sparsity == zeros / sum(k.size for k in kernels) > 0.5


@pytest.mark.parametrize("units", [3, 4])
def test_integers_of_four_bits_are_unpacked(units, tmp_path):
    """Two of them share a byte, and an odd one has a byte of its own."""
    keras.utils.set_random_seed(3)
    sizes = (5, units, 5)
    model = keras.Sequential([keras.Input((3,)), *map(layers.Dense, sizes)])
    middle = model.layers[1].kernel
    value = np.random.default_rng(4).uniform(0.5, 1, middle.shape)
    value *= np.random.default_rng(5).choice([-1, 1], middle.shape)
    value[1:3] = 0
    middle.assign(value)
    samples = np.random.default_rng(6).normal(size=(32, 3))
    path = tmp_path / "m.tflite"
    artifact = kacc.convert(model, path, "tflite-w4a8", samples)
    weight = stored_weights(artifact.read())[1]
    assert weight.shape == (units, 5)
    assert np.abs(weight.values).max() == 7
    np.testing.assert_array_equal(np.sign(weight.values), np.sign(value.T))
    assert weight.zeros == 2 * units


@pytest.mark.parametrize("target", ["tflite-float32", "tflite-float16"])
def test_files_without_zeros_compute_the_same_from_fewer_bytes(
    target, pruned, tmp_path
):
    whole = kacc.convert(pruned, tmp_path / "whole.tflite", target)
    sparse = kacc.convert(pruned, tmp_path / "sparse.tflite", target, sparse=True)
    assert sparse.manifest.options["sparse"] is True
    assert "sparse" not in whole.manifest.options
    np.testing.assert_allclose(sparse.predict(X), whole.predict(X), atol=1e-6)
    assert sparse.sparsity == whole.sparsity
    assert any(w.values is None for w in stored_weights(sparse.read()))
    weights = stored_weights(whole.read())
    assert all(w.values is not None for w in weights)
    width = 4 if target == "tflite-float32" else 2
    spared = sum(w.zeros for w in weights if w.operator == "CONV_2D") * width
    assert whole.size_bytes - sparse.size_bytes > spared / 2


def test_integer_files_store_all_zeros(pruned, tmp_path):
    with pytest.raises(UsageError, match=r"'tflite-int8' store all zeros.*Leave it"):
        kacc.convert(pruned, tmp_path / "m.tflite", "tflite-int8", X, sparse=True)


def test_the_compressed_size_is_that_of_the_file(pruned, tmp_path):
    artifact = kacc.convert(pruned, tmp_path / "m.tflite", "tflite-float32")
    compressed = gzip.compress(artifact.path.read_bytes(), 9, mtime=0)
    assert artifact.gzip_bytes == len(compressed) < 0.7 * artifact.size_bytes


def test_a_file_without_weights_is_not_sparse(tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.ReLU()])
    artifact = kacc.convert(model, tmp_path / "m.tflite", "tflite-float32")
    assert artifact.sparsity == 0
    assert stored_weights(artifact.read()) == ()


@pytest.mark.parametrize("target", ["tflite-float32", "tflite-float16", "tflite-int8"])
def test_tables_are_weights_whose_zero_is_their_zero_point(target, tmp_path):
    keras.utils.set_random_seed(2)
    table = layers.Embedding(50, 8, embeddings_initializer="ones", name="table")
    hidden = [layers.GlobalAveragePooling1D(), layers.Dense(3)]
    model = keras.Sequential([keras.Input((6,), dtype="int32"), table, *hidden])
    random = np.random.default_rng(0)
    value = random.uniform(0.2, 1, (50, 8)) * random.choice([0, -0.5, 1], (50, 8))
    table.embeddings.assign(value)
    words = random.integers(0, 50, (64, 6)).astype("int32")
    options = {"calibration": words} if target == "tflite-int8" else {}
    artifact = kacc.convert(model, tmp_path / "m.tflite", target, **options)
    weight = next(w for w in stored_weights(artifact.read()) if w.operator == "GATHER")
    assert weight.shape == (50, 8)
    assert weight.zeros == np.sum(value == 0)
    kernel = model.layers[-1].kernel.numpy()
    assert artifact.sparsity == weight.zeros / (value.size + kernel.size)
