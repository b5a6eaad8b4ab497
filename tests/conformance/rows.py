"""A small model for each row of the registry."""

from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from kacc.core.registry import LayerSpec, registered
from kacc.support import floats

IMAGE = (6, 6, 3)


def _constant(shape=(3,)):
    return np.random.default_rng(8).normal(size=shape).astype("float32")


def _by_constant(x):
    return ops.divide(x, 1.5 + np.abs(_constant()))


# Operators have no example of their own: they come of functions on KerasTensors.
# Each entry: the shapes of the inputs, and what is computed of them.
OPERATORS = {
    "Add": [
        ([IMAGE, IMAGE], lambda x, y: x + y),
        ([IMAGE], lambda x: x + 0.7),
        ([IMAGE], lambda x: -0.3 + x),
        ([IMAGE], lambda x: x + _constant()),
    ],
    "Subtract": [
        ([IMAGE, IMAGE], lambda x, y: x - y),
        ([IMAGE], lambda x: x - 0.7),
        ([IMAGE], lambda x: 1.0 - x),
    ],
    "Multiply": [
        ([IMAGE, IMAGE], lambda x, y: x * y),
        ([IMAGE], lambda x: x * 0.7),
        ([IMAGE], lambda x: -2.0 * x),
        ([IMAGE], lambda x: x * _constant()),
    ],
    "Concatenate": [([IMAGE, IMAGE], lambda x, y: ops.concatenate([x, y], axis=-1))],
    "Reshape": [([IMAGE], lambda x: ops.reshape(x, (-1, 36, 3)))],
    "Ravel": [([(4,)], lambda x: ops.reshape(ops.ravel(x), (-1, 4)))],
    "Transpose": [([(6, 4, 3)], lambda x: ops.transpose(x, (0, 2, 1, 3)))],
    "Relu": [([IMAGE], ops.relu)],
    "Relu6": [([IMAGE], ops.relu6)],
    "LeakyRelu": [([IMAGE], ops.leaky_relu)],
    "Sigmoid": [([IMAGE], ops.sigmoid)],
    "Tanh": [([IMAGE], ops.tanh)],
    "Silu": [([IMAGE], ops.silu)],
    "HardSilu": [([IMAGE], ops.hard_silu)],
    "Gelu": [
        ([IMAGE], lambda x: ops.gelu(x, approximate=False)),
        ([IMAGE], ops.gelu),
    ],
    "Elu": [([IMAGE], ops.elu), ([IMAGE], lambda x: ops.elu(x, 0.5))],
    "Selu": [([IMAGE], ops.selu)],
    "Clip": [([IMAGE], lambda x: ops.clip(x, -0.5, 1.0))],
    "Exp": [([IMAGE], ops.exp)],
    "Absolute": [([IMAGE], ops.absolute)],
    "HardSigmoid": [([IMAGE], ops.hard_sigmoid)],
    "HardTanh": [([IMAGE], ops.hard_tanh)],
    "Softplus": [([IMAGE], ops.softplus)],
    "Softsign": [([IMAGE], ops.softsign)],
    "Softmax": [([(7,)], ops.softmax)],
    "Celu": [([IMAGE], ops.celu), ([IMAGE], lambda x: ops.celu(x, 0.4))],
    "Squareplus": [
        ([IMAGE], ops.squareplus),
        ([IMAGE], lambda x: ops.squareplus(x, 1)),
    ],
    "SoftShrink": [([IMAGE], ops.soft_shrink)],
    "TanhShrink": [([IMAGE], ops.tanh_shrink)],
    "LogSigmoid": [([IMAGE], ops.log_sigmoid)],
    "SparsePlus": [([IMAGE], ops.sparse_plus)],
    "Maximum": [
        ([IMAGE, IMAGE], ops.maximum),
        ([IMAGE], lambda x: ops.maximum(x, -0.3)),
        ([IMAGE], lambda x: ops.maximum(x, _constant())),
    ],
    "Minimum": [
        ([IMAGE, IMAGE], ops.minimum),
        ([IMAGE], lambda x: ops.minimum(x, 0.3)),
    ],
    "Stack": [([IMAGE, IMAGE], lambda x, y: ops.stack([x, y], axis=1))],
    "Divide": [([IMAGE], lambda x: ops.divide(x, 3)), ([IMAGE], _by_constant)],
    "TrueDivide": [([IMAGE], lambda x: x / 0.7)],
    "Negative": [([IMAGE], lambda x: -x)],
    "Square": [([IMAGE], ops.square)],
    "Power": [([IMAGE], lambda x: x**2)],
    "Sqrt": [([IMAGE], lambda x: ops.sqrt(ops.relu(x)))],
    "Rsqrt": [([IMAGE], lambda x: ops.rsqrt(ops.abs(x) + 0.5))],
    "Log": [([IMAGE], lambda x: ops.log(ops.abs(x) + 0.5))],
    "Mean": [
        ([IMAGE], lambda x: ops.mean(x, axis=(1, 2))),
        ([IMAGE], lambda x: ops.mean(x, axis=-1, keepdims=True)),
        ([IMAGE], lambda x: ops.mean(x, axis=1)),
        ([(5, 20)], lambda x: ops.mean(x, axis=1)),
        ([(6, 6, 20)], lambda x: ops.mean(x, axis=[1, 2], keepdims=True)),
    ],
    "Sum": [
        ([IMAGE], lambda x: ops.sum(x, axis=(1, 2))),
        ([IMAGE], lambda x: ops.sum(x, axis=-1)),
    ],
    "Max": [
        ([IMAGE], lambda x: ops.max(x, axis=(1, 2))),
        ([IMAGE], lambda x: ops.max(x, axis=-1, keepdims=True)),
    ],
    "Min": [([IMAGE], lambda x: ops.min(x, axis=(1, 2)))],
    "Amax": [([IMAGE], lambda x: ops.amax(x, axis=(1, 2)))],
    "Amin": [([IMAGE], lambda x: ops.amin(x, axis=1))],
    "MaxPool": [
        ([IMAGE], lambda x: ops.max_pool(x, 2)),
        ([(8, 3)], lambda x: ops.max_pool(x, 3, strides=2, padding="same")),
    ],
    "AveragePool": [
        ([IMAGE], lambda x: ops.average_pool(x, 2)),
        ([(8, 3)], lambda x: ops.average_pool(x, 3, strides=2, padding="same")),
    ],
    "Resize": [
        ([IMAGE], lambda x: ops.image.resize(x, (9, 4))),
        ([IMAGE], lambda x: ops.image.resize(x, (9, 4), interpolation="nearest")),
    ],
    "Squeeze": [([(6, 1, 3)], lambda x: ops.squeeze(x, 2))],
    "ExpandDims": [([(6, 3)], lambda x: ops.expand_dims(x, 1))],
    "Swapaxes": [([(6, 4, 3)], lambda x: ops.swapaxes(x, 1, 2))],
    "Moveaxis": [([(6, 4, 3)], lambda x: ops.moveaxis(x, -1, 1))],
    "Repeat": [
        ([(6, 3)], lambda x: ops.repeat(x, 2, axis=1)),
        ([IMAGE], lambda x: ops.repeat(x, 3, axis=-1)),
    ],
    "Split": [
        ([(6, 4)], lambda x: ops.split(x, 3, axis=1)[1]),
        ([(6, 4)], lambda x: ops.split(x, (1, 3), axis=-1)[1]),
    ],
    "Unstack": [([(6, 4)], lambda x: ops.unstack(x, axis=1)[2])],
    "GetItem": [
        ([IMAGE], lambda x: x[:, 1:, ::2]),
        ([IMAGE], lambda x: x[:, 2]),
        ([IMAGE], lambda x: x[..., 0]),
    ],
    "Take": [([IMAGE], lambda x: ops.take(x, [2, 0, 2], axis=1))],
    "Pad": [
        ([IMAGE], lambda x: ops.pad(x, ((0, 0), (1, 0), (2, 1), (0, 0)))),
        ([IMAGE], lambda x: ops.pad(x, ((0, 0), (1, 1), (1, 2), (0, 0)), "reflect")),
        ([IMAGE], lambda x: ops.pad(x, ((0, 0), (1, 1), (1, 0), (0, 0)), "symmetric")),
    ],
    "PadImages": [
        ([IMAGE], lambda x: ops.image.pad_images(x, 1, 2, 0, 1)),
    ],
    "CropImages": [
        ([IMAGE], lambda x: ops.image.crop_images(x, 1, 2, 0, 1)),
    ],
    "SpaceToDepth": [([IMAGE], lambda x: ops.nn.space_to_depth(x, 2))],
    "StopGradient": [([IMAGE], ops.stop_gradient)],
    "Cast": [([IMAGE], lambda x: ops.cast(x, "float32"))],
}

