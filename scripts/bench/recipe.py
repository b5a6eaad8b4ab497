"""The fine-tuning of ResNet8 that Keras 3, kacc and tfmot are all given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Recipe:
    """How long, on what and how fast.

    Args:
        images: the first so many of CIFAR-10's training images.
        validation: the first so many of the validation images.
    """

    epochs: int = 3
    images: int = 20_000
    batch: int = 64
    learning_rate: float = 1e-4
    validation: int = 5_000

    @property
    def steps(self) -> int:
        """Steps per epoch; the last one may have fewer images."""
        return -(-self.images // self.batch)


QUICK = Recipe(epochs=1, images=640, validation=300)


def batches(recipe: Recipe, images: np.ndarray, labels: np.ndarray, seed: int) -> Any:
    """All epochs' batches, in the order that a seed gives, for any framework.

    Args:
        recipe: says how many.
        images: uint8.
        labels: class numbers.
        seed: of the order.

    Returns:
        A tf.data.Dataset of (float images, labels), of epochs * steps batches.
    """
    import tensorflow as tf

    random = np.random.default_rng(seed)
    x, y = tf.constant(images), tf.constant(labels)
    epochs = [
        tf.data.Dataset.from_tensor_slices(random.permutation(recipe.images)).batch(
            recipe.batch
        )
        for _ in range(recipe.epochs)
    ]
    order = epochs[0]
    for epoch in epochs[1:]:
        order = order.concatenate(epoch)
    return order.map(
        lambda index: (tf.cast(tf.gather(x, index), tf.float32), tf.gather(y, index))
    ).prefetch(2)


def train(
    keras: Any,
    model: Any,
    recipe: Recipe,
    data: Any,
    callbacks: list[Any] | None = None,
) -> None:
    """Fine-tunes a model.

    Args:
        keras: Keras 3 or tf_keras, whose model it is.
        model: not compiled yet.
        recipe: what `data` was made by.
        data: as `batches` gives it.
        callbacks: of `fit`.
    """
    model.compile(
        keras.optimizers.Adam(recipe.learning_rate),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(
        data,
        epochs=recipe.epochs,
        steps_per_epoch=recipe.steps,
        callbacks=callbacks or [],
        verbose=0,
    )


def flipped_and_cropped(
    recipe: Recipe, images: np.ndarray, labels: np.ndarray, seed: int
) -> Any:
    """All epochs' batches of images that are flipped and shifted at random.

    Shifted by up to 4 pixels, with zeros from outside (He et al. 2015,
    arXiv:1512.03385, section 4.2). A fit that is resumed begins with the first epoch's
    order again.

    Args:
        recipe: says how many.
        images: uint8.
        labels: class numbers.
        seed: of the order and of what is done to the images.

    Returns:
        A tf.data.Dataset of (float images, labels), of epochs * steps batches.
    """
    import tensorflow as tf

    x, y = tf.constant(images), tf.constant(labels)
    random = np.random.default_rng(seed)
    order = np.concatenate(
        [random.permutation(recipe.images) for _ in range(recipe.epochs)]
    )

    def changed(number: Any, index: Any) -> Any:
        key = tf.stack([tf.constant(seed, tf.int64), number])
        image = tf.image.stateless_random_flip_left_right(x[index], key)
        padded = tf.pad(image, ((4, 4), (4, 4), (0, 0)))
        image = tf.image.stateless_random_crop(padded, images.shape[1:], key)
        return tf.cast(image, tf.float32), y[index]

    # An epoch ends with a batch of its own: its last one may be smaller.
    pairs = tf.data.Dataset.from_tensor_slices(order).enumerate()
    return (
        pairs.window(recipe.images)
        .flat_map(
            lambda number, index: (
                tf.data.Dataset.zip((number, index))
                .map(changed, num_parallel_calls=tf.data.AUTOTUNE)
                .batch(recipe.batch)
            )
        )
        .prefetch(2)
    )
