"""Copies of attached models and models made of their parts."""

import copy

import keras
import numpy as np
import pytest
from keras import layers

import kacc
from kacc.core import attach
from kacc.quantization import calibrate, unseen_ranges
from kacc.quantization.transform import quantize_of
from tests.core import models
from tests.core.test_saving import assert_same, ranges_of


@pytest.mark.sampled(3)
@pytest.mark.parametrize("build", models.MODELS, ids=lambda b: b.__name__)
def test_deep_copies(build, trained):
    case = trained(build)
    model = copy.deepcopy(case.model)
    assert_same(model, case)
    assert not {id(v) for v in model.variables} & {id(v) for v in case.model.variables}


@pytest.mark.parametrize("build", models.GRAPHS, ids=lambda b: b.__name__)
def test_clones_are_quantized_with_weights_of_their_own(build, trained):
    case = trained(build)
    clone = keras.models.clone_model(case.model)
    layers_of = [o for o in attach.attached(case.model) if isinstance(o, keras.Layer)]
    assert len(list(attach.attached(clone))) == len(layers_of)
    # A clone knows its layers; what belongs to the model, `quantize` adds.
    kacc.quantize(clone)
    ours = {id(v) for v in case.model.variables}
    assert not ours & {id(v) for v in clone.variables}
    clone.set_weights(case.model.get_weights())
    assert_same(clone, case)


def test_a_sub_model_ends_on_the_grid_of_its_layer(trained):
    case = trained(models.functional)
    stem = case.model.get_layer("stem")
    part = keras.Model(case.model.inputs, stem.output)
    values = part.predict(case.x, verbose=0)
    low, high = quantize_of(stem).ends("output")
    steps = values / ((high - low) / 255)
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
    assert len(np.unique(np.rint(steps))) > 20


def test_an_inner_model_runs_by_itself(trained):
    case = trained(models.nested)
    body = case.model.get_layer("body")
    values = body.predict(case.x, verbose=0)
    low, high = quantize_of(body.get_layer("block").get_layer("add")).ends("output")
    steps = values / ((high - low) / 255)
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)


@pytest.mark.parametrize("build", [models.sequential, models.operators])
def test_a_quantized_model_serves_as_a_layer_of_another(build, trained, tmp_path):
    """A trained backbone with a new head."""
    inner = keras.models.load_model(trained(build).path)
    outer = keras.Sequential(
        [keras.Input(models.SHAPE), inner, layers.Dense(2, name="top")], name="outer"
    )
    kacc.quantize(outer)
    assert unseen_ranges(outer) == ["top:output"]
    x = models.images()
    calibrate(outer, [x])
    want = models.outputs(outer, x)[0]
    path = tmp_path / "outer.keras"
    outer.save(path)
    loaded = keras.models.load_model(path)
    np.testing.assert_array_equal(models.outputs(loaded, x)[0], want)
    assert ranges_of(loaded) == ranges_of(outer)


def test_a_layer_shared_by_two_models_keeps_its_ranges(trained):
    case = trained(models.sequential)
    model = keras.models.load_model(case.path)
    conv = model.get_layer("conv")
    other = keras.Sequential([keras.Input(models.SHAPE), conv, layers.Flatten()])
    assert attach.is_attached(other)
    before = quantize_of(conv).ends("input_0")
    kacc.quantize(other)
    assert quantize_of(conv).ends("input_0") == before
