"""Taking everything off again."""

import json

import keras
import numpy as np
import pytest

import kacc
from kacc.core import attach, recipe
from kacc.core.errors import UsageError
from tests.core import models


@pytest.mark.parametrize("build", models.MODELS, ids=lambda b: b.__name__)
class TestEveryKind:
    def test_what_is_left_is_the_plain_model(self, build, trained, tmp_path):
        case = trained(build)
        model = keras.models.load_model(case.path)
        weights = {v.path: v.numpy() for v in model.variables if "kacc" not in v.path}
        assert kacc.strip(model) is model
        assert not attach.is_attached(model)
        assert recipe.recipe_of(model) == {}
        for layer, plain in zip(
            model._flatten_layers(), build()._flatten_layers(), strict=True
        ):
            assert type(layer) is type(plain)
            assert "_kacc" not in " ".join(vars(layer))
        assert models.variables(model).keys() == weights.keys()
        for name, value in models.variables(model).items():
            np.testing.assert_array_equal(value, weights[name])

    def test_it_saves_as_the_plain_model(self, build, trained, tmp_path):
        case = trained(build)
        model = kacc.strip(keras.models.load_model(case.path))
        assert _config(model.to_json()) == _config(case.plain_json)
        path = tmp_path / "plain.keras"
        model.save(path)
        loaded = keras.models.load_model(path)
        assert not attach.is_attached(loaded)
        got, want = models.outputs(loaded, case.x), models.outputs(model, case.x)
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b)

    @pytest.mark.sampled(3)
    def test_it_trains_again(self, build, trained):
        case = trained(build)
        model = kacc.strip(keras.models.load_model(case.path))
        model.compile("sgd", "mse", jit_compile=False)
        y = models.targets_for(model)
        before = model.evaluate(case.x, y, verbose=0)
        model.fit(case.x, y, epochs=2, batch_size=4, verbose=0)
        assert model.evaluate(case.x, y, verbose=0) < before
        kacc.quantize(model)
        assert attach.is_attached(model)


def _config(text):
    """A model's JSON as a value, without what `compile` adds to it."""
    config = json.loads(text)
    config.pop("compile_config", None)
    return config


def test_stripping_a_plain_model_does_nothing():
    model = models.small()
    before = model.to_json()
    assert kacc.strip(model) is model
    assert model.to_json() == before


def test_stripping_what_is_no_model():
    with pytest.raises(UsageError, match="Keras 3 models"):
        kacc.strip("model")
