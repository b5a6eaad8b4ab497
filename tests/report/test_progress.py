import io
import re

import keras
import numpy as np
import pytest
from rich.console import Console

from kacc.report.progress import Stages, TrainingProgress


def _train(stages, epochs, steps_per_execution=1):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", steps_per_execution=steps_per_execution)
    x, y = np.ones((20, 2)), np.ones((20, 1))
    callbacks = [TrainingProgress(stages, "training")]
    model.fit(x, y, batch_size=2, epochs=epochs, verbose=0, callbacks=callbacks)


@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_training_fills_the_bar(steps_per_execution):
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100)
    with Stages(30, console) as stages:
        _train(stages, 3, steps_per_execution)
        (task,) = stages._bar.tasks
        assert task.completed == 30
        assert task.description == "training, epoch 3/3"
    assert "━" in out.getvalue()
    assert re.search(r"100%|epoch 3/3", out.getvalue())


def test_without_a_terminal_each_stage_is_a_line():
    out = io.StringIO()
    with Stages(30, Console(file=out)) as stages:
        _train(stages, 2)
        stages.begin("converting")
    assert out.getvalue() == "training\nconverting\n"
