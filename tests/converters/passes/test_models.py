"""Whole networks, and graphs drawn at random."""

import keras
import numpy as np
import pytest

from kacc.converters.passes import optimized
from kacc.converters.trace import freeze
from tests.conformance.random_graphs import grow, random_branches
from tests.converters.passes.graphs import count, run, same

APPLICATIONS = {
    "MobileNetV2": (96, {"alpha": 0.35}),
    "MobileNetV3Small": (64, {}),
    "EfficientNetB0": (64, {}),
    "NASNetMobile": (64, {}),
    "DenseNet121": (64, {}),
    "ResNet50V2": (64, {}),
    "ConvNeXtTiny": (64, {}),
    "Xception": (96, {}),
}
# What is left there: residuals, and of EfficientNet a summand before padding.
ADDITIONS = {"MobileNetV2": 10, "EfficientNetB0": 65 + 9}


ALTERING = ("Rand", "AugMix")


def calm(model):
    """Random weights that keep the values of a deep network within bounds."""
    rng = np.random.default_rng(3)
    for variable in run(model).weights:
        name = variable.path.rpartition("/")[2]
        if name in ("moving_mean", "beta", "bias"):
            variable.assign(rng.normal(size=variable.shape) * 0.2)
        elif name == "moving_variance":
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


@pytest.mark.parametrize(
    "name",
    [x if x == "MobileNetV2" else pytest.param(x, marks=pytest.mark.slow)
     for x in APPLICATIONS],
)  # fmt: skip
def test_networks_of_keras(name):
    size, options = APPLICATIONS[name]
    model = calm(
        getattr(keras.applications, name)(
            weights=None, input_shape=(size, size, 3), classes=10, **options
        )
    )
    source = freeze(model)
    # What comes before the softmax, which would hide differences.
    logits = next(n for n in source.graph_def.node if n.op == "Softmax").input[0]
    source = type(source)(**{**vars(source), "output_tensors": (f"{logits}:0",)})
    graph = optimized(source)
    x = np.random.default_rng(1).uniform(0, 255, (2, size, size, 3))
    same(source, graph, [(x / 128 - 1).astype("float32")])
    assert count(graph, "Identity", "Transpose", "Shape") == 0
    kinds = ("Conv2D", "DepthwiseConv2dNative", "MatMul")
    calls = count(source, "StatefulPartitionedCall")  # of grouped convolutions
    assert count(graph, *kinds) == count(source, *kinds) + calls
    if name in ADDITIONS:
        assert count(graph, "Mul", "AddV2", "Sub") == ADDITIONS[name]


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 8))]
)
def test_random_graphs(seed):
    graphs = [grow(branch) for branch in random_branches(seed, 12)]
    # Frozen layers that augment assign to their seeds, which no graph can hold.
    graphs = [
        grown
        for grown in graphs
        if grown.outputs and not any(kind.startswith(ALTERING) for kind in grown.kinds)
    ]
    inputs = [x for grown in graphs for x in grown.inputs]
    model = keras.Model(inputs, [y for grown in graphs for y in grown.outputs])
    source = freeze(model)
    rng = np.random.default_rng(seed)
    feeds = [
        rng.normal(size=(4, *x.shape[1:])).astype("float32") for x in source.inputs
    ]
    same(source, optimized(source), feeds)
