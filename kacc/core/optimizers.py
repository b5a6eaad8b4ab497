"""What an optimizer keeps for each variable (slots), and giving it more variables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras

# Slots that an optimizer divides by, with the option that says where they start: at
# zero they would make NaN of a gradient of zero (Ftrl).
_INITIAL = {"_accumulators": "initial_accumulator_value"}


def extend_optimizer_of(model: keras.Model) -> None:
    """Gives the optimizer of a model what the model trains by now.

    Of what it knows already it keeps layers that are frozen for the moment.

    Args:
        model: compiled or not.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or not optimizer.built:
        return
    trained = list(model.trainable_variables)
    known = {id(v) for v in optimizer._trainable_variables} - set(map(id, trained))
    if any(id(v) in known for v in model.variables):
        wanted = known | set(map(id, trained))
        trained = [v for v in model.variables if id(v) in wanted]
    extend_optimizer(optimizer, trained)


def extend_optimizer(optimizer: Any, variables: Sequence[Any]) -> None:
    """Builds an optimizer anew for more variables; what it knows of the others stays.

    Keras builds an optimizer once, for a fixed list, and refuses any other variable.

    Args:
        optimizer: a keras.optimizers.Optimizer, or None; left alone if not yet built.
        variables: all trainable variables of the model, in its order.
    """
    if optimizer is None or not optimizer.built:
        return
    # Private: the list that it was built for, and what it tracks of its own.
    # tests/core/test_keras_private.py and test_optimizers.py fail if these change.
    before = list(optimizer._trainable_variables)
    if [id(v) for v in before] != [id(v) for v in variables]:
        rebuild_optimizer(optimizer, variables)


def rebuild_optimizer(optimizer: Any, variables: Sequence[Any] | None = None) -> None:
    """Builds a built optimizer anew; what it knows of its variables stays.

    Args:
        optimizer: a keras.optimizers.Optimizer that is built.
        variables: what it is built for; None for those that it has.
    """
    before = list(optimizer._trainable_variables)
    variables = before if variables is None else variables
    parts = [optimizer, getattr(optimizer, "inner_optimizer", None)]
    parts = [part for part in parts if part is not None]
    kept = [_contents(part, before) for part in parts]
    for part in parts:
        _forget(part)
    optimizer.build(list(variables))
    for part, contents in zip(parts, kept, strict=True):
        _put_back(part, contents, variables)


def _contents(optimizer: Any, variables: Sequence[Any]) -> dict[Any, Any]:
    """The values of all slots: by attribute, and by variable where it has one each."""
    contents: dict[Any, Any] = {}
    for attribute, value in vars(optimizer).items():
        if isinstance(value, keras.Variable):
            contents[attribute, None] = value.numpy()
        elif _is_slots(attribute, value, variables):
            for variable, slot in zip(variables, value, strict=True):
                if isinstance(slot, keras.Variable):
                    contents[attribute, id(variable)] = slot.numpy()
    return contents


def slots(optimizer: Any) -> dict[tuple[int, str, int], Any]:
    """The variables that a built optimizer keeps for each of the model's.

    Args:
        optimizer: a built keras.optimizers.Optimizer, wrapped or not.

    Returns:
        (0, or 1 for the inner optimizer; attribute; position of the model's variable
        among the trainable ones) -> the slot.
    """
    found = {}
    for number, part in enumerate(
        (optimizer, getattr(optimizer, "inner_optimizer", None))
    ):
        variables = [] if part is None else list(part._trainable_variables)
        for attribute, value in vars(part).items() if variables else ():
            if _is_slots(attribute, value, variables):
                for position, slot in enumerate(value):
                    if isinstance(slot, keras.Variable):
                        found[number, attribute, position] = slot
    return found


def slots_of(optimizer: Any, variable: Any) -> Iterator[tuple[Any, float]]:
    """The slots of one variable that are shaped like it: a number for each of its own.

    Args:
        optimizer: a Keras optimizer, built or not, wrapped or made of several; or None.
        variable: a trainable variable.

    Yields:
        (slot, the value that it started with).
    """
    if optimizer is None or not optimizer.built:
        return
    # Private, for Keras has no public way from a variable to its slots;
    # tests/core/test_optimizers.py tries all of its optimizers.
    inner = [getattr(optimizer, "inner_optimizer", None)]
    for one in [*inner, *getattr(optimizer, "_inner_optimizers", ())]:
        yield from slots_of(one, variable)
    variables = list(optimizer._trainable_variables)
    index = next((i for i, v in enumerate(variables) if v is variable), None)
    for name, value in vars(optimizer).items() if index is not None else ():
        if _is_slots(name, value, variables):
            slot = value[index]
            if slot is not None and slot.shape == variable.shape:
                yield slot, float(getattr(optimizer, _INITIAL.get(name, ""), 0.0))


def _is_slots(attribute: str, value: Any, variables: Sequence[Any]) -> bool:
    """Whether an attribute holds one entry for each variable."""
    if attribute == "_trainable_variables" or not isinstance(value, list):
        return False
    return len(value) == len(variables) and all(
        slot is None or isinstance(slot, keras.Variable) for slot in value
    )


def _forget(optimizer: Any) -> None:
    """Lets go of everything that `build` made."""
    # Not `iterations`, which with accumulated gradients is no variable.
    lasting = [optimizer._iterations, getattr(optimizer, "_learning_rate", None)]
    for variable in list(optimizer._variables):
        if not any(variable is other for other in lasting):
            optimizer._untrack_variable(variable)
    optimizer._trainable_variables_indices.clear()
    optimizer.built = False


def _put_back(
    optimizer: Any, contents: dict[Any, Any], variables: Sequence[Any]
) -> None:
    for attribute, value in list(vars(optimizer).items()):
        if isinstance(value, keras.Variable):
            _assign(value, contents.get((attribute, None)))
        elif _is_slots(attribute, value, variables):
            for variable, slot in zip(variables, value, strict=True):
                if isinstance(slot, keras.Variable):
                    _assign(slot, contents.get((attribute, id(variable))))


def _assign(variable: Any, value: Any) -> None:
    if value is not None:
        variable.assign(value)
