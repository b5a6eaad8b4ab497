"""kacc: makes Keras 3 models small and fast while they train, and converts them.

`import kacc` is cheap: TensorFlow and Keras are imported when a name is first used.
It is also all that a fresh process needs to load a model with kacc's layers in it,
before or after `import keras`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kacc._loading import register_loaders

if TYPE_CHECKING:
    from kacc import (
        acceleration,
        augmentation,
        callbacks,
        clustering,
        factorization,
        layers,
        measurement,
        pruning,
        quantization,
        restructuring,
        schedules,
    )
    from kacc.acceleration import accelerate
    from kacc.clustering.model import cluster
    from kacc.converters.artifact import Artifact
    from kacc.converters.convert import convert
    from kacc.converters.from_tf_keras import from_tf_keras
    from kacc.converters.microcontroller import MicroBundle, microcontroller
    from kacc.converters.parity import Parity, parity
    from kacc.core.errors import ConversionError, KaccError, UsageError
    from kacc.core.recipe import strip
    from kacc.core.registry import LayerSpec, Weight
    from kacc.core.rules import Rule
    from kacc.ensembling.model import ensemble
    from kacc.factorization.model import factorize
    from kacc.measurement.measure import Measurement, measure
    from kacc.pruning.channels.pruner import prune_channels
    from kacc.pruning.model import prune
    from kacc.quantization.model import quantize
    from kacc.quantization.simulation import simulate
    from kacc.restructuring.model import restructure
    from kacc.splitting.model import split
    from kacc.support import register_layer
    from kacc.transfer.pretrained import pretrained

__version__ = "0.1.0"

__all__ = [
    "Artifact",
    "ConversionError",
    "KaccError",
    "LayerSpec",
    "Measurement",
    "MicroBundle",
    "Parity",
    "Rule",
    "UsageError",
    "Weight",
    "__version__",
    "accelerate",
    "acceleration",
    "augmentation",
    "callbacks",
    "cluster",
    "clustering",
    "convert",
    "ensemble",
    "factorization",
    "factorize",
    "from_tf_keras",
    "layers",
    "measure",
    "measurement",
    "microcontroller",
    "parity",
    "pretrained",
    "prune",
    "prune_channels",
    "pruning",
    "quantization",
    "quantize",
    "register_layer",
    "restructure",
    "restructuring",
    "schedules",
    "simulate",
    "split",
    "strip",
]

_PACKAGES = (
    "acceleration",
    "augmentation",
    "callbacks",
    "clustering",
    "factorization",
    "layers",
    "measurement",
    "pruning",
    "quantization",
    "restructuring",
    "schedules",
)

# Where each public name lives.
_MODULES = {
    "Artifact": "kacc.converters.artifact",
    "ConversionError": "kacc.core.errors",
    "KaccError": "kacc.core.errors",
    "LayerSpec": "kacc.core.registry",
    "Measurement": "kacc.measurement.measure",
    "MicroBundle": "kacc.converters.microcontroller",
    "Parity": "kacc.converters.parity",
    "Rule": "kacc.core.rules",
    "UsageError": "kacc.core.errors",
    "Weight": "kacc.core.registry",
    "accelerate": "kacc.acceleration",
    "cluster": "kacc.clustering.model",
    "convert": "kacc.converters.convert",
    "ensemble": "kacc.ensembling.model",
    "factorize": "kacc.factorization.model",
    "from_tf_keras": "kacc.converters.from_tf_keras",
    "measure": "kacc.measurement.measure",
    "microcontroller": "kacc.converters.microcontroller",
    "parity": "kacc.converters.parity",
    "pretrained": "kacc.transfer.pretrained",
    "prune": "kacc.pruning.model",
    "prune_channels": "kacc.pruning.channels.pruner",
    "quantize": "kacc.quantization.model",
    "register_layer": "kacc.support",
    "restructure": "kacc.restructuring.model",
    "simulate": "kacc.quantization.simulation",
    "split": "kacc.splitting.model",
    "strip": "kacc.core.recipe",
}


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"kacc.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module 'kacc' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


register_loaders()
