"""Choosing masks: which weights of a model go, at which step of the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kacc.core import attach
from kacc.core.optimizers import slots_of
from kacc.pruning import functional
from kacc.pruning.config import Method
from kacc.pruning.functional import Units
from kacc.pruning.transform import Prune, Pruned, prune_of


def pruned_layers(model: Any) -> Iterator[tuple[Any, Prune]]:
    """The pruned layers of a model, with their transforms."""
    for operation in attach.attached(model):
        transform = prune_of(operation)
        if transform is not None:
            yield operation, transform


def update_masks(model: keras.Model, progress: float = 1.0) -> None:
    """Chooses the masks of a pruned model for the present weights.

    `kacc.callbacks.Pruning` calls it; a training loop of your own does so itself.
    Weights that are pruned already stay so (except with `regrow`), and the optimizer's
    slots of those that go are reset.

    Args:
        model: a model with pruning attached.
        progress: how far each layer is on its way to its sparsity, 0 to 1.

    Example:
        >>> import keras, kacc
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> schedule = kacc.schedules.PolynomialDecay(0.0, 0.5, 0, 100)
        >>> model = kacc.prune(model, schedule, keep_ends=False)
        >>> kacc.pruning.sparsity(model)
        0.0
        >>> kacc.pruning.update_masks(model, progress=0.5)
        >>> kacc.pruning.sparsity(model)
        0.25
    """
    optimizer = getattr(model, "optimizer", None)
    with model.distribute_strategy.scope():
        for transforms in _groups(model):
            update(transforms, progress, optimizer)


def _groups(model: Any) -> list[list[Prune]]:
    """The transforms that rank their weights together."""
    pools: dict[tuple[Method, float], list[Prune]] = {}
    alone = []
    for _, transform in pruned_layers(model):
        if transform.pooled:
            pools.setdefault((transform.method, transform.target), []).append(transform)
        else:
            alone.append([transform])
    return [*pools.values(), *alone]


def update(transforms: list[Prune], progress: float, optimizer: Any) -> None:
    """Chooses the masks of transforms that rank their weights together."""
    method, regrow = transforms[0].method, transforms[0].regrow
    members = [one for t in transforms for one in t.pruned.values()]
    if not members:
        return
    gone = [one.zeros for one in members]
    units = [
        method.units(_numbers(one.variable), one.weight, None if regrow else zeros)
        for one, zeros in zip(members, gone, strict=True)
    ]
    scores = np.concatenate([unit.scores for unit in units])
    sizes = np.concatenate([unit.sizes for unit in units])
    count = _count(method, transforms[0].target * progress, scores, sizes)
    if not regrow and count <= sum(int(zeros.sum()) for zeros in gone):
        return
    chosen = functional.smallest(scores, count, sizes)
    threshold = 0.0
    if method.shrinks and chosen.any():
        threshold = max(0.0, float(scores[chosen].max()))
    for one, zeros in zip(members, _parts(units, chosen), strict=True):
        _prune(one, zeros, threshold, regrow, optimizer)


def _count(
    method: Method, sparsity: float, scores: np.ndarray, sizes: np.ndarray
) -> int:
    own = method.own_sparsity
    if own is None:
        return functional.count_of(sparsity, int(sizes.sum()))
    return functional.count_of(sparsity / own, int(np.isfinite(scores).sum()))


def _parts(units: list[Units], chosen: np.ndarray) -> Iterator[np.ndarray]:
    """For each weight where it is pruned, in its own shape."""
    ends = np.cumsum([len(unit.scores) for unit in units])[:-1]
    for unit, part in zip(units, np.split(chosen, ends), strict=True):
        yield unit.expand(part)


def _prune(
    one: Pruned, zeros: np.ndarray, threshold: float, regrow: bool, optimizer: Any
) -> None:
    one.mask.assign(np.where(zeros, 0.0, 1.0).astype("float32"))
    if regrow:
        return
    value = np.where(zeros, 0, _numbers(one.variable))
    if threshold:
        value = functional.soft_threshold(value, threshold)
    one.variable.assign(value)
    quiet(one, optimizer)


def quiet(one: Pruned, optimizer: Any) -> None:
    """Sets an optimizer's slots of pruned weights to what they started with.

    Their gradients are zero from then on, so that they stay there.
    """
    kept = tf.convert_to_tensor(one.mask.value) > 0
    for slot, initial in slots_of(optimizer, one.variable):
        value = tf.convert_to_tensor(slot.value)
        slot.assign(tf.where(kept, value, tf.cast(initial, value.dtype)))


def _numbers(variable: Any) -> np.ndarray:
    """A variable's values; those of bfloat16, which NumPy lacks, as float32."""
    value = variable.numpy()
    return value if value.dtype.kind == "f" else value.astype("float32")


def settle(model: Any) -> None:
    """Makes pruned weights zero that an optimizer moved in spite of zero gradients.

    Muon does, and averages of weights (`use_ema`) do. In between the mask hides it.
    """
    with model.distribute_strategy.scope():
        for _, transform in pruned_layers(model):
            if not transform.regrow:
                transform.settle()


def sparsity(model: keras.Model) -> float:
    """The share of the weights of a model's pruned layers that are masked.

    Layers that pruning leaves alone do not count.

    Args:
        model: a model with pruning attached.

    Returns:
        The share, 0 to 1; 0 for a model without pruning.

    Example:
        >>> import keras, kacc
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> kacc.pruning.sparsity(kacc.prune(model, 0.75, keep_ends=False))
        0.75
    """
    return share_of([transform for _, transform in pruned_layers(model)])


def share_of(transforms: Iterable[Prune]) -> float:
    """The share of weights that are masked."""
    masks = [one.zeros for t in transforms for one in t.pruned.values()]
    total = sum(zeros.size for zeros in masks)
    return sum(int(zeros.sum()) for zeros in masks) / total if total else 0.0
