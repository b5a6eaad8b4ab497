"""Models made again in which masks go from layer to layer."""

import keras
import numpy as np
import pytest
from keras import layers

import kacc

WORDS = np.array([[3, 5, 0, 0], [1, 2, 4, 0]])


def text(kind):
    keras.utils.set_random_seed(0)
    words = keras.Input((4,))
    table = layers.Embedding(9, 6, mask_zero=True, name="table")
    rest = [layers.Dense(6, name="dense"), layers.GlobalAveragePooling1D()]
    if kind == "sequential":
        return keras.Sequential([words, table, *rest])
    if kind == "nested":
        return keras.Sequential(
            [words, keras.Sequential([keras.Input((4,)), table, *rest], name="inner")]
        )
    inner = keras.Sequential([keras.Input((4,)), table], name="inner")
    return keras.Sequential([words, inner, *rest])


@pytest.mark.parametrize("kind", ["sequential", "nested", "embedding nested"])
@pytest.mark.parametrize(
    "change",
    [
        lambda model: kacc.factorize(model, ranks=1.0),
        lambda model: kacc.restructure(model, "round_channels"),
    ],
    ids=["factorize", "restructure"],
)
def test_sequential_models_compute_their_masks(kind, change):
    """The operators that make masks are on the graph, but are no layers to be added."""
    old = text(kind)
    new = change(old)
    assert isinstance(new, keras.Sequential)
    np.testing.assert_allclose(
        new.predict(WORDS, verbose=0), old.predict(WORDS, verbose=0), atol=1e-5
    )
