"""ResNet8 of half its width, trained from scratch with a teacher and without one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import code_digest, fixture, resnet8, say, versions
from recipe import Recipe, batches
from resnet8_rows import Images

CODE = ("kacc/core/loss_terms.py", "kacc/distillation")


@dataclass(frozen=True)
class StudentRecipe(Recipe):
    """How a student is trained.

    Args:
        learning_rate: of Adam, after a fifth of the steps; then half a cosine to zero.
        width: of its layers, as a share of the teacher's.
        temperature, alpha: of distillation.
    """

    epochs: int = 5
    images: int = 20_000
    batch: int = 16  # many steps: five epochs are few
    learning_rate: float = 1e-2
    width: float = 0.5
    temperature: float = 2.0
    alpha: float = 0.9


QUICK = StudentRecipe(epochs=1, images=640, validation=300)


def narrow(width: float) -> Any:
    """ResNet8 with a share of its channels and new weights."""
    import keras

    def scaled(layer: Any) -> Any:
        config = layer.get_config()
        if "filters" in config:
            config["filters"] = max(1, round(config["filters"] * width))
        return type(layer).from_config(config)

    return keras.models.clone_model(resnet8(), clone_function=scaled)


def student(recipe: StudentRecipe, images: Images, seed: int, *, taught: bool) -> Path:
    """A folder with the trained student, "model.keras", from the cache or new."""
    import keras

    import kacc

    def make(folder: Path) -> None:
        way = "with a teacher" if taught else "alone"
        say(f"seed {seed}, {way}: {recipe.epochs} x {recipe.images:,} images")
        keras.utils.set_random_seed(seed)
        model = kacc.accelerate(narrow(recipe.width))
        steps = recipe.epochs * recipe.steps
        warmup = steps // 5
        rate = keras.optimizers.schedules.CosineDecay(
            recipe.learning_rate / 10,
            steps - warmup,
            warmup_target=recipe.learning_rate,
            warmup_steps=warmup,
        )
        model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
        callbacks = []
        if taught:
            callbacks = [
                kacc.callbacks.Distillation(resnet8(), recipe.temperature, recipe.alpha)
            ]
        model.fit(
            _data(recipe, images, seed),
            epochs=recipe.epochs,
            steps_per_epoch=recipe.steps,
            callbacks=callbacks,
            verbose=0,
        )
        model.save(folder / "model.keras")

    return fixture(
        f"student-{'taught' if taught else 'alone'}-{seed}",
        make,
        code=code_digest(*(CODE if taught else ()), "scripts/bench/recipe.py"),
        script=code_digest("scripts/bench/students.py", "scripts/bench/common.py"),
        versions=versions("tensorflow", "keras"),
        recipe=recipe,
        seed=seed,
        images=images.digest,
    )


def _data(recipe: StudentRecipe, images: Images, seed: int) -> Any:
    """Flipped or not; shifted as well, students learn less in so few steps."""
    import tensorflow as tf

    def changed(index: Any, batch: Any) -> Any:
        x, y = batch
        seeds = tf.stack([tf.cast(seed, tf.int64), index])
        return tf.image.stateless_random_flip_left_right(x, seeds), y

    data = batches(recipe, images.x, images.y, seed)
    change: Callable[..., Any] = changed
    return data.enumerate().map(change, num_parallel_calls=2).prefetch(2)
