"""Small models of every kind that kacc attaches to, and data for them."""

import keras
import numpy as np
from keras import layers, ops

SAMPLES = 16
SHAPE = (8, 8, 3)


def images(samples=SAMPLES, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(samples, *SHAPE)).astype("float32")


def vectors(samples=SAMPLES, size=8, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(samples, size)).astype("float32")


def small():
    """Two dense layers: the quickest to train."""
    return keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(4, activation="relu", name="hidden"),
            layers.Dense(3, name="head"),
        ],
        name="small",
    )


def sequential():
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(4, 3, strides=2, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.Dropout(0.1, name="drop"),
            layers.Flatten(name="flat"),
            layers.Dense(3, activation="softmax", name="head"),
        ],
        name="sequential",
    )


def functional():
    """A residual block and a concatenation, of layers."""
    image = keras.Input(SHAPE, name="image")
    x = layers.Conv2D(4, 3, strides=2, activation="relu", name="stem")(image)
    y = layers.Conv2D(4, 3, padding="same", name="conv")(x)
    x = layers.ReLU(name="relu")(layers.Add(name="add")([x, y]))
    x = layers.Concatenate(name="concatenate")([x, y])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(3, name="head")(x), name="functional")


def nested():
    """A Sequential and a functional model inside a functional one, three deep."""
    stem = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(3, 3, strides=2, name="conv"),
            layers.ReLU(name="relu"),
        ],
        name="stem",
    )
    inner = keras.Input((3, 3, 3))
    y = layers.Conv2D(3, 3, padding="same", name="conv")(inner)
    block = keras.Model(inner, layers.Add(name="add")([inner, y]), name="block")
    image = keras.Input(SHAPE, name="image")
    x = layers.Flatten(name="flat")(block(stem(image)))
    body = keras.Model(image, x, name="body")
    image = keras.Input(SHAPE, name="image")
    outputs = layers.Dense(3, name="head")(body(image))
    return keras.Model(image, outputs, name="nested")


def operators():
    """A graph of operators: nothing but `x + y` and keras.ops between two layers."""
    image = keras.Input(SHAPE, name="image")
    x = layers.Conv2D(4, 3, strides=2, name="conv")(image)
    y = ops.sigmoid(x)
    x = ops.relu(x + y)
    x = ops.concatenate([x, y], axis=-1) * 0.5
    x = ops.reshape(x, (-1, 72))
    return keras.Model(image, layers.Dense(3, name="head")(x), name="operators")


def shared():
    """One convolution that runs twice, on tensors of different spread."""
    image = keras.Input(SHAPE, name="image")
    conv = layers.Conv2D(3, 3, padding="same", activation="relu", name="conv")
    x = layers.Flatten(name="flat")(conv(conv(image)))
    return keras.Model(image, layers.Dense(3, name="head")(x), name="shared")


def several():
    """Two inputs and two outputs, in dictionaries."""
    image = keras.Input(SHAPE, name="image")
    extra = keras.Input((4,), name="extra")
    x = layers.Conv2D(4, 3, strides=2, name="conv")(image)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Multiply(name="gated")([x, layers.Dense(4, name="gate")(extra)])
    outputs = {
        "kind": layers.Dense(3, name="kind")(x),
        "amount": layers.Dense(1, name="amount")(x),
    }
    return keras.Model({"image": image, "extra": extra}, outputs, name="several")


@keras.saving.register_keras_serializable("kacc_tests")
class Residual(layers.Layer):
    """A block that adds with `+`, as people write them."""

    def __init__(self, filters=3, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.first = layers.Conv2D(filters, 3, padding="same", name="first")
        self.second = layers.Conv2D(filters, 3, padding="same", name="second")

    def build(self, shape):
        self.first.build(shape)
        self.second.build((*shape[:-1], self.filters))

    def call(self, x):
        x = self.first(x)
        return ops.relu(x + self.second(x))

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}


@keras.saving.register_keras_serializable("kacc_tests")
class Subclassed(keras.Model):
    """A subclassed model with a block in a block's place."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.block = Residual(name="block")
        self.pool = layers.GlobalAveragePooling2D(name="pool")
        self.head = layers.Dense(3, name="head")

    def call(self, x, training=None):
        return self.head(self.pool(self.block(x)))


@keras.saving.register_keras_serializable("kacc_tests")
class Body(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = layers.Conv2D(3, 3, strides=2, name="conv")
        self.relu = layers.ReLU(name="relu")

    def call(self, x):
        return self.relu(self.conv(x))


@keras.saving.register_keras_serializable("kacc_tests")
class Plain(keras.Model):
    """A subclassed model of layers only, a subclassed model inside it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.body = Body(name="body")
        self.flat = layers.Flatten(name="flat")
        self.head = layers.Dense(3, name="head")

    def call(self, x, training=None):
        return self.head(self.flat(self.body(x)))


def _built(cls):
    model = cls(name=cls.__name__.lower())
    model(images(2))
    return model


def subclassed():
    return _built(Subclassed)


def plain():
    return _built(Plain)


class Tied(keras.Model):
    """Reads its table of words to say which word is next."""

    def __init__(self, words, turned):
        super().__init__()
        self.table = layers.Embedding(words, 6, name="table")
        self.dense = layers.Dense(6, name="dense")
        self.turned = turned

    def call(self, inputs):
        x = self.dense(self.table(inputs))
        if self.turned:
            return ops.matmul(x, ops.transpose(self.table.embeddings))
        return ops.einsum("bld,vd->blv", x, self.table.embeddings)


GRAPHS = [sequential, functional, nested, operators, shared, several]
MODELS = [*GRAPHS, subclassed, plain]


def inputs_for(model, samples=SAMPLES, seed=0):
    """A batch as the model takes it."""
    if model.name == "several":
        return {
            "image": images(samples, seed),
            "extra": vectors(samples, 4, seed),
        }
    return vectors(samples, 8, seed) if model.name == "small" else images(samples, seed)


def targets_for(model, samples=SAMPLES):
    rng = np.random.default_rng(7)
    values = rng.uniform(size=(samples, 3)).astype("float32")
    if model.name == "several":
        return {"kind": values, "amount": values[:, :1]}
    return values


def outputs(model, x, training=False):
    """The model's outputs, run eagerly, as a flat list of arrays."""
    return [np.asarray(v) for v in keras.tree.flatten(model(x, training=training))]


def variables(model):
    """All the numbers of a model: path -> array."""
    return {v.path: v.numpy() for v in model.variables}
