"""Training ResNet8 on labels and on what the published model says, in equal parts.

Hinton et al. 2015 (arXiv:1503.02531). The teacher has seen each image and its mirror
image once, before the fit; images are shifted by less than it would mind, so that a
step costs what it costs without a teacher.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import code_digest, fixture, resnet8, say, versions
from recipe import Recipe, batches
from resnet8_rows import Images, floats


@dataclass(frozen=True)
class DistilledRecipe(Recipe):
    """How the smaller and the whole model are trained.

    Args:
        learning_rate: of Adam, reached after the warm-up; then half a cosine to zero.
        warmup: steps.
        shift: pixels that an image is moved by at most; what enters is mirrored.
        teacher: the share of the teacher in the loss.
        temperature: that the teacher's answers are softened by.
    """

    learning_rate: float = 2e-3
    warmup: int = 100
    shift: int = 2
    teacher: float = 0.5
    temperature: float = 4.0


def train(
    model: Any, recipe: DistilledRecipe, images: Images, seed: int, callbacks: list[Any]
) -> None:
    """Trains a model whose outputs are probabilities."""
    import keras
    import tensorflow as tf

    def accuracy(targets: Any, outputs: Any) -> Any:
        same = tf.argmax(targets[:, 0], -1) == tf.argmax(outputs, -1)
        return tf.cast(same, tf.float32)

    steps = recipe.epochs * recipe.steps
    rate = keras.optimizers.schedules.CosineDecay(
        recipe.learning_rate / recipe.warmup,
        steps - recipe.warmup,
        warmup_target=recipe.learning_rate,
        warmup_steps=recipe.warmup,
    )
    model.compile(keras.optimizers.Adam(rate), _loss(recipe), metrics=[accuracy])
    model.fit(
        data_of(recipe, images, seed),
        epochs=recipe.epochs,
        steps_per_epoch=recipe.steps,
        callbacks=callbacks,
        verbose=0,
    )


def data_of(recipe: DistilledRecipe, images: Images, seed: int) -> Any:
    """All epochs' batches of (images, (label, teacher's answer)), moved at random."""
    import tensorflow as tf

    answers = _answers(recipe, images)
    # The number of an image stands in the place of its label for the moment.
    numbers = np.arange(recipe.images)
    labels, soft = tf.one_hot(images.y[: recipe.images], 10), tf.constant(answers)

    def changed(index: Any, batch: Any) -> Any:
        x, number = batch
        key = tf.stack([tf.cast(seed, tf.int64), index])
        flip = tf.random.stateless_uniform([tf.shape(x)[0]], key) < 0.5
        x = tf.where(flip[:, None, None, None], x[:, :, ::-1], x)
        answer = tf.gather_nd(soft, tf.stack([tf.cast(flip, tf.int64), number], -1))
        targets = tf.stack([tf.gather(labels, number), answer], 1)
        return _shifted(x, key + 1, recipe.shift), targets

    data = batches(recipe, images.x, numbers, seed)
    return data.enumerate().map(changed, num_parallel_calls=2).prefetch(2)


def _shifted(images: Any, key: Any, most: int) -> Any:
    import tensorflow as tf

    count, high, wide = tf.shape(images)[0], images.shape[1], images.shape[2]
    by = tf.random.stateless_uniform([2, count], key, 0, 2 * most + 1, dtype=tf.int32)
    border = [most, most]
    padded = tf.pad(images, [[0, 0], border, border, [0, 0]], "REFLECT")
    rows, columns = by[0][:, None] + tf.range(high), by[1][:, None] + tf.range(wide)
    return tf.gather(
        tf.gather(padded, rows, axis=1, batch_dims=1), columns, axis=2, batch_dims=1
    )


def _answers(recipe: DistilledRecipe, images: Images) -> np.ndarray:
    """Softened probabilities of the images and of their mirror images, (2, n, 10)."""

    def make(folder: Path) -> None:
        say("what the teacher says")
        model, x = resnet8(), images.x[: recipe.images]
        outputs = [
            model.predict(floats(views), batch_size=200, verbose=0)
            for views in (x, x[:, :, ::-1])
        ]
        np.save(folder / "answers.npy", np.stack(outputs))

    folder = fixture(
        "resnet8-answers",
        make,
        images=images.digest,
        count=recipe.images,
        script=code_digest("scripts/bench/common.py"),
        versions=versions("tensorflow", "keras"),
    )
    logits = np.log(np.load(folder / "answers.npy") + 1e-8) / recipe.temperature
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return (powers / powers.sum(-1, keepdims=True)).astype("float32")


def _loss(recipe: DistilledRecipe) -> Any:
    import tensorflow as tf

    def loss(targets: Any, outputs: Any) -> Any:
        """Cross-entropies; the gradient of the soft one shrinks with the square."""
        logits, heat = tf.math.log(outputs + 1e-8), recipe.temperature
        hard = -tf.reduce_sum(targets[:, 0] * logits, -1)
        soft = -tf.reduce_sum(targets[:, 1] * tf.nn.log_softmax(logits / heat), -1)
        return (1 - recipe.teacher) * hard + recipe.teacher * heat**2 * soft

    return loss
