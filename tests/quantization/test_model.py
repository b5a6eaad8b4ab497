"""`kacc.quantize` on models that are wrong or partly unsupported; calibration."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers

import kacc
from kacc.core import attach
from kacc.core.errors import UsageError
from kacc.quantization import calibrate, scheme_of, unseen_ranges
from kacc.quantization.functional import fake_quantize_weight
from kacc.quantization.transform import quantize_of

X = np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype("float32")


class Doubling(layers.Conv2D):
    def call(self, inputs):
        return 2 * super().call(inputs)


def model_with(layer, **options):
    """A convolution, a layer, and a head; and what was reported of it."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, name="conv"),
            layer,
            layers.Flatten(name="flat"),
            layers.Dense(2, name="head"),
        ],
        name="model",
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kacc.quantize(model, **options)
    return model, [str(w.message) for w in caught if "kacc" in str(w.message)]


class TestReports:
    @pytest.mark.parametrize(
        ("layer", "reason"),
        [
            (
                layers.GroupNormalization(1, name="odd"),
                "odd (its statistics go over groups of channels, "
                "which takes five dimensions)",
            ),
            (
                Doubling(4, 1, name="odd"),
                "odd (its class Doubling overrides `call` of Conv2D)",
            ),
            (
                layers.Conv2D(4, 1, activation="log_softmax", name="odd"),
                "odd (its activation log_softmax is not supported)",
            ),
            (
                layers.BatchNormalization(axis=1, name="odd"),
                "odd (only normalization of the last axis folds)",
            ),
            (
                layers.Softmax(axis=1, name="odd"),
                "odd (softmax runs over the last axis only)",
            ),
        ],
    )
    def test_what_is_not_supported_is_reported_once_and_left_in_float(
        self, layer, reason
    ):
        model, reports = model_with(layer)
        assert reports == [f"kacc leaves in float: {reason}"]
        assert quantize_of(model.get_layer("odd")) is None
        assert not attach.transforms_of(model.get_layer("odd"))
        assert quantize_of(model.get_layer("conv")) is not None
        # What comes after it quantizes what it reads.
        assert "flat:input_0" in unseen_ranges(model)

    def test_layers_in_float_compute_as_before(self):
        model, _ = model_with(layers.LayerNormalization(name="odd"))
        calibrate(model, [X])
        odd = model.get_layer("odd")
        conv = attach.base_class(model.get_layer("conv"))
        seen = model(X[:4], training=False)
        want = conv.call(model.get_layer("conv"), X[:4])
        want = (
            model.get_layer("head").kernel.value.numpy().T
            @ np.reshape(odd(want), (4, -1)).T
        )
        assert np.abs(np.asarray(seen).T - want).max() < 0.1 * np.abs(want).max()

    def test_several_are_in_one_report(self):
        block = keras.Sequential(
            [
                layers.GroupNormalization(1, name="a"),
                layers.UnitNormalization(name="b"),
            ],
            name="block",
        )
        _, reports = model_with(block)
        (report,) = reports
        assert "block/a (its statistics go over groups" in report
        assert "block/b (a square root of a sum of squares" in report

    def test_a_second_fit_reports_again_and_no_epoch_does(self):
        model, _ = model_with(layers.ReLU(name="relu"))
        model.compile("sgd", "mse", run_eagerly=True)
        qat = kacc.callbacks.QuantizationAwareTraining(
            start_epoch=1, freeze_epoch=2, rules=[kacc.Rule("head", skip=True)]
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.fit(X, np.ones((32, 2)), epochs=3, verbose=0, callbacks=[qat])
        reports = [w for w in caught if "kacc leaves" in str(w.message)]
        assert len(reports) == 1

    def test_what_is_supported_is_not_reported(self):
        _, reports = model_with(layers.BatchNormalization(name="bn"))
        assert reports == []


class TestRules:
    def test_the_last_rule_wins(self):
        rules = [kacc.Rule("conv|head", skip=True), kacc.Rule("head", skip=False)]
        model, reports = model_with(layers.ReLU(name="relu"), rules=rules)
        assert reports == ["kacc leaves in float: conv (a rule skips it)"]
        assert quantize_of(model.get_layer("conv")) is None
        assert quantize_of(model.get_layer("head")) is not None

    def test_a_later_rule_takes_quantization_off_again(self):
        model, _ = model_with(layers.ReLU(name="relu"))
        calibrate(model, [X])
        with pytest.warns(UserWarning, match=r"head \(a rule skips it\)"):
            kacc.quantize(model, rules=[kacc.Rule("head", skip=True)])
        assert quantize_of(model.get_layer("head")) is None
        assert type(model.get_layer("head")) is layers.Dense
        assert unseen_ranges(model) == []
        kacc.quantize(model)
        assert unseen_ranges(model) == ["head:output"]

    def test_a_rule_that_matches_nothing_leaves_the_model_as_it_was(self):
        with pytest.raises(UsageError, match=r"must match a layer.*'heads'.*The path"):
            model_with(layers.ReLU(), rules=[kacc.Rule("heads", skip=True)])
        model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
        before = [type(layer) for layer in model.layers]
        with pytest.raises(UsageError):
            kacc.quantize(model, rules=[kacc.Rule("nothing")])
        assert [type(layer) for layer in model.layers] == before
        assert scheme_of(model) is None

    def test_what_is_no_rule(self):
        with pytest.raises(UsageError, match=r"must be kacc\.Rule objects.*'head'"):
            model_with(layers.ReLU(), rules=["head"])

    def test_rules_may_name_operators(self):
        x = keras.Input((4,))
        y = layers.Dense(4, name="dense")(x)
        y = y + x
        path = y._keras_history.operation.name
        model = keras.Model(x, layers.Dense(2, name="head")(y))
        with pytest.warns(UserWarning, match=f"{path} .a rule skips it"):
            kacc.quantize(model, rules=[kacc.Rule(path, skip=True)])
        assert "head:input_0" in unseen_ranges(model)


class TestWrongModels:
    def test_unbuilt(self):
        with pytest.raises(UsageError) as error:
            kacc.quantize(keras.Sequential([layers.Dense(2)], name="m"))
        assert str(error.value) == (
            "The model must be built, so that its shapes are known. "
            "Received: \"the unbuilt model 'm'\". "
            "Call it once on a batch, or give it a keras.Input."
        )

    def test_of_legacy_keras(self):
        tf_keras = pytest.importorskip("tf_keras")
        model = tf_keras.Sequential([tf_keras.layers.Dense(2, input_shape=(3,))])
        with pytest.raises(UsageError, match=r"Keras 3 models.*kacc\.from_tf_keras"):
            kacc.quantize(model)

    @pytest.mark.parametrize("thing", [None, "model.keras", layers.Dense(2)])
    def test_no_model_at_all(self, thing):
        with pytest.raises(UsageError, match="kacc works on Keras 3 models"):
            kacc.quantize(thing)

    def test_without_a_layer_to_quantize(self):
        model = keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten()])
        with pytest.raises(
            UsageError, match="must have a layer that kacc can quantize"
        ):
            kacc.quantize(model)

    @pytest.mark.parametrize("scheme", ["int9", "", None, 8])
    def test_unknown_schemes(self, scheme):
        model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
        with pytest.raises(UsageError, match="`scheme` must be one of int8"):
            kacc.quantize(model, scheme)
        assert scheme_of(model) is None

    def test_every_error_is_one_line(self):
        for call in (
            lambda: kacc.quantize(keras.Sequential([layers.Dense(2)])),
            lambda: kacc.quantize("model"),
            lambda: kacc.Rule("("),
            lambda: kacc.callbacks.QuantizationAwareTraining(start_epoch=-1),
        ):
            with pytest.raises(UsageError) as error:
                call()
            assert "\n" not in str(error.value)
            assert error.value.exit_code == 2

    def test_wrappers_of_unsupported_layers(self):
        with pytest.raises(UsageError, match="must be of a type that kacc supports"):
            kacc.layers.QuantizeWrapper(layers.LSTM(2))
        with pytest.raises(UsageError, match="`scheme` must be"):
            kacc.layers.QuantizeWrapper(layers.Dense(2), "int9")

    def test_simulating_too_early(self):
        model = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="head")])
        with pytest.raises(UsageError, match="Only a quantized model"):
            kacc.simulate(model)
        kacc.quantize(model)
        with pytest.raises(UsageError, match=r"must have been seen.*head:input_0"):
            kacc.simulate(model)


