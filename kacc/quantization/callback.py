"""Quantization-aware training as a callback of `model.fit`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from kacc.core.arguments import whole
from kacc.core.graph import trace
from kacc.core.rules import Rule
from kacc.quantization import monitors
from kacc.quantization.model import (
    attach_quantization,
    quantized,
    recipe_settings,
    set_phase,
)


class QuantizationAwareTraining(keras.callbacks.Callback):
    """Trains a model for an integer file, from inside `model.fit`.

    It attaches before the first step, so that checkpoints, early stopping and resuming
    see the same variables from start to end; until `start_epoch` the model computes
    in float. A warning says so if another callback compares epochs of both kinds
    (ModelCheckpoint(save_best_only=True), EarlyStopping, ReduceLROnPlateau).

    At the end of each epoch `logs` gets "quantization_clipped", the largest share of
    values that a range clips, and with `log_ranges` also each tensor's range and share,
    as "<path>:<tensor>/low", "/high" and "/clipped".

    Args:
        scheme: "int8", or "w4a8" for weights of 4 bits.
        start_epoch: the first epoch (from 0) that trains quantized.
        freeze_epoch: the first epoch whose steps leave the ranges as they are, or
            None to learn them to the end.
        rules: exceptions by layer path; the last that matches wins.
        log_ranges: whether `logs` holds every tensor's range.
        learned_steps: whether quantization steps are trained by the optimizer (LSQ), or
            None for what the scheme does: see `kacc.quantize`.

    Raises:
        UsageError: for an unknown scheme, or epochs out of order.

    Example:
        >>> import numpy as np, keras, kacc
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model.compile("sgd", "mse")
        >>> qat = kacc.callbacks.QuantizationAwareTraining("int8", start_epoch=1)
        >>> x, y = np.ones((8, 4)), np.ones((8, 2))
        >>> history = model.fit(x, y, epochs=2, callbacks=[qat], verbose=0)
        >>> len(history.history["quantization_clipped"])
        1
    """

    def __init__(
        self,
        scheme: str = "int8",
        start_epoch: int = 0,
        freeze_epoch: int | None = None,
        rules: Sequence[Rule] = (),
        log_ranges: bool = False,
        learned_steps: bool | None = None,
    ) -> None:
        super().__init__()
        self.settings = recipe_settings(scheme, rules, learned_steps)
        self.start_epoch = _epoch("start_epoch", start_epoch, 0)
        self.freeze_epoch = freeze_epoch
        if freeze_epoch is not None:
            _epoch("freeze_epoch", freeze_epoch, start_epoch + 1)
        self.log_ranges = log_ranges
        self._paths: dict[int, str] = {}
        self._siblings: list[keras.callbacks.Callback] = []

    def set_model(self, model: keras.Model) -> None:
        """Attaches to the model, before any other callback can restore a state."""
        super().set_model(model)
        self._siblings = monitors.siblings(self)
        started = any(transform.enabled for _, transform in quantized(model))
        attach_quantization(model, {**self.settings, "enabled": started})
        if self.log_ranges:
            calls = reversed(trace(model).calls)  # of several calls the first names it
            self._paths = {id(call.operation): call.path for call in calls}

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Starts quantization and freezes ranges when it is time."""
        if epoch < self.start_epoch < self.params.get("epochs", 0):
            monitors.warn_of_span(self._siblings, self.start_epoch)
        self._siblings = []  # one warning for each fit
        frozen = self.freeze_epoch is not None and epoch >= self.freeze_epoch
        set_phase(self.model, enabled=epoch >= self.start_epoch, frozen=frozen)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds clipping shares, and ranges if asked for, to the logs."""
        if logs is None or epoch < self.start_epoch:
            return
        largest = 0.0
        for operation, transform in quantized(self.model):
            for name, share in transform.clipping().items():
                largest = max(largest, share)
                if self.log_ranges:
                    key = f"{self._paths[id(operation)]}:{name}"
                    low, high = transform.ends(name)
                    logs |= {
                        f"{key}/low": low,
                        f"{key}/high": high,
                        f"{key}/clipped": share,
                    }
        logs["quantization_clipped"] = largest


def _epoch(name: str, value: Any, least: int) -> int:
    fix = "Epochs count from 0, and freezing comes after the start"
    return whole(name, value, least, "epochs", fix)
