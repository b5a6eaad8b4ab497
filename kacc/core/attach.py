"""Attaching transforms to a layer or operator in place, by a swap of its class.

The instance's class becomes a subclass of its own class that runs the original `call`
with transformed weights and passes what it reads and makes through the transforms. The
subclass keeps the name, so that paths in weight files stay the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import keras
from keras import tree
from keras.src.saving import object_registration

from kacc.core import registry
from kacc.core.transform import (
    State,
    Transform,
    transform_config,
    transform_from_config,
)

REGISTERED_NAME = "kacc>Attached"

# The layer whose own activation is switched off while its `call` runs: the file has an
# operator of its own for it, with a range before it.
_LINEAR: ContextVar[Any] = ContextVar("kacc_linear", default=None)

_CLASSES: dict[type, type] = {}


def transforms_of(operation: Any) -> tuple[Transform, ...]:
    """The transforms attached to a layer or operator, in the order of their stages."""
    return getattr(operation, "_kacc_transforms", ())


def base_class(operation: Any) -> Any:
    """The class of a layer or operator as it was before anything was attached."""
    return base_class_of(type(operation))


def base_class_of(cls: type) -> Any:
    """The class that an attached class was made from, or the class itself."""
    return vars(cls).get("kacc_base", cls)


def weight_before(operation: Any, attribute: str, stage: int) -> Any:
    """A weight as the transforms before a stage leave it.

    This, and not the variable, is what a later stage starts from.

    Args:
        operation: a layer, attached or not.
        attribute: names the weight.
        stage: transforms of this stage and of later ones are left out.

    Returns:
        A tensor of the variable's own type, whatever the layer computes in.
    """
    with keras.src.backend.AutocastScope(None):
        value = keras.ops.convert_to_tensor(getattr(operation, attribute).value)
    for transform in transforms_of(operation):
        if transform.enabled and transform.stage < stage:
            value = transform.weight(attribute, value)
    return value


def is_attached(model: Any) -> bool:
    """Whether anything is attached inside a model or layer."""
    return any(True for _ in attached(model))


def attached(model: Any) -> Iterator[Any]:
    """The attached layers and operators inside a model, each once."""
    seen = set()
    for layer in model._flatten_layers():
        for operation in (layer, *getattr(layer, "operations", ())):
            if id(operation) not in seen and transforms_of(operation):
                seen.add(id(operation))
                yield operation


def attach(
    operation: Any,
    transforms: Sequence[Transform],
    owner: Any = None,
    prefix: str = "",
) -> None:
    """Attaches transforms in place; what was attached before is replaced.

    Args:
        operation: a layer, or an operator of a functional model.
        transforms: at most one of each class.
        owner: the model that holds the variables of an operator; those of layers too
            if it says `holds_states`.
        prefix: starts the names of the variables in the owner.
    """
    ordered = tuple(sorted(transforms, key=lambda t: t.stage))
    in_owner = getattr(owner, "holds_states", not isinstance(operation, keras.Layer))
    holder = owner if in_owner else operation
    state = _state_of(holder)
    for transform in ordered:
        transform.build(operation, state, prefix)
    operation.__class__ = _attached_class(base_class(operation), operation)
    # Through `object`: Keras would track the list, and refuses it on a built layer.
    object.__setattr__(operation, "_kacc_transforms", ordered)


def detach(operation: Any, transform: Transform | None = None) -> None:
    """Takes transforms off; what they leave in the weights is written there before.

    Without any a layer or operator has its own class again, and no state.

    Args:
        operation: a layer or operator.
        transform: the only one to take off, or None for all.
    """
    if not transforms_of(operation):
        return
    others = [t for t in transforms_of(operation) if t is not transform]
    if transform is not None and others:
        transform.settle()
        transform.discard()
        object.__setattr__(operation, "_kacc_transforms", tuple(others))
        return
    for one in transforms_of(operation):
        one.settle()
    operation.__class__ = base_class(operation)
    object.__delattr__(operation, "_kacc_transforms")
    drop_state(operation)


def drop_state(holder: Any) -> None:
    """Removes the state layer of a layer or model, if it has one."""
    state = getattr(holder, "_kacc_state", None)
    if isinstance(holder, keras.Layer) and state is not None:
        holder._tracker.untrack(state)
        delattr(holder, "_kacc_state")


def _state_of(holder: Any) -> State:
    """The child layer that holds the variables; made the first time."""
    state = getattr(holder, "_kacc_state", None)
    if state is None:
        state = State(name="kacc_state")
        locked = holder._tracker.locked
        holder._tracker.unlock()
        try:
            holder._kacc_state = state
        finally:
            if locked:
                holder._lock_state()
    return state


def swap_base(operation: Any, base: type) -> None:
    """Swaps the class of a layer for an equivalent one, below what is attached."""
    if transforms_of(operation):
        operation.__class__ = _attached_class(base, operation)
    else:
        operation.__class__ = base


def refresh_functions(model: keras.Model) -> None:
    """Makes the compiled functions anew: they hold the graph of before.

    Without this `predict`, `evaluate` and the running fit go on with the old graph.
    """
    for layer in model._flatten_layers():
        if not isinstance(layer, keras.Model):
            continue
        for kind in ("train", "test", "predict"):
            if getattr(layer, f"{kind}_function", None) is not None:
                getattr(layer, f"make_{kind}_function")(force=True)


class Steps:
    """The hooks of one running call: weights and tensors go through the transforms."""

    constant = False  # whether the graph is the one that becomes the file
    symmetric = False  # and whether its zero points are 0

    def __init__(self, operation: Any) -> None:
        self.operation = operation
        self.transforms = [t for t in transforms_of(operation) if t.enabled]

    def range(self, name: str, value: Any) -> Any:
        """Passes the tensor `name` through the transforms."""
        for transform in self.transforms:
            value = transform.range(name, value)
        return value

    def rectifies(self, name: str) -> bool:
        """Whether `range(name, ...)` sends negative values to zero, as a relu does."""
        return any(transform.rectifies(name) for transform in self.transforms)

    def weight(self, attribute: str, value: Any) -> Any:
        """Passes a weight's value through the transforms."""
        for transform in self.transforms:
            value = transform.weight(attribute, value)
        return value


