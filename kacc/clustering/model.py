"""Clustering the weights of a whole model in place."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from kacc.clustering.functional import STARTS
from kacc.clustering.placement import EXPECTED, Placement, place
from kacc.clustering.transform import (
    PER,
    Cluster,
    cluster_of,
    holds_for_values,
)
from kacc.core import attach, recipe
from kacc.core import rules as core_rules
from kacc.core.errors import UsageError
from kacc.core.graph import trace
from kacc.core.left import warn_of_left
from kacc.core.optimizers import extend_optimizer_of
from kacc.core.registry import matrix_weights
from kacc.core.rules import Rule

TECHNIQUE = "clustering"


def cluster(
    model: keras.Model,
    clusters: int = 16,
    start: str = "kmeans++",
    rules: Sequence[Rule] = (),
    *,
    per: str = "tensor",
    preserve_sparsity: bool = True,
) -> keras.Model:
    """Lets the weights of each layer share a few values, in place, without a callback.

    The values (centroids) are found at once by k-means, and training that follows moves
    them, and weights from one to another. Files become smaller when they are compressed
    (Han et al. 2016, arXiv:1510.00149). Quantized as well, a layer has one scale for
    all channels, so that its integers are as few as its clusters.

    Args:
        model: a built Keras 3 model; compiled or not.
        clusters: values that the weights of a layer have at most, 2 to 256.
        start: where k-means starts: "kmeans++", or "linear", evenly between the
            smallest and the largest weight.
        rules: exceptions by layer path: `kacc.Rule(pattern, skip=True)`, or with
            `clusters` of its own; the last that matches wins.
        per: "tensor", or "channel" for centroids of each output channel's own (of an
            embedding: each feature's), more accurate and less compressible.
        preserve_sparsity: whether in layers that are pruned, or have zeros otherwise,
            zeros stay zeros: one of the clusters is theirs.

    Of constraints on kernels centroids keep to NonNeg; a warning names others.

    Returns:
        The same model.

    Raises:
        UsageError: for an unbuilt model, a wrong argument, a rule that matches nothing,
            or a model without a layer to cluster.

    Example:
        >>> import keras, kacc
        >>> layers = [keras.Input((8,)), keras.layers.Dense(4, name="a")]
        >>> kacc.clustering.clusters(kacc.cluster(keras.Sequential(layers), 4))
        {'a': 4}
    """
    attach_clustering(
        model, settings_of(clusters, start, rules, per, preserve_sparsity)
    )
    update_clusters(model)
    return model


def settings_of(
    clusters: int, start: str, rules: Sequence[Rule], per: str, preserve_sparsity: bool
) -> dict[str, Any]:
    """The recipe's entry, of checked arguments.

    Raises:
        UsageError: if one is wrong.
    """
    for name, value, known in (("start", start, STARTS), ("per", per, PER)):
        if value not in known:
            raise UsageError(f"`{name}` must be one of {known}", received=value)
    if not isinstance(preserve_sparsity, bool):
        raise UsageError(
            "`preserve_sparsity` must be True or False", received=preserve_sparsity
        )
    return {
        "clusters": core_rules.clusters_checked(clusters),
        "start": start,
        "rules": core_rules.to_config(core_rules.checked(rules)),
        "per": per,
        "preserve_sparsity": preserve_sparsity,
        "enabled": True,
    }


def attach_clustering(
    model: keras.Model, settings: dict[str, Any], report: bool = True
) -> None:
    """Attaches by the settings of a recipe; centroids that exist already are kept."""
    placement = _placed(model, settings)
    kept = {id(layer) for layer in placement.layers.values()}
    with model.distribute_strategy.scope():
        for layer, transform in list(clustered_layers(model)):
            if id(layer) not in kept:
                attach.detach(layer, transform)
        for path, layer in placement.layers.items():
            count = placement.clusters.get(path, settings["clusters"])
            _attach_one(layer, count, settings)
    extend_optimizer_of(model)
    recipe.set_technique(model, TECHNIQUE, settings)
    attach.refresh_functions(model)
    if report:
        warn_of_left("does not cluster", placement.skipped, EXPECTED)
    lost = _lost_constraints(placement) if report else []
    if lost:
        warnings.warn(
            "Centroids keep to no constraint but NonNeg: after a step the clustered "
            f"weights may break it. Received: {', '.join(lost)}. Pass kacc.Rule(path, "
            "skip=True) for layers that must keep to theirs.",
            stacklevel=3,
        )


def _lost_constraints(placement: Placement) -> list[str]:
    """The constraints on weights as wholes, which values alone cannot keep to."""
    return [
        f"{type(variable.constraint).__name__} of {path}"
        for path, layer in placement.layers.items()
        for _, variable in matrix_weights(layer)
        if variable.constraint is not None and not holds_for_values(variable.constraint)
    ]


def _placed(model: keras.Model, settings: dict[str, Any]) -> Placement:
    rules = core_rules.from_config(settings["rules"])
    placement = place(trace(model), settings["clusters"], settings["per"], rules)
    if not placement.layers:
        said = "; ".join(f"{p}: {r}" for p, r in placement.skipped.items())
        raise UsageError(
            "The model must have a layer to cluster",
            received=said or "a model without kernels",
        )
    return placement


def _attach_one(layer: Any, count: int, settings: dict[str, Any]) -> None:
    present = cluster_of(layer)
    transform = Cluster(
        count, settings["start"], settings["per"], settings["preserve_sparsity"]
    )
    # A model that clusters already goes on with what it has.
    same = present is not None and present.get_config() == transform.get_config()
    transform.enabled = present.enabled if same and present else settings["enabled"]
    others = [t for t in attach.transforms_of(layer) if t is not present]
    attach.attach(layer, [*others, transform])


def update_clusters(model: keras.Model) -> None:
    """Finds the centroids of a clustered model anew, for the present weights.

    `kacc.callbacks.WeightClustering` does so when it starts.

    Args:
        model: a model with clustering attached.

    Example:
        >>> import keras, kacc
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> model = kacc.cluster(model, 4)
        >>> model.set_weights([3 * weight for weight in model.get_weights()])
        >>> kacc.clustering.update_clusters(model)
    """
    with model.distribute_strategy.scope():
        for _, transform in clustered_layers(model):
            transform.begin()


def begin_missing(model: keras.Model) -> None:
    """Finds centroids for layers that go on clustering with others than before."""
    with model.distribute_strategy.scope():
        for _, transform in clustered_layers(model):
            if transform.enabled and not transform.begun:
                transform.begin()


def start_clustering(model: keras.Model) -> None:
    """Begins to cluster a model whose transforms wait; loaded centroids are kept."""
    waiting = [t for _, t in clustered_layers(model) if not t.enabled]
    if not waiting:
        return
    with model.distribute_strategy.scope():
        for transform in waiting:
            if not transform.begun:
                transform.begin()
            transform.enabled = True
    settings = recipe.recipe_of(model).get(TECHNIQUE)
    if settings is not None:
        recipe.set_technique(model, TECHNIQUE, {**settings, "enabled": True})
    attach.refresh_functions(model)


def clustered_layers(model: Any) -> Iterator[tuple[Any, Cluster]]:
    """The clustered layers of a model, with their transforms.

    Example:
        >>> import keras, kacc
        >>> layers = [keras.Input((8,)), keras.layers.Dense(4, name="a")]
        >>> model = keras.Sequential(layers)
        >>> [layer.name for layer, _ in clustered_layers(kacc.cluster(model, 4))]
        ['a']
    """
    for operation in attach.attached(model):
        transform = cluster_of(operation)
        if transform is not None:
            yield operation, transform


def clusters(model: keras.Model) -> dict[str, int]:
    """How many different values the weights of each clustered layer have.

    Args:
        model: a model with clustering attached.

    Returns:
        Layer path -> number of values, the largest of the layer's rows (its weights, or
        their channels if they are clustered one by one).

    Example:
        >>> import keras, kacc
        >>> layers = [keras.Input((8,)), keras.layers.Dense(4, name="a")]
        >>> model = keras.Sequential(layers)
        >>> kacc.clustering.clusters(kacc.cluster(model, 4, per="channel"))
        {'a': 4}
    """
    calls = reversed(trace(model).calls)  # of several calls the first names it
    paths = {id(call.operation): call.path for call in calls}
    return {
        paths.get(id(layer), layer.name): transform.count()
        for layer, transform in clustered_layers(model)
    }


recipe.register_technique(
    TECHNIQUE,
    lambda model, settings: attach_clustering(model, settings, report=False),
)
