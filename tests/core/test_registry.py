"""Finding the row of a layer, and saying why there is none."""

import keras
import pytest
from keras import layers

import kacc
import kacc.support
from kacc.core import registry
from kacc.core.errors import UsageError


class Renamed(layers.Conv2D):
    """A subclass that computes nothing of its own."""


class Doubling(layers.Dense):
    def call(self, inputs):
        return 2 * super().call(inputs)


class Further(Doubling):
    """Not itself, but its parent overrides `call`."""


class Fused(layers.Dense):
    kacc_equivalent = True

    def call(self, inputs):
        return super().call(inputs)


def test_rows_are_found_along_the_mro():
    assert registry.find(layers.Conv2D(2, 3)).type is layers.Conv2D
    assert registry.find(Renamed(2, 3)).type is layers.Conv2D
    assert registry.find(layers.Layer()) is None
    assert registry.unsupported_reason(Renamed(2, 3)) is None


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (layers.Layer(), "Layer is not in kacc's registry"),
        (layers.LSTM(2), "recurrent layers are not quantized yet"),
        (Doubling(2), "its class Doubling overrides `call` of Dense"),
        (Further(2), "its class Doubling overrides `call` of Dense"),
        (layers.Dense(2, activation="glu"), "its activation glu is not supported"),
        (layers.ReLU(threshold=1.0), "a relu with a threshold is not supported"),
        (layers.Softmax(axis=1), "last axis only"),
        (
            layers.MaxPooling2D(data_format="channels_first"),
            "data_format must be channels_last",
        ),
    ],
)
def test_reasons(layer, reason):
    assert reason in registry.unsupported_reason(layer)


def test_a_class_may_say_that_it_computes_the_same():
    assert registry.unsupported_reason(Fused(2)) is None


def test_rows_from_outside():
    class Outside(layers.Dense):
        def call(self, inputs):
            return super().call(inputs)

    assert "overrides" in registry.unsupported_reason(Outside(2))
    kacc.register_layer(
        kacc.LayerSpec(Outside, weights=(kacc.Weight("kernel"),), bias="bias")
    )
    try:
        assert registry.unsupported_reason(Outside(2)) is None
        model = keras.Sequential([keras.Input((3,)), Outside(2, name="outside")])
        kacc.quantize(model)
        from kacc.quantization import unseen_ranges

        assert unseen_ranges(model) == ["outside:input_0", "outside:output"]
    finally:
        del registry._SPECS[Outside]


def test_what_is_no_row():
    with pytest.raises(UsageError, match=r"must be a kacc\.LayerSpec.*Dense"):
        kacc.register_layer(layers.Dense)
