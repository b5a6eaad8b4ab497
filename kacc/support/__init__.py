"""The layer types that kacc knows: rows of `LayerSpec`, one module for each family.

A new type is one row in one of these modules; the conformance suite picks it up.
"""

from kacc.core.registry import LayerSpec, register
from kacc.support import (
    activation,
    applications,
    arithmetic,
    augmentation,
    conv,
    dense,
    floats,
    layer_norm,
    merge,
    norm,
    pooling,
    resize,
    shape,
)

for _module in (
    dense,
    conv,
    norm,
    layer_norm,
    activation,
    pooling,
    merge,
    shape,
    resize,
    arithmetic,
    augmentation,
    applications,
    floats,
):
    register(_module.SPECS)


def register_layer(spec: LayerSpec) -> None:
    """Teaches kacc a layer type.

    Args:
        spec: the row for the type; one for a type that is known replaces it.

    Raises:
        UsageError: if `spec` is not a `kacc.LayerSpec`.

    Example:
        >>> import keras, kacc
        >>> class Scale(keras.layers.Dense):
        ...     def call(self, x):
        ...         return super().call(x) * 2
        >>> kacc.register_layer(kacc.LayerSpec(Scale, weights=(kacc.Weight("kernel"),)))
    """
    register([spec])
