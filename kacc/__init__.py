"""kacc: makes Keras 3 models small and fast while they train, and converts them.

`import kacc` is cheap: TensorFlow and Keras are imported when a name is first used.
It is also all that a fresh process needs to load a model with kacc's layers in it,
before or after `import keras`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kacc._loading import register_loaders

__version__ = "0.1.0"

# name -> module that defines it; a module's own name binds the module itself.
_PUBLIC = {
    "KaccError": "kacc.core.errors",
    "ConversionError": "kacc.core.errors",
    "UsageError": "kacc.core.errors",
    "LayerSpec": "kacc.core.registry",
    "Rule": "kacc.core.rules",
    "Weight": "kacc.core.registry",
    "callbacks": "kacc.callbacks",
    "layers": "kacc.layers",
    "quantize": "kacc.quantization.model",
    "register_layer": "kacc.support",
    "strip": "kacc.core.recipe",
}

__all__ = sorted([*_PUBLIC, "__version__"])

if TYPE_CHECKING:
    from kacc import callbacks, layers
    from kacc.core.errors import ConversionError, KaccError, UsageError
    from kacc.core.recipe import strip
    from kacc.core.registry import LayerSpec, Weight
    from kacc.core.rules import Rule
    from kacc.quantization.model import quantize
    from kacc.support import register_layer


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'kacc' has no attribute {name!r}")
    module = importlib.import_module(_PUBLIC[name])
    value = module if module.__name__ == f"kacc.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


register_loaders()
