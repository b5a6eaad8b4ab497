"""One model of keras.applications without half of its MACs.

Run by `applications_channels.py` in a process of its own; prints its row as a line of
JSON.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from application import CLASSES, LEAST, SIZE, phase, print_row

SAMPLES = 2


def run(row: dict[str, Any]) -> None:
    """Fills in the row as far as the model gets."""
    with phase(row, "import"):
        import keras

        from kacc.core.cost import cost
        from kacc.pruning.channels.pruner import plan_channels
    name = row["model"]
    row["input"] = LEAST.get(name, SIZE)
    keras.utils.set_random_seed(0)
    shape = (row["input"], row["input"], 3)
    with phase(row, "build"):
        model = getattr(keras.applications, name)(
            weights=None, input_shape=shape, classes=CLASSES
        )
    random = np.random.default_rng(0)
    x = random.uniform(0, 255, (SAMPLES, *shape)).astype("float32")
    wanted = np.asarray(model(x, training=False))
    with phase(row, "prune"):
        plan = plan_channels(model, macs=0.5)
        smaller = plan.build()
    whole, left = cost(model), cost(smaller)
    row |= {
        "groups": len(plan.kept),
        "MACs": left.macs,
        "share": left.macs / whole.macs,
        "params left": left.params / whole.params,
        "report": plan.report,
        "missed": "of the cost is left" in plan.report,
    }
    outputs = np.asarray(smaller(x, training=False))
    if outputs.shape != wanted.shape or not np.isfinite(outputs).all():
        raise ValueError(f"outputs of shape {outputs.shape}, or not finite")
    del smaller
    with phase(row, "copy"):
        copy = plan_channels(model, macs=1.0).build()
        row["difference at 1.0"] = float(
            np.abs(np.asarray(copy(x, training=False)) - wanted).max()
        )


if __name__ == "__main__":
    sys.exit(print_row(run))
