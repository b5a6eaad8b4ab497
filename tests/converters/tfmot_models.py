"""Small models of tf_keras, as tensorflow-model-optimization wraps and trains them."""

import numpy as np
import tensorflow_model_optimization as tfmot
import tf_keras

L = tf_keras.layers
quantization, sparsity = tfmot.quantization.keras, tfmot.sparsity.keras
clustering = tfmot.clustering.keras

LABELS = np.arange(64) % 4


def images():
    return np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype("float32")


def functional():
    """Convolutions with batch normalization, of which one is in a residual branch."""
    tf_keras.utils.set_random_seed(0)
    image = tf_keras.Input((8, 8, 3), name="image")
    x = L.Conv2D(6, 3, padding="same", use_bias=False, name="conv")(image)
    x = L.ReLU(name="relu")(L.BatchNormalization(name="norm")(x))
    y = L.DepthwiseConv2D(3, padding="same", activation="relu", name="depthwise")(x)
    y = L.Conv2D(6, 1, name="conv_1")(y)
    x = L.GlobalAveragePooling2D(name="pool")(L.Add(name="sum")([x, y]))
    x = L.Dense(4, activation="softmax", name="out")(x)
    return tf_keras.Model(image, x, name="net")


def sequential():
    tf_keras.utils.set_random_seed(1)
    layers = [
        L.SeparableConv2D(5, 3, activation="relu", input_shape=(8, 8, 3), name="first"),
        L.MaxPooling2D(name="pool"),
        L.Flatten(name="flat"),
        L.Dense(6, activation="relu", name="hidden"),
        L.Dense(4, name="out"),
    ]
    return tf_keras.Sequential(layers, name="line")


def nested():
    tf_keras.utils.set_random_seed(2)
    layers = [L.Conv2D(4, 3, name="conv"), L.ReLU(name="relu")]
    block = tf_keras.Sequential([L.Input((8, 8, 3)), *layers], name="block")
    image = tf_keras.Input((8, 8, 3), name="image")
    x = L.Dense(4, name="out")(L.Flatten(name="flat")(block(image)))
    return tf_keras.Model(image, x, name="outer")


class Subclassed(tf_keras.Model):
    """With a pruned layer, and outputs by name."""

    def __init__(self):
        super().__init__(name="sub")
        self.conv = L.Conv2D(4, 3, activation="relu", name="conv")
        schedule = sparsity.ConstantSparsity(0.5, 0, frequency=1)
        self.head = sparsity.prune_low_magnitude(L.Dense(4, name="head"), schedule)

    def call(self, x, training=False):
        pooled = L.GlobalAveragePooling2D()
        features = self.conv(x)
        flat = np.prod(features.shape[1:])
        import tensorflow as tf

        return {
            "scores": self.head(tf.reshape(features, (-1, flat))),
            "mean": pooled(x),
        }


def trained(model, *callbacks):
    model.compile(
        "sgd", tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    model.fit(images(), LABELS, epochs=2, verbose=0, callbacks=list(callbacks))
    return model


def quantized(make=functional):
    return trained(quantization.quantize_model(make()))


def annotated(*names):
    """Only some layers quantized."""

    def annotate(layer):
        chosen = layer.name in names
        return quantization.quantize_annotate_layer(layer) if chosen else layer

    with quantization.quantize_scope():
        model = tf_keras.models.clone_model(functional(), clone_function=annotate)
        return trained(quantization.quantize_apply(model))


def pruned(make=functional):
    schedule = sparsity.ConstantSparsity(0.5, 0, frequency=1)
    model = sparsity.prune_low_magnitude(make(), schedule)
    return trained(model, sparsity.UpdatePruningStep())


def clustered(make=functional, **options):
    start = clustering.CentroidInitialization.LINEAR
    model = clustering.cluster_weights(
        make(), number_of_clusters=4, cluster_centroids_init=start, **options
    )
    return trained(model)
