"""Lets Keras find kacc's classes when a saved model names them.

Keras imports no foreign module while it loads a model, so the names must be in its
registry beforehand. Importing Keras here would make `import kacc` slow. Instead the
registry module is filled when somebody else imports it, by a hook on `sys.meta_path`.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from kacc.core.activations import legacy_hard_sigmoid

# Private; tests/core/test_loading.py fails when Keras moves it.
REGISTRY_MODULE = "keras.src.saving.object_registration"


class _Attached:
    """Stands for the attached layers; what it makes is of their own classes."""

    module = "kacc.core.attach"

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Makes the layer or model that the config describes."""
        # Each registers its transform.
        for technique in ("quantization", "pruning", "clustering"):
            importlib.import_module(f"kacc.{technique}")
        return importlib.import_module(cls.module).from_config(config)


class _AttachedModel(_Attached):
    module = "kacc.core.recipe"


class _Augmentation:
    """Stands for the layer until a saved model names it."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Makes the layer that the config describes."""
        module = importlib.import_module("kacc.augmentation.layer")
        return module.Augmentation.from_config(config)


_HARD_SIGMOID = "kacc>legacy_hard_sigmoid"
_LOADERS = {
    "kacc>Attached": _Attached,
    "kacc>AttachedModel": _AttachedModel,
    "kacc>Augmentation": _Augmentation,
    _HARD_SIGMOID: legacy_hard_sigmoid,
}


def register_loaders() -> None:
    """Puts kacc's names into Keras's registry, now or when Keras is imported."""
    if REGISTRY_MODULE in sys.modules:
        _register(sys.modules[REGISTRY_MODULE])
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _register(module: ModuleType) -> None:
    module.GLOBAL_CUSTOM_OBJECTS.update(_LOADERS)
    module.GLOBAL_CUSTOM_NAMES[legacy_hard_sigmoid] = _HARD_SIGMOID


class _Finder(importlib.abc.MetaPathFinder):
    """Wraps the loader of the one module; all others are left to the next finders."""

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if name != REGISTRY_MODULE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def create_module(self, spec: Any) -> ModuleType | None:
        return self.inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.inner.exec_module(module)
        _register(module)
