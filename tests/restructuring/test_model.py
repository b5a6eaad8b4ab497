"""kacc.restructure on models of every kind: plain, saved, quantized, reported."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from rich.console import Console

import kacc
from kacc.core.cost import cost
from kacc.restructuring import (
    CheaperActivations,
    FoldNormalization,
    GlobalPoolingHead,
    InsertBatchNormalization,
    RoundChannels,
    SeparableConvolutions,
    Width,
    plan,
)
from tests.core import models as small
from tests.restructuring import models

OPTIONS = [
    SeparableConvolutions(),
    SeparableConvolutions(2, as_one_layer=True, only_if_smaller=False),
    CheaperActivations({"linear": "linear"}),
    RoundChannels(8),
    Width(0.5, round_to=2),
    Width(1.5, round_to=2, weights="leading"),
    GlobalPoolingHead(),
    FoldNormalization(),
    InsertBatchNormalization(),
]
EQUAL = (RoundChannels, FoldNormalization, InsertBatchNormalization)


def _name(option):
    return type(option).__name__


@pytest.mark.sampled(5)
@pytest.mark.parametrize("make", small.MODELS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("option", OPTIONS, ids=_name)
def test_every_kind_of_model_is_changed_saved_and_loaded(make, option, tmp_path):
    model = make()
    x = small.inputs_for(model)
    before, wanted = small.variables(model), small.outputs(model, x)
    new = kacc.restructure(model, option)
    assert new is not model
    if isinstance(option, EQUAL):
        models.require_equal(model, new, x)
    new.save(tmp_path / "new.keras")
    loaded = keras.models.load_model(tmp_path / "new.keras")
    for one, other in zip(small.outputs(new, x), small.outputs(loaded, x), strict=True):
        np.testing.assert_array_equal(other, one)
    after = small.variables(model)
    assert before.keys() == after.keys()
    assert all((before[path] == after[path]).all() for path in before)
    for one, other in zip(wanted, small.outputs(model, x), strict=True):
        np.testing.assert_array_equal(other, one)


@pytest.mark.parametrize("option", OPTIONS, ids=_name)
def test_no_weight_is_shared_with_the_old_model(option):
    model = models.convolutional()
    new = kacc.restructure(model, option)
    assert not {id(v) for v in model.variables} & {id(v) for v in new.variables}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("option", OPTIONS, ids=_name)
def test_the_result_trains_quantizes_and_converts(option, tmp_path):
    """Quantization-aware training, and a file equal to the model to the bit."""
    model = kacc.restructure(models.convolutional(), option)
    x, y = models.images(32), np.arange(32) % 5
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))
    qat = kacc.callbacks.QuantizationAwareTraining("int8")
    model.fit(x, y, verbose=0, callbacks=[qat])
    file = kacc.convert(model, tmp_path / "a.tflite", "tflite-int8")
    assert kacc.parity(model, file, x).equal == 1.0


def test_options_follow_one_another_and_are_reported():
    model = models.convolutional()
    found = plan(
        model,
        ["fold_normalization", "separable_convolutions", RoundChannels(8)],
        calibration=models.images(),
    )
    new = found.build()
    assert found.macs == (cost(model).macs, cost(new).macs)
    assert found.params == (cost(model).params, cost(new).params)
    rows = {(row.option, row.path): row for row in found.layers}
    assert rows["FoldNormalization", "stem_norm"].done == "folded into stem"
    row = rows["SeparableConvolutions", "conv"]
    assert row.macs == (64 * 9 * 144, 64 * (9 * 12 + 144))
    assert row.params == (9 * 144 + 12, 9 * 12 + 144 + 12)
    assert rows["RoundChannels", "conv"].done == "channels 12 -> 16"
    # Sums of the rows are the whole: no layer is counted twice or left out.
    for name, (before, after) in (("macs", found.macs), ("params", found.params)):
        pairs = [getattr(row, name) for row in found.layers]
        assert after - before == sum(b - a for a, b in pairs)


def test_the_report_names_what_was_left_alone_as_text_and_as_a_table():
    found = plan(models.convolutional(), "cheaper_activations", rules=[])
    text = str(found)
    assert "CheaperActivations, conv: tanh -> hard_tanh" in text
    console = Console(width=150, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(found)
    shown = console.export_text()
    assert "tanh -> hard_tanh" in shown
    rule = kacc.Rule("conv", skip=True)
    found = plan(models.convolutional(), "cheaper_activations", rules=[rule])
    assert "CheaperActivations, conv: left alone, a rule skips it (tanh)" in str(found)


@pytest.mark.parametrize("option", OPTIONS, ids=_name)
def test_a_rule_leaves_everything_as_it_is(option):
    model = models.convolutional()
    found = plan(model, option, rules=[kacc.Rule(".*", skip=True)])
    new = found.build()
    assert new is not model
    assert not any(row.done for row in found.layers)
    assert [v.shape for v in new.variables] == [v.shape for v in model.variables]
    if getattr(option, "weights", "") != "fresh":
        models.require_equal(model, new, models.images(), 0)


def test_a_rule_may_be_about_a_layer_that_an_earlier_option_takes_away():
    rule = kacc.Rule("stem.*", skip=False)
    new = kacc.restructure(
        models.convolutional(), ["fold_normalization", RoundChannels(8)], rules=[rule]
    )
    assert "stem_norm" not in {layer.name for layer in new.layers}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "must say what to do"),
        (None, "must say what to do"),
        ("width", "one of the names"),
        ([Width], "one of the names"),
        ([3], "one of the names"),
    ],
)
def test_wrong_options_are_refused(options, words):
    with pytest.raises(kacc.UsageError, match=words):
        kacc.restructure(models.convolutional(), options)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SeparableConvolutions(0), "whole number, at least 1.*0"),
        (lambda: SeparableConvolutions(True), "whole number, at least 1.*True"),
        (lambda: SeparableConvolutions(energy=1.5), "share to keep.*1.5"),
        (lambda: SeparableConvolutions(as_one_layer=1), "True or False"),
        (lambda: SeparableConvolutions(only_if_smaller="no"), "True or False"),
        (lambda: CheaperActivations({"gelo": "relu"}), "names that Keras knows.*gelo"),
        (lambda: CheaperActivations({"gelu": None}), "names that Keras knows.*None"),
        (lambda: CheaperActivations("gelu"), "maps names"),
        (lambda: RoundChannels(0), "whole number, at least 1"),
        (lambda: RoundChannels(8.0), "whole number, at least 1"),
        (lambda: Width(0), "above 0"),
        (lambda: Width("half"), "above 0"),
        (lambda: Width(float("inf")), "above 0"),
        (lambda: Width(0.5, round_to=0), "whole number, at least 1"),
        (lambda: Width(0.5, weights="random"), "'fresh' or 'leading'"),
        (lambda: InsertBatchNormalization(momentum=1.0), "momentum"),
        (lambda: InsertBatchNormalization(epsilon=0.0), "epsilon"),
    ],
)
def test_wrong_configs_are_refused_with_one_line(make, words):
    with pytest.raises(kacc.UsageError, match=words) as error:
        make()
    assert "\n" not in str(error.value)


def test_whole_numbers_are_numbers():
    assert InsertBatchNormalization(momentum=0, epsilon=1).epsilon == 1


def test_wrong_models_rules_and_samples_are_refused():
    with pytest.raises(kacc.UsageError, match="must be built"):
        kacc.restructure(keras.Sequential([layers.Dense(2)]), "round_channels")
    with pytest.raises(kacc.UsageError, match="A rule must match"):
        kacc.restructure(
            models.convolutional(),
            "round_channels",
            rules=[kacc.Rule("none", skip=True)],
        )
    with pytest.raises(kacc.UsageError, match=r"must be kacc\.Rule"):
        kacc.restructure(models.convolutional(), "round_channels", rules=["stem"])
    with pytest.raises(kacc.UsageError, match="must hold samples"):
        kacc.restructure(
            models.convolutional(),
            "separable_convolutions",
            calibration=np.zeros((0, *models.SHAPE)),
        )
    with pytest.raises(kacc.UsageError, match="`calibration` must fit the inputs"):
        kacc.restructure(
            models.convolutional(),
            "separable_convolutions",
            calibration=np.zeros((4, 9, *models.SHAPE[1:])),
        )
    with pytest.raises(kacc.UsageError, match="finite numbers"):  # not weights of NaN
        kacc.restructure(
            models.convolutional(),
            "separable_convolutions",
            calibration=np.full((4, *models.SHAPE), np.nan),
        )


def test_a_model_with_transforms_is_asked_to_be_stripped():
    model = kacc.quantize(models.convolutional())
    with pytest.raises(kacc.UsageError, match=r"kacc\.strip"):
        kacc.restructure(model, "round_channels")


def test_accelerated_models_are_taken():
    model = kacc.accelerate(models.convolutional())
    new = kacc.restructure(model, "fold_normalization")
    models.require_equal(model, new, models.images())
    assert "stem_norm" not in {layer.name for layer in new.layers}


def test_mixed_precision_and_frozen_layers_stay():
    image = keras.Input((8, 8, 4))
    conv = layers.Conv2D(8, 3, dtype="mixed_bfloat16", activation="gelu", name="conv")
    x = layers.GlobalAveragePooling2D()(conv(image))
    model = keras.Model(image, layers.Dense(2, name="head")(x))
    conv.trainable = False
    for options in (
        "separable_convolutions",
        "cheaper_activations",
        "insert_batch_normalization",
    ):
        new = kacc.restructure(model, options)
        made = [layer for layer in new.layers if layer.name.startswith("conv")]
        assert made
        assert {layer.dtype_policy.name for layer in made} == {"mixed_bfloat16"}
        assert not any(layer.trainable_variables for layer in made)
        assert new.get_layer("head").trainable


def test_names_of_new_layers_are_free_ones():
    image = keras.Input((8, 8, 4))
    x = layers.Conv2D(8, 3, name="conv_depthwise")(image)
    x = layers.Conv2D(8, 3, name="conv")(x)
    new = kacc.restructure(keras.Model(image, x), "separable_convolutions")
    names = [layer.name for layer in new.layers]
    assert len(set(names)) == len(names)
    assert "conv_depthwise_2" in names


def test_layers_of_models_that_share_are_changed_once():
    inner = keras.Sequential(
        [keras.Input((6, 6, 4)), layers.Conv2D(4, 3, padding="same", name="conv")]
    )
    image = keras.Input((6, 6, 4))
    model = keras.Model(image, inner(ops.relu(inner(image))))
    found = plan(model, "separable_convolutions")
    (row,) = found.layers
    assert row.macs == (2 * 36 * 144, 2 * 36 * (36 + 16))
    assert len(found.build().weights) == 3
