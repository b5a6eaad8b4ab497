"""How the benchmarks of pruning train ResNet8, and how they count zeros in files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common import code_digest, fixture, resnet8, say, versions
from recipe import Recipe, batches
from resnet8_rows import Images, floats

TRAINING_CODE = (
    "kacc/core/attach.py",
    "kacc/core/transform.py",
    "kacc/core/schedules.py",
    "kacc/core/optimizers.py",
    "kacc/pruning",
    "kacc/acceleration",
)
_BORDER = 4  # pixels that a crop may be off, as He et al. 2016 (arXiv:1512.03385)


@dataclass(frozen=True)
class SparseRecipe(Recipe):
    """How ResNet8 is trained while it is pruned, or as it is for comparison.

    Args:
        learning_rate: of Adam, at the start.
        cosine: whether it falls to zero along half a cosine.
        crops: whether images are flipped and cropped at random.
        ramp: the share of the steps in which the sparsity grows.
        frequency: steps from one choice of masks to the next.
        regrow: the share of the steps in which pruned weights may come back, 0: none.
    """

    learning_rate: float = 1e-3
    cosine: bool = True
    crops: bool = False
    ramp: float = 0.5
    frequency: int = 50
    regrow: float = 0.0

    @property
    def total(self) -> int:
        """Steps of all epochs."""
        return self.epochs * self.steps


SHORT = SparseRecipe()
LONG = SparseRecipe(epochs=10, images=40_000, crops=True)


def quick(recipe: SparseRecipe) -> SparseRecipe:
    """The recipe with tiny settings."""
    return replace(recipe, epochs=1, images=640, validation=300, frequency=2)


def data_of(recipe: SparseRecipe, images: Images, seed: int) -> Any:
    """All epochs' batches, in the order that a seed gives, cropped if so asked."""
    import tensorflow as tf

    data = batches(recipe, images.x, images.y, seed)
    if not recipe.crops:
        return data

    def changed(index: Any, batch: Any) -> Any:
        x, y = batch
        return flipped_and_cropped(x, tf.stack([tf.cast(seed, tf.int64), index])), y

    return data.enumerate().map(changed, num_parallel_calls=2).prefetch(2)


def flipped_and_cropped(images: Any, seed: Any) -> Any:
    """Each image flipped or not, and moved by up to four pixels, what enters mirrored.

    Args:
        images: float32, (n, height, width, channels).
        seed: two integers.
    """
    import tensorflow as tf

    count, high, wide = tf.shape(images)[0], images.shape[1], images.shape[2]
    random = tf.random.stateless_uniform(
        [3, count], seed, 0, 2 * _BORDER + 1, dtype=tf.int32
    )
    pads = [[0, 0], [_BORDER, _BORDER], [_BORDER, _BORDER], [0, 0]]
    padded = tf.pad(images, pads, "REFLECT")
    rows = random[0][:, None] + tf.range(high)
    columns = random[1][:, None] + tf.range(wide)
    flip = tf.random.stateless_uniform([count], seed + 1) < 0.5
    columns = tf.where(flip[:, None], columns[:, ::-1], columns)
    moved = tf.gather(padded, rows, axis=1, batch_dims=1)
    moved = tf.transpose(moved, [0, 2, 1, 3])
    moved = tf.gather(moved, columns, axis=1, batch_dims=1)
    return tf.transpose(moved, [0, 2, 1, 3])


def train(
    keras: Any, model: Any, recipe: SparseRecipe, data: Any, callbacks: list[Any]
) -> None:
    """Trains a model of Keras 3 or of tf_keras, which `keras` then is."""
    rate = recipe.learning_rate
    if recipe.cosine:
        rate = keras.optimizers.schedules.CosineDecay(rate, recipe.total)
    model.compile(
        keras.optimizers.Adam(rate),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(
        data,
        epochs=recipe.epochs,
        steps_per_epoch=recipe.steps,
        callbacks=callbacks,
        verbose=0,
    )


# What is trained: name -> options of `kacc.callbacks.Pruning`. With "75%" all kernels
# are ranked together; of "2:4" the stem with its 3 channels and the last layer stay.
WAYS: dict[str, dict[str, Any] | None] = {
    "float": None,
    "75%": {"sparsity": 0.75, "keep_ends": False},
    "2:4": {"method": "2:4"},
}


def pruning(way: str, recipe: SparseRecipe) -> list[Any]:
    """The callbacks of a way."""
    import kacc

    options = WAYS[way]
    if options is None:
        return []
    freeze = int(recipe.total * recipe.regrow) or None
    return [
        kacc.callbacks.Pruning(
            **options,
            end_step=int(recipe.total * recipe.ramp),
            frequency=recipe.frequency,
            freeze_step=freeze,
            regrow=freeze is not None,
        )
    ]


def trained(
    way: str,
    recipe: SparseRecipe,
    images: Images,
    seed: int,
    also: Callable[[], list[Any]] = list,
    name: str = "",
    code: tuple[str, ...] = (),
) -> Path:
    """A folder with ResNet8 as one way left it, "model.keras", from the cache or new.

    Args:
        way: a key of `WAYS`.
        recipe: how it is trained.
        images: the data.
        seed: of their order.
        also: makes further callbacks.
        name: of what these do.
        code: what they depend on.
    """
    import keras

    import kacc

    def make(folder: Path) -> None:
        say(f"seed {seed}, {way}{name}: {recipe.epochs} x {recipe.images:,} images")
        keras.utils.set_random_seed(seed)
        model = kacc.accelerate(resnet8())
        callbacks = [*pruning(way, recipe), *also()]
        train(keras, model, recipe, data_of(recipe, images, seed), callbacks)
        model.save(folder / "model.keras")

    depends = [*(TRAINING_CODE if WAYS[way] else ["kacc/acceleration"]), *code]
    return fixture(
        f"resnet8-sparse-{way.strip('%').replace(':', 'of')}{name}-{seed}",
        make,
        code=code_digest(*depends),
        script=code_digest("scripts/bench/sparse_recipe.py", "scripts/bench/recipe.py"),
        versions=versions("tensorflow", "keras"),
        recipe=recipe,
        seed=seed,
        images=images.digest,
    )


def file_row(artifact: Any, images: Images) -> dict[str, Any]:
    """A file's accuracy, bytes, and zeros, which are counted from the bytes."""
    best = artifact.predict(floats(images.x_val)).argmax(-1)
    return {
        "accuracy": float((best == images.y_val).mean()),
        "sparsity": artifact.sparsity,
        "bytes": artifact.size_bytes,
        "gzip": artifact.gzip_bytes,
    }


def converted_row(
    model: Any, target: str, images: Images, calibration: Any = None
) -> dict[str, Any]:
    """The same of a model, converted for the moment."""
    import kacc

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        artifact = kacc.convert(model, path, target, calibration)
        return {**file_row(artifact, images), **pattern_of(artifact)}


def pattern_of(artifact: Any) -> dict[str, Any]:
    """How a file keeps to 2:4: the kernels that do, and the zeros in them."""
    from kacc.converters.stored import stored_weights

    kept = [w for w in stored_weights(artifact.read()) if _is_two_of_four(w)]
    size = sum(weight.size for weight in kept)
    return {
        "2:4 kernels": len(kept),
        "their sparsity": sum(w.zeros for w in kept) / size if size else 0.0,
    }


def _is_two_of_four(weight: Any) -> bool:
    """Whether of each four input channels, last in the file, at most two are there."""
    if weight.values is None or weight.shape[-1] % 4:
        return False
    groups = (weight.values != 0).reshape(-1, 4).sum(-1)
    return bool((groups <= 2).all())
