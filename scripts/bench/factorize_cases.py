"""The three models that are factored: data, model, tuning."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import distilled_recipe
import mobilenet_channels as mobilenet
import numpy as np
from common import code_digest, digest, fixture, loaders, resnet8, say, versions
from distilled_recipe import DistilledRecipe
from resnet8_rows import Images, floats


@dataclass(frozen=True)
class Case:
    """A model to factor.

    Args:
        name: of its cached results.
        cost: "MACs" or "bytes": what the budgets are about.
        shares: of it, the budgets.
        settings: for the report.
        depends: what trained models depend on.
        model: makes it anew, as it was, not compiled.
        train: tunes a model in place for some epochs.
        accuracy: of a model, on the validation samples.
        calibration: samples.
        epochs: of a long tuning.
    """

    name: str
    cost: str
    shares: tuple[float, ...]
    settings: Any
    depends: Any
    model: Callable[[], Any]
    train: Callable[[Any, int], None]
    accuracy: Callable[[Any], float]
    calibration: np.ndarray
    epochs: int = 1


def share_right(model: Any, x: np.ndarray, y: np.ndarray) -> float:
    return float((model.predict(x, batch_size=100, verbose=0).argmax(-1) == y).mean())


# ResNet8

RECIPE = DistilledRecipe(epochs=5, images=10_000, batch=32, learning_rate=1e-3)
QUICK = DistilledRecipe(epochs=1, images=640, validation=300, warmup=2)


def resnet8_case(quick: bool) -> Case:
    import kacc

    recipe = QUICK if quick else RECIPE
    images = Images(recipe)
    scripts = ("recipe.py", "distilled_recipe.py", "factorize_cases.py")

    def train(model: Any, epochs: int) -> None:
        own = replace(recipe, epochs=epochs)
        distilled_recipe.train(kacc.accelerate(model), own, images, 0, [])

    return Case(
        "resnet8-quick" if quick else "resnet8",
        "MACs",
        (0.5,) if quick else (0.8, 1 / 1.5, 0.5, 0.4, 0.3),
        recipe,
        (recipe, images.digest, code_digest(*(f"scripts/bench/{s}" for s in scripts))),
        resnet8,
        train,
        lambda model: share_right(model, floats(images.x_val), images.y_val),
        floats(images.x[:1024]),
        recipe.epochs,
    )


# MobileNet 0.75


def mobilenet_case(quick: bool) -> Case:
    import keras

    settings = mobilenet.QUICK if quick else mobilenet.Settings()
    flowers = mobilenet.Flowers.read(settings)
    depends = {
        "settings": settings,
        "seed": 0,
        "images": digest(flowers.x, flowers.y),
        "versions": versions("tensorflow", "keras"),
        "script": code_digest("scripts/bench/mobilenet_channels.py"),
    }

    def tune(folder: Path) -> None:
        say("fine-tuning MobileNet 0.75")
        keras.utils.set_random_seed(0)
        model = mobilenet._mobilenet(settings)
        mobilenet._train(model, settings, flowers)
        model.save(folder / "model.keras")

    tuned = fixture("mobilenet-flowers-0", tune, **depends) / "model.keras"
    some = np.random.default_rng(0).permutation(len(flowers.x))
    return Case(
        "mobilenet-quick" if quick else "mobilenet",
        "MACs",
        (0.5,) if quick else (0.8, 1 / 1.5),
        settings,
        depends,
        lambda: keras.models.load_model(tuned, compile=False),
        lambda model, epochs: mobilenet._train(
            model, replace(settings, epochs=epochs), flowers
        ),
        lambda model: share_right(model, flowers.x_val, flowers.y_val),
        flowers.x[some[:512]],
    )


# Text


@dataclass(frozen=True)
class TextSettings:
    """How the classifier of movie reviews is made and trained."""

    words: int = 10_000
    length: int = 32
    width: int = 128
    epochs: int = 4
    batch: int = 64
    learning_rate: float = 1e-3
    sentences: int | None = None


def text_case(quick: bool) -> Case:
    import keras

    settings = TextSettings(sentences=600 if quick else None)
    x, y, x_val, y_val = _reviews(settings)
    depends = (settings, digest(x, y), code_digest("scripts/bench/factorize_cases.py"))

    def make(folder: Path) -> None:
        say("training the classifier of movie reviews")
        keras.utils.set_random_seed(0)
        model = _classifier(settings)
        _fit(model, settings, x, y, settings.epochs, settings.learning_rate)
        model.save(folder / "model.keras")

    trained = fixture("factorize-reviews", make, depends=depends) / "model.keras"
    return Case(
        "text-quick" if quick else "text",
        "bytes",
        (0.25,) if quick else (0.5, 0.25, 0.12, 0.06, 0.03),
        settings,
        depends,
        lambda: keras.models.load_model(trained, compile=False),
        lambda model, epochs: _fit(
            model, settings, x, y, epochs, settings.learning_rate / 5
        ),
        lambda model: share_right(model, x_val, y_val),
        x[:1024],
    )


def _reviews(settings: TextSettings) -> tuple[np.ndarray, ...]:
    """Numbers of words, the most frequent first; 0 fills, 1 stands for the rest."""
    texts, labels = loaders().movie_reviews()
    order = np.random.default_rng(0).permutation(len(texts))[: settings.sentences]
    words = [re.findall(r"[\w']+", texts[i]) for i in order]
    last = len(words) * 4 // 5
    counts = Counter(word for sentence in words[:last] for word in sentence)
    common = [word for word, _ in counts.most_common(settings.words - 2)]
    number = {word: index + 2 for index, word in enumerate(common)}
    x = np.zeros((len(words), settings.length), "int32")
    for row, sentence in zip(x, words, strict=True):
        known = [number.get(word, 1) for word in sentence[: settings.length]]
        row[: len(known)] = known
    y = labels[order]
    return x[:last], y[:last], x[last:], y[last:]


def _classifier(settings: TextSettings) -> Any:
    import keras

    layers, width = keras.layers, settings.width
    words = keras.Input((settings.length,), dtype="int32")
    x = layers.Embedding(settings.words, width, mask_zero=True, name="table")(words)
    x = layers.Dense(width, activation="relu", name="mix")(layers.Dropout(0.5)(x))
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling1D()(x))
    x = layers.Dense(width, activation="relu", name="hidden")(x)
    return keras.Model(words, layers.Dense(2, activation="softmax", name="head")(x))


def _fit(
    model: Any, settings: TextSettings, x: Any, y: Any, epochs: int, rate: float
) -> None:
    import keras

    loss = "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.Adam(rate), loss)
    model.fit(x, y, batch_size=settings.batch, epochs=epochs, verbose=0)
