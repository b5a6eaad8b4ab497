"""The models of the export benchmarks: ResNet8, MobileNet 0.75, a text classifier."""

from __future__ import annotations

from typing import Any

import numpy as np
from common import DATA, loaders, resnet8

TEXT = "text transformer"
_WORDS, _LENGTH, _WIDTH = 4000, 32, 64


def models() -> dict[str, Any]:
    """Name -> what makes the model; the text classifier is trained for an epoch."""
    return {"ResNet8": resnet8, "MobileNet 0.75": mobilenet, TEXT: transformer}


def samples(name: str, count: int) -> np.ndarray:
    """Data of the model's own kind: CIFAR-10, flowers at 224x224, movie reviews."""
    if name == "ResNet8":
        return loaders().cifar10("val")[0][:count].astype("float32")
    if name == TEXT:
        return _tokens(loaders().movie_reviews()[0][:count])
    return _flowers(count)


def mobilenet() -> Any:
    """MobileNet 0.75 at 224x224 with the ImageNet weights, which takes -1..1."""
    import keras

    model = keras.applications.MobileNet(alpha=0.75, weights=None)
    model.load_weights(DATA / "models/mobilenet_v1_0.75_224_imagenet.weights.h5")
    return model


def transformer() -> Any:
    """A small Transformer encoder (Vaswani et al. 2017) that tells good reviews."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    texts, labels = loaders().movie_reviews()
    tokens = keras.Input((_LENGTH,), dtype="int32", name="tokens")
    x = layers.Embedding(_WORDS, _WIDTH)(tokens)
    x = x + layers.Embedding(_LENGTH, _WIDTH)(keras.ops.arange(_LENGTH))
    for _ in range(2):
        attended = layers.MultiHeadAttention(4, _WIDTH // 4)(x, x)
        x = layers.LayerNormalization()(x + attended)
        y = layers.Dense(2 * _WIDTH, activation="gelu")(x)
        x = layers.LayerNormalization()(x + layers.Dense(_WIDTH)(y))
    x = layers.GlobalAveragePooling1D()(x)
    model = keras.Model(tokens, layers.Dense(2, activation="softmax")(x), name="text")
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(_tokens(texts), labels, batch_size=128, verbose=0)
    return model


def _tokens(texts: list[str]) -> np.ndarray:
    """Words as numbers by a hash that is the same in every process, zeros behind."""
    from zlib import crc32

    rows = np.zeros((len(texts), _LENGTH), "int32")
    for row, text in zip(rows, texts, strict=True):
        words = text.split()[:_LENGTH]
        row[: len(words)] = [crc32(w.encode()) % (_WORDS - 1) + 1 for w in words]
    return rows


def _flowers(count: int) -> np.ndarray:
    import tensorflow as tf

    paths = sorted(loaders().FLOWERS.rglob("*.jpg"))
    chosen = [paths[i] for i in np.linspace(0, len(paths) - 1, count).astype(int)]
    images = [tf.io.decode_jpeg(p.read_bytes(), 3) for p in chosen]
    resized = [tf.image.resize(image, (224, 224)) for image in images]
    return np.stack(resized).astype("float32") / 127.5 - 1
