"""Random models of everything that channels can be followed through."""

import keras
import numpy as np
from hypothesis import strategies as st
from keras import layers, ops

SIZE = 4
WIDTHS = (2, 4, 6, 8)
# Activations that send zero to zero, so that a channel of zeros stays one.
KEEPING_ZERO = ("relu", "tanh", "gelu", "swish", "leaky_relu", "linear")


def data(samples=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(samples, SIZE, SIZE, 3)).astype("float32")


def randomize(model, seed=0):
    """Gives every variable values that matter, statistics of BatchNorm too."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if not variable.dtype.startswith("float"):
            continue
        low = 0.5 if "variance" in variable.path else -1.0
        variable.assign(rng.uniform(low, 1.0, variable.shape))


class _Maker:
    """Builds a model block by block, as a strategy draws."""

    def __init__(self, draw):
        self.draw = draw
        self.count = 0
        self.shared = {}

    def name(self, kind):
        self.count += 1
        return f"{kind}_{self.count}"

    def width(self):
        return self.draw(st.sampled_from(WIDTHS))

    def activation(self):
        return self.draw(st.sampled_from(KEEPING_ZERO))

    def conv(self, x, width=None, **options):
        width = width or self.width()
        options = {"kernel_size": 3, "padding": "same", **options}
        return layers.Conv2D(
            width, activation=self.activation(), name=self.name("conv"), **options
        )(x)

    def plain(self, x):
        return self.conv(x, use_bias=self.draw(st.booleans()))

    def norm(self, x):
        x = layers.BatchNormalization(
            scale=self.draw(st.booleans()), name=self.name("norm")
        )(x)
        return layers.ReLU(name=self.name("relu"))(x)

    def depthwise(self, x):
        return layers.DepthwiseConv2D(
            3,
            padding="same",
            depth_multiplier=self.draw(st.sampled_from((1, 2))),
            activation=self.activation(),
            name=self.name("depthwise"),
        )(x)

    def separable(self, x):
        return layers.SeparableConv2D(
            self.width(), 3, padding="same", name=self.name("separable")
        )(x)

    def grouped(self, x):
        channels = x.shape[-1]
        fitting = [g for g in (1, 2, 4, channels) if channels % g == 0]
        groups = self.draw(st.sampled_from(fitting))
        return self.conv(x, width=groups * 2, groups=groups)

    def transposed(self, x):
        return layers.Conv2DTranspose(
            self.width(), 3, padding="same", name=self.name("transposed")
        )(x)

    def residual(self, x):
        y = self.conv(self.conv(x), width=x.shape[-1])
        if self.draw(st.booleans()):
            return x + y
        return layers.Add(name=self.name("add"))([x, y])

    def concatenated(self, x):
        y = self.conv(x)
        if self.draw(st.booleans()):
            return ops.concatenate([x, y], axis=-1)
        return layers.Concatenate(name=self.name("concatenate"))([y, x, y])

    def gated(self, x):
        """Squeeze and excitation."""
        channels = x.shape[-1]
        y = layers.GlobalAveragePooling2D(name=self.name("pool"))(x)
        if self.draw(st.booleans()):
            y = layers.Reshape((1, 1, channels), name=self.name("reshape"))(y)
        else:
            y = y[:, None, None, :]
        y = layers.Conv2D(4, 1, activation="relu", name=self.name("squeeze"))(y)
        y = layers.Conv2D(channels, 1, activation="sigmoid", name=self.name("excite"))(
            y
        )
        return layers.Multiply(name=self.name("gate"))([x, y])

    def nested(self, x):
        inner = keras.Input(x.shape[1:])
        y = self.norm(self.conv(inner))
        y = self.conv(y, width=x.shape[-1])
        return keras.Model(inner, y, name=self.name("nested"))(x)

    def nested_sequential(self, x):
        stack = [
            keras.Input(x.shape[1:]),
            layers.Conv2D(self.width(), 1, name=self.name("conv")),
            layers.PReLU(shared_axes=[1, 2], name=self.name("prelu")),
            layers.Conv2D(self.width(), 1, name=self.name("conv")),
        ]
        return keras.Sequential(stack, name=self.name("stack"))(x)

    def called_twice(self, x):
        conv = layers.Conv2D(
            x.shape[-1], 3, padding="same", activation="relu", name=self.name("twice")
        )
        return conv(conv(x)) * 0.5

    def split(self, x):
        half = x.shape[-1] // 2
        if self.draw(st.booleans()):
            a, b = x[..., :half], x[..., half:]
        else:
            a, b = ops.split(x, [half], axis=-1)
        return ops.concatenate([self.conv(b), ops.tanh(a)], axis=-1)

    def with_constant(self, x):
        values = np.linspace(0.5, 1.5, x.shape[-1]).astype("float32")
        return x * values

    def block(self, x):
        kind = self.draw(st.sampled_from(BLOCKS))
        return getattr(self, kind)(x)

    def head(self, x):
        if self.draw(st.booleans()):
            x = layers.MaxPooling2D(2, name=self.name("pool"))(x)
            x = layers.Flatten(name=self.name("flatten"))(x)
        else:
            x = ops.mean(x, axis=(1, 2))
        x = layers.Dense(self.width(), activation="relu", name=self.name("dense"))(x)
        return layers.Dense(3, name=self.name("head"))(x)

    def model(self):
        image = keras.Input((SIZE, SIZE, 3), name="image")
        x = self.conv(image)
        outputs = []
        for _ in range(self.draw(st.integers(1, 4))):
            x = self.block(x)
        if self.draw(st.booleans()):
            outputs.append(self.head(x))
            x = self.block(x)
        outputs.append(self.head(x))
        return keras.Model(image, outputs if len(outputs) > 1 else outputs[0])


BLOCKS = (
    *("plain", "norm", "depthwise", "separable", "grouped", "transposed", "residual"),
    *("concatenated", "gated", "nested", "nested_sequential", "called_twice"),
    *("split", "with_constant"),
)


@st.composite
def models(draw):
    """Functional models with one or two outputs, their variables random."""
    keras.backend.clear_session()
    model = _Maker(draw).model()
    randomize(model, draw(st.integers(0, 5)))
    return model
