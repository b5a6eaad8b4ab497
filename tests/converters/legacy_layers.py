"""One small case for each layer that `kacc.from_tf_keras` knows, and for operators."""

import numpy as np
import tensorflow as tf
import tf_keras

L = tf_keras.layers

VECTOR, SERIES, IMAGE, CUBE = (6,), (7, 5), (8, 9, 4), (6, 5, 4, 2)
FILM = (4, 6, 6, 2)  # of images

# What makes the layer, and the shape of its input.
LAYERS = {
    "dense": (lambda: L.Dense(3, activation="relu"), VECTOR),
    "dense_bare": (lambda: L.Dense(3, use_bias=False), SERIES),
    "einsum_dense": (
        lambda: L.EinsumDense("abc,cd->abd", (None, 4), bias_axes="d"),
        SERIES,
    ),
    "activation": (lambda: L.Activation("swish"), VECTOR),
    "activity": (lambda: L.ActivityRegularization(0.1, 0.1), VECTOR),
    "flatten": (lambda: L.Flatten(), IMAGE),
    "reshape": (lambda: L.Reshape((5, 7)), SERIES),
    "permute": (lambda: L.Permute((2, 1)), SERIES),
    "repeat": (lambda: L.RepeatVector(3), VECTOR),
    "identity": (lambda: L.Identity(), VECTOR),
    "lambda": (lambda: L.Lambda(lambda x: tf.nn.relu(x) * 2), VECTOR),
    "lambda_arguments": (
        lambda: L.Lambda(lambda x, by: x * by, arguments={"by": 3.0}),
        VECTOR,
    ),
    "conv1d": (lambda: L.Conv1D(3, 3, padding="causal", dilation_rate=2), SERIES),
    "conv2d": (lambda: L.Conv2D(6, 3, strides=2, padding="same", groups=2), IMAGE),
    "conv2d_dilated": (lambda: L.Conv2D(3, (2, 3), dilation_rate=(1, 2)), IMAGE),
    "conv3d": (lambda: L.Conv3D(3, 2, activation="tanh"), CUBE),
    "conv1d_transpose": (lambda: L.Conv1DTranspose(3, 3, strides=2), SERIES),
    "conv2d_transpose": (
        lambda: L.Conv2DTranspose(3, 3, strides=2, padding="same", output_padding=1),
        IMAGE,
    ),
    "conv3d_transpose": (lambda: L.Conv3DTranspose(2, 2, strides=2), CUBE),
    "depthwise1d": (lambda: L.DepthwiseConv1D(3, depth_multiplier=2), SERIES),
    "depthwise2d": (lambda: L.DepthwiseConv2D(3, strides=2, padding="same"), IMAGE),
    "separable1d": (lambda: L.SeparableConv1D(3, 3), SERIES),
    "separable2d": (lambda: L.SeparableConv2D(3, 3, depth_multiplier=2), IMAGE),
    "max1d": (lambda: L.MaxPooling1D(2), SERIES),
    "max2d": (lambda: L.MaxPooling2D((2, 3), padding="same"), IMAGE),
    "max3d": (lambda: L.MaxPooling3D(2), CUBE),
    "average1d": (lambda: L.AveragePooling1D(2, strides=1), SERIES),
    "average2d": (lambda: L.AveragePooling2D(3, padding="same"), IMAGE),
    "average3d": (lambda: L.AveragePooling3D(2), CUBE),
    "global_max1d": (lambda: L.GlobalMaxPooling1D(), SERIES),
    "global_max2d": (lambda: L.GlobalMaxPooling2D(keepdims=True), IMAGE),
    "global_max3d": (lambda: L.GlobalMaxPooling3D(), CUBE),
    "global_average1d": (lambda: L.GlobalAveragePooling1D(), SERIES),
    "global_average2d": (lambda: L.GlobalAveragePooling2D(), IMAGE),
    "global_average3d": (lambda: L.GlobalAveragePooling3D(keepdims=True), CUBE),
    "batch_norm": (lambda: L.BatchNormalization(momentum=0.9, epsilon=2e-3), IMAGE),
    "batch_norm_axis": (lambda: L.BatchNormalization(axis=1, scale=False), SERIES),
    "sync_batch_norm": (lambda: L.BatchNormalization(synchronized=True), VECTOR),
    "layer_norm": (lambda: L.LayerNormalization(), SERIES),
    "layer_norm_axes": (lambda: L.LayerNormalization(axis=[1, 2], epsilon=0.01), IMAGE),
    "group_norm": (lambda: L.GroupNormalization(2), IMAGE),
    "unit_norm": (lambda: L.UnitNormalization(), SERIES),
    "normalization": (lambda: L.Normalization(), VECTOR),
    "normalization_given": (
        lambda: L.Normalization(axis=-1, mean=[1, 2, 3, 4, 5.0], variance=[2.0] * 5),
        SERIES,
    ),
    "rescaling": (lambda: L.Rescaling(0.5, -1), IMAGE),
    "resizing": (lambda: L.Resizing(5, 6), IMAGE),
    "center_crop": (lambda: L.CenterCrop(4, 4), IMAGE),
    "cropping1d": (lambda: L.Cropping1D((1, 2)), SERIES),
    "cropping2d": (lambda: L.Cropping2D(((1, 2), (0, 1))), IMAGE),
    "cropping3d": (lambda: L.Cropping3D(1), (5, 5, 5, 2)),
    "padding1d": (lambda: L.ZeroPadding1D((1, 2)), SERIES),
    "padding2d": (lambda: L.ZeroPadding2D(((1, 2), (0, 1))), IMAGE),
    "padding3d": (lambda: L.ZeroPadding3D(1), CUBE),
    "up1d": (lambda: L.UpSampling1D(2), SERIES),
    "up2d": (lambda: L.UpSampling2D((2, 3)), IMAGE),
    "up2d_bilinear": (lambda: L.UpSampling2D(2, interpolation="bilinear"), IMAGE),
    "up3d": (lambda: L.UpSampling3D(2), CUBE),
    "relu": (lambda: L.ReLU(6.0, 0.1, 0.2), VECTOR),
    "leaky_relu": (lambda: L.LeakyReLU(0.2), VECTOR),
    "leaky_relu_default": (lambda: L.LeakyReLU(), VECTOR),
    "prelu": (lambda: L.PReLU(shared_axes=[1, 2]), IMAGE),
    "elu": (lambda: L.ELU(0.7), VECTOR),
    "softmax": (lambda: L.Softmax(axis=1), SERIES),
    "dropout": (lambda: L.Dropout(0.5, noise_shape=(None, 1), seed=3), VECTOR),
    "alpha_dropout": (lambda: L.AlphaDropout(0.5), VECTOR),
    "spatial_dropout1d": (lambda: L.SpatialDropout1D(0.5), SERIES),
    "spatial_dropout2d": (lambda: L.SpatialDropout2D(0.5), IMAGE),
    "spatial_dropout3d": (lambda: L.SpatialDropout3D(0.5), CUBE),
    "gaussian_noise": (lambda: L.GaussianNoise(0.5), VECTOR),
    "gaussian_dropout": (lambda: L.GaussianDropout(0.5), VECTOR),
    "random_flip": (lambda: L.RandomFlip("horizontal", seed=1), IMAGE),
    "random_rotation": (lambda: L.RandomRotation(0.2), IMAGE),
    "random_zoom": (lambda: L.RandomZoom(0.2), IMAGE),
    "random_translation": (lambda: L.RandomTranslation(0.1, 0.2), IMAGE),
    "random_contrast": (lambda: L.RandomContrast(0.2), (8, 9, 3)),
    "random_brightness": (lambda: L.RandomBrightness(0.2), (8, 9, 3)),
    "simple_rnn": (lambda: L.SimpleRNN(3, return_sequences=True), SERIES),
    "lstm": (lambda: L.LSTM(3), SERIES),
    "lstm_hard": (
        lambda: L.LSTM(3, recurrent_activation="hard_sigmoid", go_backwards=True),
        SERIES,
    ),
    "gru": (lambda: L.GRU(3, return_sequences=True), SERIES),
    "gru_before": (lambda: L.GRU(3, reset_after=False), SERIES),
    "conv_lstm1d": (lambda: L.ConvLSTM1D(2, 3), (4, 6, 2)),
    "conv_lstm2d": (lambda: L.ConvLSTM2D(2, 3, return_sequences=True), FILM),
    "conv_lstm3d": (lambda: L.ConvLSTM3D(2, 2), (3, 4, 4, 4, 1)),
    "bidirectional": (
        lambda: L.Bidirectional(L.LSTM(3, return_sequences=True), merge_mode="sum"),
        SERIES,
    ),
    "bidirectional_two": (
        lambda: L.Bidirectional(
            L.GRU(3), backward_layer=L.GRU(3, go_backwards=True, activation="relu")
        ),
        SERIES,
    ),
    "time_distributed": (lambda: L.TimeDistributed(L.Conv2D(3, 3)), FILM),
    "time_distributed_norm": (
        lambda: L.TimeDistributed(L.BatchNormalization()),
        SERIES,
    ),
    "rnn": (lambda: L.RNN(L.LSTMCell(3)), SERIES),
    "rnn_gru": (lambda: L.RNN(L.GRUCell(3), return_sequences=True), SERIES),
    "rnn_stacked": (
        lambda: L.RNN([L.SimpleRNNCell(3), L.LSTMCell(2), L.GRUCell(4)]),
        SERIES,
    ),
    "masking": (lambda: L.Masking(0.0), SERIES),
}

