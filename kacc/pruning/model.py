"""Pruning a whole model in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from kacc.core import attach, recipe, registry
from kacc.core import rules as core_rules
from kacc.core.errors import UsageError
from kacc.core.graph import trace
from kacc.core.left import warn_of_left
from kacc.core.rules import Rule
from kacc.pruning.config import SCOPES, method_named, target_of
from kacc.pruning.masks import pruned_layers, quiet, update_masks
from kacc.pruning.placement import EXPECTED, Placement, place
from kacc.pruning.plan import value_and_target
from kacc.pruning.transform import Prune, prune_of

TECHNIQUE = "pruning"


def prune(
    model: keras.Model,
    sparsity: Any = None,
    method: Any = "magnitude",
    rules: Sequence[Rule] = (),
    *,
    scope: str = "global",
    keep_ends: bool = True,
    regrow: bool = False,
) -> keras.Model:
    """Prunes a model in place, without a callback.

    The masks are chosen at once, for the present weights; training that follows leaves
    pruned weights at zero. With a schedule the masks are those of its first step, and
    `kacc.pruning.update_masks` or `kacc.callbacks.Pruning` moves them on.

    Args:
        model: a built Keras 3 model; compiled or not.
        sparsity: the share of weights to remove, or a schedule (see
            `kacc.callbacks.Pruning`). It may be left out where `method` has its own.
        method: "magnitude", "soft", a pattern like "2:4" or a block like (1, 4).
        rules: exceptions by layer path: `kacc.Rule(pattern, skip=True)`, or with a
            `sparsity` of its own; the last that matches wins.
        scope: "global" ranks the weights of all layers together, but those of each
            embedding by themselves; "layer" gives each layer the same sparsity.
        keep_ends: whether the first and the last layer stay dense; embeddings do not.
        regrow: whether pruned weights go on learning and may come back.

    Returns:
        The same model.

    Raises:
        UsageError: for an unbuilt model, a wrong argument, a rule that matches nothing,
            or a model without a layer to prune.

    Example:
        >>> import keras, kacc
        >>> layers = [keras.layers.Dense(units) for units in (8, 8, 2)]
        >>> model = keras.Sequential([keras.Input((4,)), *layers])
        >>> model = kacc.prune(model, 0.75)
        >>> int((kacc.strip(model).layers[1].kernel.numpy() == 0).sum())
        48
    """
    value, target = value_and_target(sparsity)
    settings = settings_of(target, method, rules, scope, keep_ends, regrow)
    attach_pruning(model, settings)
    update_masks(model, 1.0 if value is None else value / (target or 1.0))
    return model


def settings_of(
    target: float | None,
    method: Any,
    rules: Sequence[Rule],
    scope: str,
    keep_ends: bool,
    regrow: bool,
) -> dict[str, Any]:
    """The recipe's entry, of checked arguments.

    Raises:
        UsageError: if one is wrong.
    """
    chosen = method_named(method)
    if scope not in SCOPES:
        raise UsageError(f"`scope` must be one of {SCOPES}", received=scope)
    if regrow and chosen.shrinks:
        raise UsageError(
            "A soft threshold shrinks the weights themselves, so none can come back",
            received="regrow=True",
            fix='Leave it out, or pass method="magnitude"',
        )
    return {
        "target": target_of(chosen, target),
        "method": chosen.name,
        "rules": core_rules.to_config(core_rules.checked(rules)),
        "scope": scope,
        "keep_ends": keep_ends,
        "regrow": regrow,
        "first_step": None,
    }


def attach_pruning(
    model: keras.Model, settings: dict[str, Any], report: bool = True
) -> None:
    """Attaches by the settings of a recipe; masks that exist already are kept."""
    placement = _placed(model, settings)
    kept = {id(layer) for layer in placement.layers.values()}
    with model.distribute_strategy.scope():
        for layer, transform in list(pruned_layers(model)):
            if id(layer) not in kept and not transform.wrapped:
                attach.detach(layer, transform)
        for path, layer in placement.layers.items():
            _attach_one(layer, placement.targets.get(path), settings)
    recipe.set_technique(model, TECHNIQUE, settings)
    attach.refresh_functions(model)
    if report:
        warn_of_left("leaves dense", placement.skipped, EXPECTED)


def _placed(model: keras.Model, settings: dict[str, Any]) -> Placement:
    """The layers to attach to: without a target only those that are wrapped already."""
    method = method_named(settings["method"])
    rules = core_rules.from_config(settings["rules"])
    graph = trace(model)
    wrapped = any(transform.wrapped for _, transform in pruned_layers(model))
    if settings["target"] is None and not (wrapped or rules):
        raise UsageError(
            f"The method {method.name!r} needs a sparsity to reach",
            received=None,
            fix="Pass a number such as 0.75, or a schedule",
        )
    placement = place(graph, method, rules, settings["keep_ends"])
    if settings["target"] is None:
        placement.layers = {p: placement.layers[p] for p in placement.targets}
    if not placement.layers and not wrapped:
        raise UsageError(
            "The model must have a layer to prune",
            received=_described(placement) or "a model without weights",
            fix="Pass keep_ends=False to prune the first and the last layer too",
        )
    return placement


def _described(placement: Placement) -> str:
    return "; ".join(f"{p} stays dense: {r}" for p, r in placement.skipped.items())


def _attach_one(layer: Any, own: float | None, settings: dict[str, Any]) -> None:
    present = prune_of(layer)
    if present is not None and present.wrapped:
        return
    # The numbers of a table have a scale of their own: ranked together with kernels it
    # would lose nearly all of its weights, or none.
    ranked = settings["scope"] == "global" and not any(registry.tables(layer))
    transform = Prune(
        settings["target"] if own is None else own,
        settings["method"],
        pooled=own is None and ranked,
        regrow=settings["regrow"],
    )
    others = [t for t in attach.transforms_of(layer) if t is not present]
    attach.attach(layer, [*others, transform])


def freeze_masks(model: keras.Model) -> None:
    """Ends the growing back of weights: from now on the masks stay as they are.

    Without `regrow` masks change only when `update_masks` asks for a higher sparsity.

    Args:
        model: a model with pruning attached.

    Example:
        >>> import keras, kacc
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> model = kacc.prune(model, 0.5, keep_ends=False, regrow=True)
        >>> kacc.pruning.freeze_masks(model)
        >>> int((model.layers[0].kernel.numpy() == 0).sum())
        16
    """
    growing = [transform for _, transform in pruned_layers(model) if transform.regrow]
    if not growing:
        return
    with model.distribute_strategy.scope():
        for transform in growing:
            transform.regrow = False
            transform.settle()
            for one in transform.pruned.values():
                quiet(one, getattr(model, "optimizer", None))
    settings = recipe.recipe_of(model).get(TECHNIQUE)
    if settings is not None:
        recipe.set_technique(model, TECHNIQUE, {**settings, "regrow": False})
    attach.refresh_functions(model)


recipe.register_technique(
    TECHNIQUE,
    lambda model, settings: attach_pruning(model, settings, report=False),
)