class TestCalibration:
    def model(self):
        model = keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                layers.Conv2D(4, 3, activation="relu", name="conv"),
                layers.Dropout(0.5, name="drop"),
                layers.Flatten(name="flat"),
                layers.Dense(2, name="head"),
            ]
        )
        return kacc.quantize(model)

    def test_unseen_ranges_are_listed_by_path(self):
        model = self.model()
        assert unseen_ranges(model) == [
            "conv:input_0",
            "conv:output",
            "head:output",
        ]
        calibrate(model, [X])
        assert unseen_ranges(model) == []

    def test_ranges_hold_all_batches(self):
        model = self.model()
        conv, head = model.get_layer("conv"), model.get_layer("head")
        x = np.concatenate([X[:16], 3 * X[16:]])
        calibrate(model, [x[:16], x[16:]])
        kernels = [fake_quantize_weight(v.kernel.value, (-1,)) for v in (conv, head)]
        y = np.maximum(keras.ops.conv(x, kernels[0]) + conv.bias.value, 0)
        z = y.reshape(len(x), -1) @ kernels[1].numpy() + head.bias.numpy()
        for layer, name, ends in (
            (conv, "input_0_range", [x.min(), x.max()]),
            (conv, "output_range", [0.0, y.max()]),
            (head, "output_range", [z.min(), z.max()]),
        ):
            (found,) = (v.numpy() for v in layer.variables if v.name == name)
            np.testing.assert_allclose(found, ends, rtol=1e-5)

    def test_only_unseen_ranges_are_filled(self):
        model = self.model()
        calibrate(model, [X])
        conv, head = (quantize_of(model.get_layer(n)) for n in ("conv", "head"))
        before = head.ends("output")
        seen = [conv.ends(name) for name in conv.ranges]
        own = model.get_layer("head").variables
        (unseen,) = (v for v in own if v.name == "output_range")
        unseen.assign([0.0, 0.0])  # as it was made
        assert unseen_ranges(model) == ["head:output"]
        calibrate(model, [5 * X])
        assert unseen_ranges(model) == []
        assert seen == [conv.ends(name) for name in conv.ranges]
        assert head.ends("output")[1] > 3 * before[1]

    def test_calibration_leaves_training_and_weights_alone(self):
        model = self.model()
        model.compile("sgd", "mse", run_eagerly=True)
        weights = [v.numpy() for v in model.trainable_variables]
        calibrate(model, [X])
        for before, now in zip(weights, model.trainable_variables, strict=True):
            np.testing.assert_array_equal(before, now)
        for layer in model.layers:
            if quantize_of(layer) is not None:
                assert quantize_of(layer).observed == {}
        model.fit(X, np.ones((32, 2)), verbose=0)
        assert scheme_of(model) == "int8"

    def test_calibrating_before_quantization_has_started(self):
        model = self.model()
        for layer in model.layers:
            if quantize_of(layer) is not None:
                quantize_of(layer).enabled = False
        calibrate(model, [X])
        assert unseen_ranges(model) == []
        assert not quantize_of(model.get_layer("conv")).enabled
