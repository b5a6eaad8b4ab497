"""Weights that other layers read, where a model is made again."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kacc
from kacc.core.graph import trace
from kacc.core.remake import tied
from tests.core.models import Tied

WORDS = np.array([[1, 2, 3, 4], [4, 3, 2, 0]])


def model(turned=True):
    keras.utils.set_random_seed(0)
    made = Tied(12, turned)
    made(WORDS)
    return made


@pytest.mark.parametrize("turned", [True, False])
def test_tied_weights_are_found(turned):
    one = model(turned)
    ((path, variable),) = tied(trace(one)).values()
    assert variable is one.table.embeddings
    assert path.startswith("matmul" if turned else "einsum")


def test_constants_and_plain_models_are_not_tied():
    inputs = keras.Input((6,))
    x = ops.matmul(layers.Dense(6)(inputs), np.eye(6, dtype="float32"))
    assert not tied(trace(keras.Model(inputs, x)))


@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("change", ["factorize", "restructure", "ensemble"])
def test_the_new_model_has_a_constant_and_says_so(change, turned):
    old = model(turned)
    before = old.predict(WORDS, verbose=0)
    make = {
        "factorize": lambda: kacc.factorize(old, ranks=1.0),
        "restructure": lambda: kacc.restructure(old, "cheaper_activations"),
        "ensemble": lambda: kacc.ensemble([old, old]),
    }[change]
    with pytest.warns(UserWarning, match=r"reads .*table.*that is a constant"):
        new = make()
    np.testing.assert_allclose(new.predict(WORDS, verbose=0), before, atol=1e-6)
    old.table.embeddings.assign(old.table.embeddings * 2)  # of no concern to the new
    np.testing.assert_allclose(new.predict(WORDS, verbose=0), before, atol=1e-6)


def test_a_table_that_is_read_elsewhere_is_not_factored():
    found = kacc.factorization.plan(model(), ranks=2)
    reasons = {row.path: row.reason for row in found.layers}
    assert "reads its weights as well" in reasons["table"]
    assert not reasons["dense"]