# Layers that need more than an example of floats: the same as above.
LAYERS = {
    "Embedding": [([(5,)], lambda x: layers.Embedding(10, 4)(x))],
}

# Of inputs that are not near one.
SPREAD = {"Rescaling": 100.0}


@dataclass
class Row:
    """A row of the registry, its model and data.

    Each example has an output of its own, called "<number>", and a dense layer behind
    it, "<number>_probe", which sees how the example's output goes on.
    """

    spec: LayerSpec
    examples: list[Any]
    inputs: list[tuple[tuple[int, ...], str]] = field(default_factory=list)

    @property
    def name(self) -> str:
        kind = "layers" if issubclass(self.spec.type, keras.Layer) else "ops"
        return f"{kind}.{self.spec.type.__name__}"

    def model(self) -> keras.Model:
        keras.utils.set_random_seed(5)
        integers = self.spec.reads_indices
        inputs, outputs = [], {}
        for number, (shapes, apply) in enumerate(self.examples):
            dtype = "int32" if integers else "float32"
            own = [keras.Input(shape, dtype=dtype) for shape in shapes]
            y = apply(*own)
            outputs[f"{number}"] = y
            flat = layers.Flatten(name=f"flat_{number}")(y)
            if flat.shape[-1] is not None:
                probe = layers.Dense(3, name=f"{number}_probe")
                outputs[f"{number}_probe"] = probe(flat)
            inputs += own
        model = keras.Model(inputs, outputs)
        rng = np.random.default_rng(6)
        for variable in model.weights:  # biases and statistics that are not zero
            low = 0.5 if "variance" in variable.path else -1.0
            if variable.dtype.startswith("float"):
                variable.assign(rng.uniform(low, 1.0, variable.shape))
        self.inputs = [(tuple(x.shape[1:]), x.dtype) for x in model.inputs]
        return model

    def data(self, samples: int, seed: int, spread: float = 1.0) -> list[np.ndarray]:
        """Inputs for the model, normally distributed; for indices, all of them."""
        rng = np.random.default_rng(seed)
        spread *= SPREAD.get(self.spec.type.__name__, 1.0)
        return [
            rng.integers(0, 10, (samples, *shape)).astype(dtype)
            if dtype.startswith("int")
            else (spread * rng.normal(size=(samples, *shape))).astype(dtype)
            for shape, dtype in self.inputs
        ]


def _applied(layer, shapes):
    """(shapes, function) of an example as the registry has it."""
    return shapes, lambda *x: layer(x[0] if len(x) == 1 else list(x))


def rows(fits=lambda layer: True) -> list[Row]:
    """The rows of the registry that are Keras's own.

    Args:
        fits: layer -> whether to keep the example that it is; a row of which none is
            kept has them all.
    """
    result = []
    for spec in registered():
        if not spec.type.__module__.startswith("keras."):
            continue  # from a test of `register_layer`
        if spec in floats.SPECS:
            continue  # tests/conformance/test_keras_layers.py is about these
        known = OPERATORS if not issubclass(spec.type, keras.Layer) else LAYERS
        made = [example() for example in spec.examples]
        fitting = [(layer, shapes) for layer, shapes in made if fits(layer)]
        examples = [_applied(*example) for example in fitting or made]
        result.append(Row(spec, examples or known.get(spec.type.__name__, [])))
    return result
