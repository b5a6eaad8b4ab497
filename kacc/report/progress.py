"""A progress bar that Keras feeds while it trains."""

from __future__ import annotations

from typing import Any

import keras
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)


class Stages:
    """One bar over all stages of a job; a line for each stage where no bar can be.

    Args:
        total: the number of steps of all stages together.
        console: where to draw; by default standard error.

    Example:
        >>> import io
        >>> with Stages(2, Console(file=io.StringIO())) as stages:
        ...     stages.begin("converting")
        ...     stages.advance(2)
    """

    def __init__(self, total: int, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<34}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Stages:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def begin(self, text: str) -> None:
        """Name the stage that starts now."""
        self._bar.update(self._task, description=text)
        if not self.console.is_terminal:
            self.console.print(text, highlight=False)

    def describe(self, text: str) -> None:
        """Change the text beside the bar; nothing is printed where no bar can be."""
        self._bar.update(self._task, description=text)

    def advance(self, steps: int = 1) -> None:
        """Count steps as done."""
        self._bar.advance(self._task, steps)


class TrainingProgress(keras.callbacks.Callback):
    """Moves a bar on at each training step and names the epoch beside it.

    Args:
        stages: the bar.
        text: what is trained.
    """

    def __init__(self, stages: Stages, text: str) -> None:
        super().__init__()
        self._stages = stages
        self._text = text
        self._step = 0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Name the stage."""
        self._stages.begin(self._text)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Name the epoch."""
        self._step = 0
        self._stages.describe(
            f"{self._text}, epoch {epoch + 1}/{self.params['epochs']}"
        )

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Count the steps since the last call (there can be several in one)."""
        # With several steps in one call, Keras counts past the end of the epoch.
        step = min(batch + 1, self.params["steps"] or batch + 1)
        self._stages.advance(step - self._step)
        self._step = step