# Layers of several inputs, of one shape.
MERGES = {
    "add": (lambda: L.Add(), VECTOR),
    "subtract": (lambda: L.Subtract(), VECTOR),
    "multiply": (lambda: L.Multiply(), VECTOR),
    "average": (lambda: L.Average(), VECTOR),
    "maximum": (lambda: L.Maximum(), VECTOR),
    "minimum": (lambda: L.Minimum(), VECTOR),
    "concatenate": (lambda: L.Concatenate(axis=1), IMAGE),
    "dot": (lambda: L.Dot(axes=(2, 2), normalize=True), SERIES),
    "attention": (lambda: L.Attention(use_scale=True), SERIES),
    "attention_concat": (lambda: L.Attention(score_mode="concat"), SERIES),
    "additive_attention": (lambda: L.AdditiveAttention(), SERIES),
}

# Layers of whole numbers below 9.
INTEGERS = {
    "embedding": lambda: L.Embedding(9, 4, mask_zero=True),
    "category": lambda: L.CategoryEncoding(9, output_mode="multi_hot"),
}

ACTIVATIONS = [
    *("elu", "exponential", "gelu", "hard_sigmoid", "linear", "mish", "relu", "selu"),
    *("sigmoid", "softmax", "softplus", "softsign", "swish", "tanh"),
    *(tf.nn.relu, tf.nn.relu6, tf.nn.leaky_relu, tf.nn.silu, tf.nn.log_softmax),
]

