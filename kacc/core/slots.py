"""An optimizer's slots: what it keeps for each variable, such as momentums."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# Slots that an optimizer divides by, with the option that says where they start: at
# zero they would make NaN of a gradient of zero (Ftrl).
_INITIAL = {"_accumulators": "initial_accumulator_value"}


def slots_of(optimizer: Any, variable: Any) -> Iterator[tuple[Any, float]]:
    """What an optimizer keeps for a variable, shaped like it.

    Keras has no public way from a variable to its slots. Its optimizers keep them in
    lists in the order of the variables; tests/core/test_slots.py tries them all.

    Args:
        optimizer: a Keras optimizer, built or not, or None.
        variable: a trainable variable.

    Yields:
        (slot, the value that it started with).
    """
    if optimizer is None or not optimizer.built:
        return
    inner = [getattr(optimizer, "inner_optimizer", None)]
    for one in [*inner, *getattr(optimizer, "_inner_optimizers", ())]:
        yield from slots_of(one, variable)
    order = getattr(optimizer, "_trainable_variables", ())
    index = next((i for i, v in enumerate(order) if v is variable), None)
    if index is None:
        return
    for name, slots in vars(optimizer).items():
        if not isinstance(slots, list) or slots is order or len(slots) != len(order):
            continue
        slot = slots[index]
        if getattr(slot, "shape", None) == variable.shape and slot is not variable:
            yield slot, float(getattr(optimizer, _INITIAL.get(name, ""), 0.0))
