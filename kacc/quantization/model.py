"""Quantizing a whole model in place, calibrating it, and what it says of itself."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras

from kacc.core import attach, recipe, registry, rules
from kacc.core.errors import UsageError
from kacc.core.graph import Call, Graph, trace
from kacc.core.optimizers import extend_optimizer_of
from kacc.core.registry import RangeSpec
from kacc.core.rules import Rule
from kacc.core.transform import observing
from kacc.quantization.calibration import BINS, Histogram, Ranges
from kacc.quantization.config import Scheme, scheme_named
from kacc.quantization.placement import Placement, place
from kacc.quantization.transform import (
    Quantize,
    quantize_of,
)
from kacc.quantization.widths import weight_widths

TECHNIQUE = "quantization"


def quantize(
    model: keras.Model,
    scheme: str = "int8",
    rules: Sequence[Rule] = (),
    learned_steps: bool | None = None,
) -> keras.Model:
    """Attaches quantization-aware training to a model, in place.

    From then on the training step fake-quantizes weights and activations. Ranges are
    moving averages of what is seen (Jacob et al. 2018, arXiv:1712.05877), or the
    quantization steps are parameters that the optimizer trains (LSQ, Esser et al. 2020,
    arXiv:1902.08153).

    Args:
        model: a built Keras 3 model; compiled or not.
        scheme: "int8", or "w4a8" for weights of 4 bits, but for the first and the last
            layers, which keep 8.
        rules: exceptions by layer path; the last that matches wins.
        learned_steps: whether steps are learned; None for what the scheme does, which
            is to learn those of "w4a8" only.

    Returns:
        The same model.

    Raises:
        UsageError: for an unbuilt model, an unknown scheme, a rule that matches
            nothing, or a model quantized by another scheme.

    Example:
        >>> import keras, kacc
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> kacc.quantize(model) is model
        True
    """
    settings = recipe_settings(scheme, rules, learned_steps)
    attach_quantization(model, settings)
    return model


def recipe_settings(
    scheme: str,
    rules: Sequence[Rule],
    learned_steps: bool | None,
) -> dict[str, Any]:
    """What the recipe of a model says of its quantization."""
    row = scheme_named(scheme)
    return {
        "scheme": row.name,
        "rules": rules_config(rules),
        "learned_steps": row.learned_steps if learned_steps is None else learned_steps,
        "enabled": True,
        "frozen": False,
    }


def rules_config(given: Sequence[Rule]) -> list[dict[str, Any]]:
    """The rules as the recipe keeps them."""
    return rules.to_config(rules.checked(given))


def attach_quantization(
    model: keras.Model, settings: dict[str, Any], report: bool = True
) -> None:
    """Attaches by the settings of a recipe; ranges that exist already are kept."""
    graph = trace(model)
    chosen = rules.resolve(
        rules.from_config(settings["rules"]),
        dict.fromkeys(call.path for call in graph.calls),
    )
    scheme = scheme_named(settings["scheme"])
    placement = place(
        graph, lambda call: _skipped(chosen.get(call.path)) or _unfit(call, scheme)
    )
    widths = weight_widths(graph, scheme, chosen)
    for path, operation in placement.operations.values():
        _require_same_scheme(operation, settings["scheme"], path)
    if not any(_has_weights(op) for _, op in placement.operations.values()):
        raise UsageError(
            "The model must have a layer that kacc can quantize",
            received=_described(placement.skipped) or "a model without weights",
            fix="kacc.support lists the layers; kacc.register_layer adds one",
        )
    _detach_others(model, placement)
    prefixes = _prefixes(graph, getattr(model, "holds_states", False))
    with model.distribute_strategy.scope():
        for key, (_, operation) in placement.operations.items():
            prefix = prefixes.get(key, "")
            transform = _transform(operation, placement.ranges[key], settings, widths)
            _attach_one(model, prefix, operation, transform)
    extend_optimizer_of(model)
    recipe.set_technique(model, TECHNIQUE, settings)
    attach.refresh_functions(model)
    if report and placement.skipped:
        warnings.warn(
            f"kacc leaves in float: {_described(placement.skipped)}", stacklevel=3
        )


def _has_weights(operation: Any) -> bool:
    spec = registry.find(operation)
    return spec is not None and bool(spec.weights)


def _detach_others(model: keras.Model, placement: Placement) -> None:
    """Takes quantization off what had it and now stays in float, by a rule."""
    for operation, transform in list(quantized(model)):
        if id(operation) not in placement.operations:
            attach.detach(operation, transform)


def _prefixes(graph: Graph, with_layers: bool) -> dict[int, str]:
    """What starts the names of variables that the model holds: id -> "add_3.".

    Keras numbers the names of operators through the whole process, so a file of weights
    would not fit the same model built again; their number in the graph stays.
    """
    operators: dict[int, str] = {}
    for call in graph.calls:
        is_layer = isinstance(call.operation, keras.Layer)
        if call.lasting and (with_layers or not is_layer):
            kind = type(call.operation).__name__.lower()
            operators.setdefault(id(call.operation), f"{kind}_{len(operators)}.")
    return operators


def _transform(
    operation: Any,
    ranges: dict[str, RangeSpec],
    settings: dict[str, Any],
    widths: dict[int, int],
) -> Quantize:
    symmetric = scheme_named(settings["scheme"]).symmetric
    fixed = {name: r.prescribed(symmetric) for name, r in ranges.items()}
    transform = Quantize(
        settings["scheme"],
        {name: r.nonnegative for name, r in ranges.items() if r.fixed is None},
        {name: ends for name, ends in fixed.items() if ends is not None},
        frozen=settings["frozen"],
        weight_bits=widths.get(id(operation)),
        learned_steps=settings.get("learned_steps", False),
    )
    transform.enabled = settings["enabled"]
    return transform


def _attach_one(
    model: keras.Model, prefix: str, operation: Any, transform: Quantize
) -> None:
    """Puts a new transform in the place of the present one, which hands over."""
    present = quantize_of(operation)
    if present is not None:
        transform.frozen, transform.enabled = present.frozen, present.enabled
    others = [t for t in attach.transforms_of(operation) if t is not present]
    attach.attach(operation, [*others, transform], owner=model, prefix=prefix)
    if present is not None:
        transform.take_ranges(present)
    transform.begin()


def _require_same_scheme(operation: Any, scheme: str, path: str) -> None:
    """Raises a UsageError if the layer is quantized by another scheme."""
    present = quantize_of(operation)
    if present is not None and present.scheme.name != scheme:
        raise UsageError(
            f"The layer {path!r} is already quantized as {present.scheme.name}",
            received=scheme,
            fix="Call kacc.strip(model) first",
        )


def _unfit(call: Call, scheme: Scheme) -> str | None:
    """Why an operation cannot have the activations of a scheme, or None."""
    wide = scheme.activation_bits == 16
    return registry.lacks_wide(call.operation) if wide else None


def _skipped(rule: Rule | None) -> str | None:
    return "a rule skips it" if rule is not None and rule.skip else None


def _described(skipped: dict[str, str]) -> str:
    return "; ".join(f"{path} ({reason})" for path, reason in skipped.items())


def quantized(model: Any) -> Iterator[tuple[Any, Quantize]]:
    """The quantized layers and operators of a model, with their transforms."""
    for operation in attach.attached(model):
        transform = quantize_of(operation)
        if transform is not None:
            yield operation, transform


def set_phase(model: keras.Model, enabled: bool, frozen: bool) -> bool:
    """Switches quantization and the learning of ranges; whether that changed anything.

    The model's functions are made anew if so, since both are fixed while tracing.
    """
    changed = False
    for _, transform in quantized(model):
        changed |= (transform.enabled, transform.frozen) != (enabled, frozen)
        if enabled and not transform.enabled:
            transform.begin()
        transform.enabled = enabled
        transform.freeze(frozen)
    if not changed:
        return False
    settings = recipe.recipe_of(model).get(TECHNIQUE)
    if settings is not None:
        new = {**settings, "enabled": enabled, "frozen": frozen}
        recipe.set_technique(model, TECHNIQUE, new)
    attach.refresh_functions(model)
    return True


def scheme_of(model: Any) -> str | None:
    """The scheme that a model is quantized by, or None for a plain one."""
    for _, transform in quantized(model):
        return transform.scheme.name
    return None


def skipped_by_rules(model: keras.Model) -> frozenset[str]:
    """Paths of the layers of a quantized model that a rule keeps in float."""
    settings = recipe.recipe_of(model).get(TECHNIQUE, {"rules": []})
    paths = dict.fromkeys(call.path for call in trace(model).calls)
    chosen = rules.resolve(rules.from_config(settings["rules"]), paths)
    return frozenset(path for path, rule in chosen.items() if rule.skip)


def placement_of(model: keras.Model, graph: Graph) -> Placement:
    """The placement of a model that is quantized already, as its layers have it."""

    def skip(call: Call) -> str | None:
        supported = registry.unsupported_reason(call.operation) is None
        if supported and call.lasting and quantize_of(call.operation) is None:
            # Identities and what a rule skips are not attached to; the first cost
            # nothing to keep.
            spec = registry.find(call.operation)
            if spec is not None and spec.output is not registry.Output.IDENTITY:
                return "it is not quantized"
        return None

    return place(graph, skip)


def unseen_ranges(model: keras.Model) -> list[str]:
    """Paths of the tensors whose range no training step and no calibration has seen."""
    graph = trace(model)
    paths = {id(call.operation): call.path for call in graph.calls}
    return [
        f"{paths[id(operation)]}:{name}"
        for operation, transform in quantized(model)
        if id(operation) in paths
        for name in transform.ranges
        if not transform.seen(name)
    ]


def require_seen(model: keras.Model, before: str, fix: str) -> None:
    """Raises unless each range of a quantized model has been seen.

    Args:
        model: a quantized model.
        before: what it must have been seen for, as the end of a sentence.
        fix: what to do where the model was never trained.

    Raises:
        UsageError: with the tensors, and how a trained model may have lost its ranges.
    """
    unseen = unseen_ranges(model)
    if unseen:
        raise UsageError(
            f"Every range of a quantized model must have been seen {before}",
            received=f"none for {', '.join(unseen)}",
            fix=f"{fix}. {_LOST}",
        )


# Weights of a float epoch hold the ranges as they were then: all zero.
_LOST = (
    "If it was trained, weights from before quantization began were put back, by "
    "EarlyStopping(restore_best_weights=True), a checkpoint or set_weights: train with "
    "start_epoch=0, or pass EarlyStopping the same start_from_epoch as start_epoch"
)


def calibrate(
    model: keras.Model, batches: Iterable[Any], ranges: str | Ranges = "minmax"
) -> None:
    """Fills in the ranges that were never seen, by running batches of inputs.

    Args:
        model: a quantized model.
        batches: inputs as the model takes them, each one batch.
        ranges: how they are chosen: "minmax", "percentile" (99.99), "mse", or a
            `Ranges` with options.

    Raises:
        UsageError: for an unknown way to choose, or values that are not finite.

    Example:
        >>> import keras, kacc, numpy as np
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> batches = [np.random.default_rng(0).normal(size=(64, 4))]
        >>> kacc.quantization.calibrate(kacc.quantize(model), batches, "mse")
    """
    chosen = ranges if isinstance(ranges, Ranges) else Ranges(ranges)
    bins = 0 if chosen.method == "minmax" else BINS
    transforms = [transform for _, transform in quantized(model)]
    for transform in transforms:
        unseen = [name for name in transform.ranges if not transform.seen(name)]
        transform.observed = {name: Histogram(bins) for name in unseen}
    try:
        with observing(), _all_enabled(model):
            for batch in batches:
                model(batch, training=False)
        _choose(transforms, chosen)
    finally:
        for transform in transforms:
            transform.observed = {}


def _choose(transforms: Iterable[Quantize], ranges: Ranges) -> None:
    for transform in transforms:
        scheme = transform.scheme
        for name, seen in transform.observed.items():
            if not seen.count:
                continue  # no batch, or a layer that no output needs
            if not seen.finite:
                raise UsageError(
                    "What a model computes from calibration data must be finite",
                    received=f"NaN or infinite values in {name!r}",
                    fix="Look for them in the data and in the model's weights",
                )
            ends = ranges.choose(
                seen, scheme.activation_bits, transform.ranges[name], scheme.symmetric
            )
            transform.set_range(name, *ends)


@contextlib.contextmanager
def _all_enabled(model: keras.Model) -> Iterator[None]:
    """Inside, transforms that have not started yet run as well."""
    before = [(transform, transform.enabled) for _, transform in quantized(model)]
    for transform, _ in before:
        transform.enabled = True
    try:
        yield
    finally:
        for transform, enabled in before:
            transform.enabled = enabled


recipe.register_technique(
    TECHNIQUE,
    lambda model, settings: attach_quantization(model, settings, report=False),
)