# Functions that tf_keras makes layers of, on inputs of (None, 4, 6).
OPERATORS = {
    "add": lambda x, y: x + y,
    "add_number": lambda x, y: 1.0 + x,
    "subtract": lambda x, y: 1.0 - x - y,
    "multiply": lambda x, y: 0.5 * x * y,
    "divide": lambda x, y: x / (tf.exp(y) + 1.0),
    "power": lambda x, y: tf.abs(x) ** 1.5,
    "negative": lambda x, y: -x,
    "relu": lambda x, y: tf.nn.relu(x) + tf.nn.relu6(y),
    "smooth": lambda x, y: tf.nn.gelu(x) + tf.nn.silu(y) + tf.nn.softplus(x),
    "leaky": lambda x, y: tf.nn.leaky_relu(x) + tf.nn.leaky_relu(y, alpha=0.1),
    "exponential": lambda x, y: tf.nn.elu(x) + tf.nn.selu(y) + tf.nn.softsign(y),
    "sigmoid": lambda x, y: tf.sigmoid(x) * tf.tanh(y),
    "softmax": lambda x, y: tf.nn.softmax(x, axis=1) + tf.nn.log_softmax(y),
    "concat": lambda x, y: tf.concat([x, y], axis=-1),
    "stack": lambda x, y: tf.stack([x, y], axis=1),
    "split": lambda x, y: tf.split(x, 2, axis=-1),
    "split_sizes": lambda x, y: tf.split(x, [1, 2, 3], axis=-1)[1:],
    "reshape": lambda x, y: tf.reshape(x, (-1, 24)),
    "transpose": lambda x, y: tf.transpose(x, [0, 2, 1]),
    "expand": lambda x, y: tf.expand_dims(x, 1),
    "squeeze": lambda x, y: tf.squeeze(tf.expand_dims(x, 1), axis=1),
    "mean": lambda x, y: tf.reduce_mean(x, axis=[1, 2], keepdims=True),
    "sum": lambda x, y: tf.reduce_sum(x, 1) + tf.reduce_max(y, axis=1),
    "spread": lambda x, y: tf.math.reduce_std(x, 1) + tf.math.reduce_variance(y, 1),
    "extremes": lambda x, y: tf.maximum(x, y) + tf.minimum(x, 0.0),
    "roots": lambda x, y: tf.sqrt(tf.abs(x)) + tf.math.rsqrt(tf.square(y) + 1.0),
    "logarithm": lambda x, y: tf.math.log(tf.abs(x) + 1.0) + tf.math.erf(y),
    "waves": lambda x, y: tf.sin(x) + tf.cos(y),
    "clip": lambda x, y: tf.clip_by_value(x, -0.5, 0.5),
    "cast": lambda x, y: tf.cast(x, "int32"),
    "matmul": lambda x, y: tf.linalg.matmul(x, tf.transpose(y, [0, 2, 1])),
    "getitem": lambda x, y: x[:, 1:3, ..., ::2],
    "getitem_number": lambda x, y: x[:, 0] + y[:, -1],
    "argmax": lambda x, y: tf.argmax(x, axis=-1),
    "pad": lambda x, y: tf.pad(x, [[0, 0], [1, 2], [0, 0]]),
    "pad_mirrored": lambda x, y: tf.pad(x, [[0, 0], [1, 2], [0, 0]], "REFLECT"),
    "tile": lambda x, y: tf.tile(x, [1, 2, 1]),
    "repeat": lambda x, y: tf.repeat(x, 2, axis=1),
    "reverse": lambda x, y: tf.reverse(x, axis=[1]),
    "rounding": lambda x, y: tf.floor(x) + tf.round(y) + tf.sign(x),
    "cumsum": lambda x, y: tf.cumsum(x, axis=1),
    "identity": lambda x, y: tf.identity(x) + tf.stop_gradient(y),
}


def randomized(model):
    """The model with weights that differ from one another; variances are positive."""
    rng = np.random.default_rng(2)
    for variable in model.variables:
        if variable.dtype.is_floating:
            low = 0.5 if "variance" in variable.name else -0.7
            variable.assign(rng.uniform(low, 1.2, variable.shape))
    for layer in model.layers:
        if isinstance(layer, L.Normalization):
            layer.finalize_state()
    return model


def samples(shape, count=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, *shape)).astype("float32")