def _attached_class(base: type, operation: Any) -> type:
    """The subclass of `base` that runs transforms, made once for each base."""
    if base not in _CLASSES:
        members: dict[str, Any] = {
            "kacc_base": base,
            "kacc_equivalent": True,
            "__module__": base.__module__,
            "__qualname__": base.__qualname__,
            "__doc__": base.__doc__,
            "call": _attached_call,
        }
        if issubclass(base, keras.Layer):
            # Private, for there is no public call between the building of a layer and
            # its first use. tests/core/test_keras_private.py fails if it changes.
            members["_post_build"] = _attached_post_build
            members["get_config"] = _attached_config
            members["from_config"] = classmethod(_from_config)
            if "activation" in vars(operation):
                members["activation"] = property(_activation, _set_activation)
        _CLASSES[base] = type(base.__name__, (base,), members)
        if issubclass(base, keras.Layer):
            object_registration.GLOBAL_CUSTOM_NAMES[_CLASSES[base]] = REGISTERED_NAME
    return _CLASSES[base]


def _activation(layer: Any) -> Any:
    if _LINEAR.get() is layer:
        return keras.activations.linear
    return vars(layer)["activation"]


def _set_activation(layer: Any, value: Any) -> None:
    vars(layer)["activation"] = value


@contextlib.contextmanager
def without_activation(layer: Any) -> Iterator[None]:
    """Inside, the attached layer's own activation is the identity."""
    token = _LINEAR.set(layer)
    try:
        yield
    finally:
        _LINEAR.reset(token)


def _attached_post_build(self: Any) -> None:
    """Creates what depends on the shapes of weights, while state may be added."""
    base_class(self)._post_build(self)
    for transform in transforms_of(self):
        transform.build(self, self._kacc_state, "")


def _attached_call(self: Any, *args: Any, **kwargs: Any) -> Any:
    steps = Steps(self)
    if steps.transforms:
        outputs = forward(self, steps, args, kwargs)
    else:
        outputs = base_class(self).call(self, *args, **kwargs)
    for transform in transforms_of(self):
        if not transform.enabled:
            outputs = tree.map_structure(transform.idle, outputs)
    return outputs


