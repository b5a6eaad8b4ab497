"""Small graphs as they occur in networks, each with the tensors that its file has.

A block is a function of its input and of a naming function, and the tensors with a
learned range, worked out by hand from the file's operators.
"""

import zlib

import keras
import numpy as np
from keras import layers, ops
from keras.src.applications.convnext import LayerScale, StochasticDepth

SHAPE = (8, 8, 4)


def conv_bn_relu(x, n):
    x = layers.Conv2D(4, 3, use_bias=False, name=n("conv"))(x)
    return layers.ReLU(name=n("relu"))(layers.BatchNormalization(name=n("bn"))(x))


def residual(x, n):
    y = layers.Conv2D(4, 3, padding="same", activation="relu", name=n("one"))(x)
    z = layers.Conv2D(4, 3, padding="same", name=n("two"))(y)
    z = layers.BatchNormalization(name=n("bn"))(z)
    return layers.ReLU(name=n("relu"))(layers.Add(name=n("add"))([y, z]))


def residual_of_operators(x, n):
    y = layers.Conv2D(4, 1, name=n("one"))(x)
    z = layers.Conv2D(4, 1, name=n("two"))(y)
    return layers.Conv2D(2, 1, name=n("three"))(ops.relu(y + z))


def inverted_residual(x, n):
    y = layers.Conv2D(6, 1, use_bias=False, name=n("expand"))(x)
    y = layers.ReLU(6.0, name=n("relu"))(layers.BatchNormalization(name=n("bn"))(y))
    y = layers.DepthwiseConv2D(3, padding="same", name=n("dw"))(y)
    y = layers.BatchNormalization(name=n("dw_bn"))(y)
    y = layers.Activation("hard_swish", name=n("swish"))(y)
    y = layers.Conv2D(4, 1, name=n("project"))(y)
    y = layers.BatchNormalization(name=n("project_bn"))(y)
    return layers.Add(name=n("add"))([x, y])


def squeeze_and_excite(x, n):
    x = layers.Conv2D(4, 1, name=n("conv"))(x)
    y = layers.GlobalAveragePooling2D(keepdims=True, name=n("pool"))(x)
    y = layers.Conv2D(2, 1, activation="relu", name=n("squeeze"))(y)
    y = layers.Conv2D(4, 1, activation="sigmoid", name=n("excite"))(y)
    return layers.Multiply(name=n("scale"))([x, y])


def inception(x, n):
    a = layers.Conv2D(3, 1, activation="relu", name=n("a"))(x)
    b = layers.MaxPooling2D(3, 1, padding="same", name=n("b"))(x)
    c = layers.AveragePooling2D(3, 1, padding="same", name=n("c"))(x)
    c = layers.Conv2D(2, 1, name=n("c_conv"))(c)
    x = layers.Concatenate(name=n("join"))([a, b, c])
    return layers.Conv2D(2, 1, name=n("after"))(x)


def dense_block(x, n):
    a = layers.Conv2D(2, 3, padding="same", name=n("a"))(x)
    x = layers.Concatenate(name=n("first"))([x, a])
    b = layers.Conv2D(2, 3, padding="same", activation="relu", name=n("b"))(x)
    return layers.Concatenate(name=n("second"))([x, b])


def shared_conv(x, n):
    conv = layers.Conv2D(4, 3, padding="same", activation="relu", name=n("conv"))
    return conv(conv(x))


def shared_relu(x, n):
    relu = layers.ReLU(name=n("relu"))
    x = relu(layers.Conv2D(4, 1, name=n("one"))(x))
    return relu(layers.Conv2D(4, 1, name=n("two"))(x))


def dropout_between(x, n):
    x = layers.Conv2D(4, 1, name=n("conv"))(x)
    x = layers.ReLU(name=n("relu"))(layers.Dropout(0.1, name=n("drop"))(x))
    return layers.Conv2D(2, 1, name=n("after"))(layers.Dropout(0.1, name=n("last"))(x))


def relu_beside_another_reader(x, n):
    x = layers.Conv2D(4, 1, name=n("conv"))(x)
    return layers.Add(name=n("add"))([x, layers.ReLU(name=n("relu"))(x)])


def two_relus(x, n):
    x = layers.Conv2D(4, 1, name=n("conv"))(x)
    a = layers.Conv2D(2, 1, name=n("a"))(layers.ReLU(name=n("relu_a"))(x))
    b = layers.Conv2D(2, 1, name=n("b"))(layers.ReLU(name=n("relu_b"))(x))
    return layers.Add(name=n("add"))([a, b])


def classifier(x, n):
    x = layers.Flatten(name=n("flat"))(layers.MaxPooling2D(4, name=n("pool"))(x))
    x = layers.Dense(8, use_bias=False, name=n("dense"))(x)
    x = layers.ReLU(name=n("relu"))(layers.BatchNormalization(name=n("bn"))(x))
    return layers.Dense(3, activation="softmax", name=n("head"))(x)


def padded(x, n):
    x = layers.Rescaling(0.5, name=n("rescale"))(x)
    x = layers.ZeroPadding2D(((0, 1), (0, 1)), name=n("pad"))(x)
    x = layers.Conv2D(4, 3, strides=2, name=n("conv"))(x)
    return layers.GlobalAveragePooling2D(name=n("pool"))(x)


def bn_alone(x, n):
    x = layers.BatchNormalization(name=n("bn"))(x)
    x = layers.Conv2D(4, 1, activation="swish", name=n("conv"))(x)
    return layers.BatchNormalization(name=n("after"))(x)


