"""A policy as a layer of a model."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from kacc import support
from kacc.augmentation.config_values import Rescale
from kacc.augmentation.elements import (
    change_inputs,
    checked_box_format,
    mixed_labels,
)
from kacc.augmentation.policy import Policy, policy_of
from kacc.core.errors import UsageError
from kacc.core.registry import LayerSpec, Output


@keras.saving.register_keras_serializable(package="kacc")
class Augmentation(keras.layers.Layer):
    """Changes images while a model trains; at any other time it is not there.

    Files that `kacc.convert` or `model.export` write hold nothing of it. Images are
    the input itself, or "images" in Keras's dictionary, whose bounding boxes, masks
    and labels move and mix with them.

    Args:
        policy: a `kacc.augmentation.Policy`, a list of transforms, or a name.
        bounding_box_format: as Keras names it, if there are boxes.
        seed: in the place of the policy's.
        value_range: in the place of the policy's.
        **options: of `keras.layers.Layer`.

    Raises:
        UsageError: for a wrong policy, or one that rescales, which inference needs too.

    Example:
        >>> import keras, kacc, numpy as np
        >>> layer = kacc.layers.Augmentation("light")
        >>> images = np.random.default_rng(0).uniform(size=(4, 32, 32, 3))
        >>> bool(np.all(layer(images) == images))
        True
        >>> bool(np.all(layer(images, training=True) == images))
        False
    """

    def __init__(
        self,
        policy: Any,
        bounding_box_format: str | None = None,
        seed: int | None = None,
        value_range: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(**{"autocast": False, **options})
        self.policy = trainable_policy(policy, seed=seed, value_range=value_range)
        self.bounding_box_format = checked_box_format(bounding_box_format)
        self.seed_generator = keras.random.SeedGenerator(self.policy.seed)
        self.supports_masking = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """The inputs, changed if `training` is true."""
        if not training:
            return inputs
        # Private to no one: two numbers of 32 bits, the second of which counts.
        seed = tf.cast(self.seed_generator.next(), tf.int32)
        seed = tf.concat([seed, [replica()]], 0)
        changed, mixing = change_inputs(
            self.policy, seed, inputs, "graph", None, self.bounding_box_format
        )
        if mixing is None:
            return changed
        if not isinstance(changed, dict) or "labels" not in changed:
            raise UsageError(
                "MixUp and CutMix need labels, which a layer does not see",
                received="images alone",
                fix="Use kacc.callbacks.DataAugmentation, or policy.map(dataset)",
            )
        return {**changed, "labels": mixed_labels(changed["labels"], mixing)}

    def compute_output_shape(self, input_shape: Any) -> Any:
        """That of the inputs."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The arguments, as JSON values."""
        return {
            **super().get_config(),
            "policy": self.policy.get_config(),
            "bounding_box_format": self.bounding_box_format,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Augmentation:
        """The layer that `get_config` describes."""
        return cls(**{**config, "policy": Policy.from_config(config["policy"])})


def trainable_policy(policy: Any, **options: Any) -> Policy:
    """The policy that is meant, for use where only training sees it.

    Raises:
        UsageError: if it rescales.
    """
    found = policy_of(policy, **options)
    if found.all(Rescale):
        raise UsageError(
            "Rescale would leave inference with other values than training",
            received=found.all(Rescale)[0],
            fix="Put keras.layers.Rescaling into the model, or use policy.map(dataset) "
            "and rescale all other data in the same way",
        )
    return found


def replica() -> Any:
    """The number of the replica that runs, int32."""
    context = tf.distribute.get_replica_context()
    return 0 if context is None else context.replica_id_in_sync_group


support.register_layer(LayerSpec(Augmentation, output=Output.IDENTITY))
