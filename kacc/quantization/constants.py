"""The constant operands that a quantized model's file has, with their own values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kacc.quantization.simulation import Simulation


@dataclass(frozen=True)
class FileConstant:
    """A constant operand of an operator of the file.

    Args:
        path: of the layer.
        values: float64, flat.
    """

    path: str
    values: np.ndarray


def file_constants(model: keras.Model) -> tuple[FileConstant, ...]:
    """The constant operands of a quantized model, by tracing its simulation once."""
    found: list[FileConstant] = []

    def keep(path: str, values: Any) -> None:
        with tf.init_scope():  # a number, also of a variable
            array = np.asarray(tf.convert_to_tensor(values), np.float64)
        found.append(FileConstant(path, array.reshape(-1)))

    simulation = Simulation(model)
    specs = [tf.TensorSpec(x.shape, x.dtype) for x in simulation.graph.inputs]
    traced = tf.function(
        lambda *inputs: simulation.run(list(inputs), on_constant=keep),
        input_signature=specs,
        autograph=False,
    )
    traced.get_concrete_function()
    return tuple(found)
