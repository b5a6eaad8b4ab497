"""A policy in a `tf.data` pipeline."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kacc.augmentation.apply import engine_named
from kacc.augmentation.elements import change_element, checked_box_format
from kacc.core.errors import UsageError


def map_dataset(
    policy: Any,
    dataset: Any,
    engine: str = "auto",
    key: Any = None,
    bounding_box_format: str | None = None,
) -> tf.data.Dataset:
    """See `Policy.map`."""
    if not isinstance(dataset, tf.data.Dataset):
        raise UsageError(
            "Only a tf.data.Dataset can be mapped",
            received=type(dataset).__name__,
            fix="Make one by tf.data.Dataset.from_tensor_slices((x, y)).batch(64)",
        )
    engine = engine_named(engine)
    box_format = checked_box_format(bounding_box_format)

    # Not converted, since AutoGraph would wrap the errors in pages of its own.
    @tf.autograph.experimental.do_not_convert
    def change(seed: Any, element: Any) -> Any:
        # The numbers fill 32 bits; as int32 the upper half is negative.
        seed = tf.concat([tf.cast(seed, tf.int32), [0]], 0)
        return change_element(policy, seed, element, engine, key, box_format)

    seeds = tf.data.Dataset.random(policy.seed, rerandomize_each_iteration=True)
    pairs = tf.data.Dataset.zip(seeds.batch(2, drop_remainder=True), dataset)
    return pairs.map(change, tf.data.AUTOTUNE)
