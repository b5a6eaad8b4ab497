"""What a pruned model may cost: a share of a cost by name, or of a measurement."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kacc.core.cost import NAMED, cost_called
from kacc.core.errors import UsageError


@dataclass(frozen=True)
class Budget:
    """A share of a cost: the name of one that is counted, or a callable."""

    cost: str | Callable[[keras.Model], float]
    share: float


def budget_of(
    macs: Any = None,
    params: Any = None,
    bytes: Any = None,
    latency: Any = None,
    cost: Any = None,
    share: Any = None,
) -> Budget:
    """The budget that the arguments of `prune_channels` or `factorize` describe.

    Raises:
        UsageError: unless exactly one share is given, between 0 and 1.

    Example:
        >>> budget_of(macs=0.5)
        Budget(cost='macs', share=0.5)
    """
    given = {"macs": macs, "params": params, "bytes": bytes}
    given |= {"latency": latency, "share": share}
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) != 1:
        raise UsageError(
            "Exactly one share to keep must be given: `macs`, `params`, `bytes`, "
            "`latency`, or `share` of `cost`",
            received=given or "none",
            fix="Pass macs=0.5",
        )
    ((name, value),) = given.items()
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 < value <= 1:
        raise UsageError(
            f"`{name}` is the share to keep, above 0 and at most 1", received=value
        )
    if cost is None and name == "share":
        raise UsageError(
            "`share` needs `cost`", received="cost=None", fix='Pass cost="macs"'
        )
    if cost is not None and name in NAMED:
        raise UsageError(
            f"`{name}` is a cost already",
            received=f"cost={cost!r}",
            fix="Leave `cost` out, or pass share=",
        )
    if name in NAMED:
        return Budget(name, float(value))
    if cost is None:
        return Budget(litert_latency, float(value))
    cost_called(cost)
    return Budget(cost, float(value))


def litert_latency(model: keras.Model) -> float:
    """Median milliseconds of one sample in a float32 LiteRT file, on one thread.

    Args:
        model: a built Keras model.

    Returns:
        Milliseconds.
    """
    import kacc  # converters lie above this layer; only the facade binds them

    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        file = kacc.convert(model, f"{folder}/model.tflite", "tflite-float32")
        samples = [
            random.uniform(size=(1, *(n or 1 for n in info.shape[1:]))).astype(
                info.dtype
            )
            for info in file.manifest.inputs
        ]
        names = [info.name for info in file.manifest.inputs]
        single = file.manifest.input_structure == "single"
        x = samples[0] if single else dict(zip(names, samples, strict=True))
        return float(kacc.measure(file, x).latency.median)