def forward(
    operation: Any, steps: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Runs a layer's own `call` between the hooks of `steps`.

    Args:
        operation: an attached layer or operator.
        steps: has `range(name, value)` and `weight(attribute, value)`.
        args: the call's positional arguments.
        kwargs: its keyword arguments.

    Returns:
        What the call returns, its output passed through `range("output", ...)`.
    """
    args, kwargs = _ranged_inputs(steps, args, kwargs)
    spec = registry.find(operation)
    assert spec is not None, "only registered types are attached"
    call = spec.call or own_call
    if all(transform.weights_only for transform in transforms_of(operation)):
        call = own_call  # there is nothing between the operators
    with transformed_weights(operation, spec, steps):
        outputs = call(operation, steps, *args, **kwargs)
    return steps.range("output", outputs)


def own_call(operation: Any, steps: Any, *args: Any, **kwargs: Any) -> Any:
    """The forward pass of types whose row has none: the layer's own `call`."""
    return base_class(operation).call(operation, *args, **kwargs)


def _ranged_inputs(steps: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The call's tensors, each passed through the range of its position."""
    position = -1

    def ranged(value: Any) -> Any:
        nonlocal position
        if not keras.ops.is_tensor(value):
            return value
        position += 1
        return steps.range(f"input_{position}", value)

    return tree.map_structure(ranged, (args, kwargs))


@contextlib.contextmanager
def transformed_weights(
    operation: Any, spec: registry.LayerSpec, steps: Any
) -> Iterator[None]:
    """Inside, the layer's weights have their transformed values.

    Keras's StatelessScope does it for any layer type, with two traps: it hides an outer
    scope, and it swallows updates of other state. Both are mended here.
    """
    mapping = []
    for weight in spec.weights:
        variable = getattr(operation, weight.attribute)
        # The full value, not bfloat16: a variable itself would cast again when read.
        with keras.src.backend.AutocastScope(None):
            value = variable.value
        mapping.append((variable, steps.weight(weight.attribute, value)))
    for weight, variable in registry.tables(operation):
        with keras.src.backend.AutocastScope(None):
            value = variable.value
        changed = steps.weight(weight.attribute, value)
        if changed is not value:
            mapping.append((variable, changed))
    if not mapping:
        yield
        return
    outer = keras.src.backend.get_stateless_scope()
    scope = keras.StatelessScope(mapping, collect_losses=True)
    mapped = dict(scope.state_mapping)
    if outer is not None:
        scope.state_mapping = {**outer.state_mapping, **scope.state_mapping}
        mapped = dict(scope.state_mapping)
    with scope:
        yield
    _write_back(operation, scope, mapped)


def _write_back(operation: Any, scope: Any, before: dict[int, Any]) -> None:
    for variable in operation.variables:
        value = scope.state_mapping.get(id(variable))
        if value is not None and value is not before.get(id(variable)):
            variable.assign(value)
    for loss in scope.losses:
        operation.add_loss(loss)


def _attached_config(self: Any) -> dict[str, Any]:
    with plain(self):
        inner = keras.saving.serialize_keras_object(self)
    # Keras writes these two beside the outer config, from where they are read.
    inner.pop("build_config", None)
    inner.pop("compile_config", None)
    return {
        "name": self.name,
        "inner": inner,
        "transforms": [transform_config(t) for t in transforms_of(self)],
    }


@contextlib.contextmanager
def plain(operation: Any) -> Iterator[None]:
    """Inside, the operation has the class that it had before attaching."""
    cls = type(operation)
    operation.__class__ = base_class(operation)
    try:
        yield
    finally:
        operation.__class__ = cls


def _from_config(cls: type, config: dict[str, Any], custom_objects: Any = None) -> Any:
    if "inner" not in config:
        return base_class_of(cls).from_config(config)
    return from_config(config, custom_objects)


def from_config(config: dict[str, Any], custom_objects: Any = None) -> Any:
    """Makes the attached layer that a saved model describes."""
    inner = {**config["inner"]}
    inner["config"] = {**inner["config"], "name": config["name"]}
    layer = keras.saving.deserialize_keras_object(inner, custom_objects=custom_objects)
    transforms = [transform_from_config(entry) for entry in config["transforms"]]
    if transforms:
        attach(layer, transforms)
    return layer
