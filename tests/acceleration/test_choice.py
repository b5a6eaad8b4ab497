"""Optimizers compared on a model."""

import keras
import numpy as np
import pytest

import kacc
from kacc.acceleration import choose_optimizer
from kacc.core.errors import UsageError
from tests.acceleration.conftest import assert_same_state, fit, state

SGD = keras.optimizers.SGD


def test_the_faster_one_is_found_and_the_model_stays(make, data):
    # What that comes to is lower than batches differ by: standing still must not do.
    model = make(SGD(0.03))
    fit(model, data)
    known, optimizer = state(model), model.optimizer
    result = choose_optimizer(
        model, data, {"fast": SGD(0.3), "still": SGD(0.0)}, steps=40, batch_size=8
    )
    assert_same_state(state(model), known)
    assert model.optimizer is optimizer
    assert result.best == "fast"
    rows = {row.name: row for row in result.rows}
    assert set(rows) == {"as compiled", "fast", "still"}
    assert rows["still"].steps is None
    assert 2 * rows["fast"].steps <= rows["as compiled"].steps
    assert all(len(row.losses) == 40 for row in result.rows)
    assert rows["fast"].losses[0] == pytest.approx(rows["still"].losses[0])
    assert "fast" in str(result)
    result.apply(model)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.3)
    fit(model, data)


def test_a_loss_that_nothing_reaches(make, data):
    result = choose_optimizer(make(), data, [SGD(0.5), SGD(1e-5)], steps=12, loss=-1.0)
    assert all(row.time is None for row in result.rows)
    lowest = min(result.rows, key=lambda row: row.losses[-1])
    assert result.best == lowest.name


def test_an_optimizer_that_diverges_is_not_the_best(make, data):
    wild = {"wild": SGD(1e30)}
    result = choose_optimizer(make(SGD(1e-3), dropout=0.0), data, wild, steps=12)
    assert not np.isfinite(result.rows[1].losses[-1]) or result.best == "as compiled"


def test_of_a_quantized_model(make, data):
    model = kacc.quantize(make())
    known = state(model)
    choose_optimizer(model, data, {"other": SGD(0.1)}, steps=3)
    assert_same_state(state(model)[: len(known)], known)


@pytest.mark.parametrize("bad", [{}, ["adam"], {"x": 1}, [None]])
def test_candidates_must_be_optimizers(make, data, bad):
    with pytest.raises(UsageError, match="Keras optimizers"):
        choose_optimizer(make(), data, bad)


def test_losses_are_numbers(make, data):
    with pytest.raises(UsageError, match="`loss` must be a number"):
        choose_optimizer(make(), data, loss="low")