def separable(x, n):
    x = layers.SeparableConv2D(4, 3, use_bias=False, name=n("conv"))(x)
    return layers.ReLU(name=n("relu"))(layers.BatchNormalization(name=n("bn"))(x))


def maxout(x, n):
    a = layers.Conv2D(4, 1, name=n("a"))(x)
    b = layers.Conv2D(4, 1, name=n("b"))(x)
    c = layers.Conv2D(4, 1, name=n("c"))(x)
    y = layers.Maximum(name=n("most"))([a, b, c])
    return layers.Conv2D(2, 1, name=n("after"))(layers.Add(name=n("add"))([c, y]))


def extremes_in_a_row(x, n):
    a = layers.Conv2D(4, 1, activation="relu", name=n("a"))(x)
    b = layers.Conv2D(4, 1, name=n("b"))(x)
    c = layers.Conv2D(4, 1, name=n("c"))(x)
    y = layers.Maximum(name=n("most"))([layers.Minimum(name=n("least"))([a, b]), c])
    return layers.Concatenate(name=n("join"))([y, c])


def convnext(x, n):
    y = layers.Conv2D(4, 3, padding="same", groups=4, name=n("conv"))(x)
    y = layers.LayerNormalization(epsilon=1e-6, name=n("norm"))(y)
    y = layers.Dense(8, activation="gelu", name=n("expand"))(y)
    y = layers.Dense(4, name=n("project"))(y)
    y = LayerScale(0.5, 4, name=n("scale"))(y)
    return layers.Add(name=n("add"))([x, StochasticDepth(0.1, name=n("drop"))(y)])


def squeeze_and_excite_by_reshape(x, n):
    y = layers.GlobalAveragePooling2D(name=n("pool"))(x)
    y = layers.Dense(4, activation="hard_sigmoid", name=n("excite"))(y)
    y = layers.Reshape((1, 1, 4), name=n("shape"))(y)
    return layers.Multiply(name=n("scale"))([x, y])


def pre_activation(x, n):
    y = layers.BatchNormalization(name=n("bn"))(x)
    y = layers.Conv2D(4, 3, name=n("conv"))(layers.ReLU(name=n("relu"))(y))
    return layers.BatchNormalization(name=n("last"))(y)


BLOCKS = {
    conv_bn_relu: {"conv:input_0", "relu:output"},
    residual: {"one:input_0", "one:output", "bn:output", "relu:output"},
    residual_of_operators: {
        "one:input_0",
        "one:output",
        "two:output",
        "relu:output",
        "three:output",
    },
    inverted_residual: {
        "expand:input_0",
        "relu:output",
        "dw_bn:output",
        "swish:output",
        "project_bn:output",
        "add:input_0",
        "add:output",
    },
    squeeze_and_excite: {
        "conv:input_0",
        "conv:output",
        "pool:output",
        "squeeze:output",
        "excite:pre_activation",
        "scale:output",
    },
    inception: {
        "a:input_0",
        "b:input_0",
        "c:input_0",
        "join:output",
        "after:output",
    },
    dense_block: {
        "a:input_0",
        "first:input_0",
        "first:output",
        "second:output",
    },
    shared_conv: {"conv:input_0", "conv:output"},
    shared_relu: {"one:input_0", "relu:output"},
    dropout_between: {"conv:input_0", "relu:output", "after:output"},
    relu_beside_another_reader: {
        "conv:input_0",
        "conv:output",
        "relu:output",
        "add:output",
    },
    two_relus: {
        "conv:input_0",
        "relu_a:output",
        "relu_b:output",
        "a:output",
        "b:output",
        "add:output",
    },
    classifier: {"pool:input_0", "relu:output", "head:pre_activation"},
    padded: {"rescale:input_0", "rescale:output", "conv:output", "pool:output"},
    bn_alone: {
        "bn:input_0",
        "bn:output",
        "conv:pre_activation",
        "conv:output",
        "after:output",
    },
    separable: {"conv:input_0", "conv:depthwise", "relu:output"},
    maxout: {
        "a:input_0",
        "b:input_0",
        "c:input_0",
        "c:output",
        "most:output",
        "add:output",
        "after:output",
    },
    extremes_in_a_row: {
        "a:input_0",
        "b:input_0",
        "c:input_0",
        "c:output",
        "least:output",
        "most:output",
        "join:output",
    },
    convnext: {
        "conv:input_0",
        "conv:output",
        "norm:mean",
        "norm:centered",
        "norm:squares",
        "norm:mean_square",
        "norm:shifted",
        "norm:inverse",
        "norm:normalized",
        "norm:output",
        "expand:pre_activation",
        "expand:output",
        "scale:output",
        "add:input_0",
        "add:output",
    },
    squeeze_and_excite_by_reshape: {
        "pool:input_0",
        "pool:output",
        "excite:pre_activation",
        "scale:input_0",
        "scale:output",
    },
    pre_activation: {"bn:input_0", "relu:output", "last:output"},
}


def model_of(*blocks):
    """A model of blocks side by side, each with an input and an output of its own."""
    inputs = [keras.Input(SHAPE, name=f"in_{b.__name__}") for b in blocks]
    outputs = {
        block.__name__: block(x, lambda name, b=block: f"{b.__name__}.{name}")
        for block, x in zip(blocks, inputs, strict=True)
    }
    model = keras.Model(inputs, outputs)
    for variable in model.weights:
        # By name, so that a block's weights do not depend on the other blocks.
        rng = np.random.default_rng(zlib.crc32(variable.path.encode()))
        low, high = (0.5, 1.5) if "variance" in variable.path else (-0.6, 0.6)
        if variable.dtype == "float32":
            variable.assign(rng.uniform(low, high, variable.shape))
    return model
