"""Several models as one plain Keras model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, tree

from kacc.core.arguments import whole
from kacc.core.copying import Copier
from kacc.core.errors import UsageError
from kacc.core.graph import Graph, trace
from kacc.core.outputs import are_unbounded, kinds_of
from kacc.ensembling.functional import least_squares_weights, mixture_weights
from kacc.ensembling.head import (
    answers_of,
    are_binary,
    as_probabilities,
    class_numbers,
    train_head,
)

METHODS = ("average", "weighted", "stacked")


def ensemble(
    models: Sequence[keras.Model],
    method: str = "average",
    data: Any = None,
    weights: Sequence[float] | None = None,
    *,
    epochs: int = 20,
    name: str = "ensemble",
) -> keras.Model:
    """Puts several models into one, which answers with what they say together.

    The members are copied; what they do to the inputs before their first weights
    (rescaling and the like) is done once if it is the same. The result is a plain Keras
    model: it is saved, trained on, quantized and converted as any other, and is one
    file. `kacc.callbacks.Distillation(teacher=result)` makes one small model of it.

    Args:
        models: two or more built models with equal inputs and equal outputs. What is
            attached to them (masks, clusters) is kept as numbers; of quantization the
            result has nothing.
        method: "average"; "weighted", a mean with `weights`, or with those under which
            the labels of `data` are most likely (classes; of logits by their softmax)
            or that are closest to them (other values); "stacked", a dense layer on all
            answers, trained on `data` (Wolpert 1992), for one output: it ends in a
            softmax for classes and in a sigmoid for probabilities of 0 and 1.
        data: (x, y) arrays or a tf.data.Dataset of (x, y) that the members were not
            trained on.
        weights: one for each member, at least 0; they are divided by their sum.
        epochs: of "stacked".
        name: of the new model.

    Returns:
        A new model, to be compiled before it is trained.

    Raises:
        UsageError: for fewer than two models, models that differ in inputs or outputs
            (a mean also of probabilities and logits), a wrong method, or data or
            weights that are missing or of no use.

    Example:
        >>> import numpy as np, keras, kacc
        >>> def model():
        ...     return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> one, two = model(), model()
        >>> x = np.ones((1, 4), "float32")
        >>> mean = (one.predict(x, verbose=0) + two.predict(x, verbose=0)) / 2
        >>> both = kacc.ensemble([one, two])
        >>> bool(np.allclose(both.predict(x, verbose=0), mean, atol=1e-6))
        True
    """
    graphs = _checked(models, method, data, weights)
    whole("epochs", epochs, 1)
    inputs = [_input(tensor, models[0], i) for i, tensor in enumerate(graphs[0].inputs)]
    copier = Copier()
    members = [
        copier.copied(graph, inputs, f"member_{number}")
        for number, graph in enumerate(graphs)
    ]
    if method == "stacked":
        head = train_head(models, graphs[0], data, epochs)
        outputs: Any = head(layers.Concatenate(name="answers")(_flat(members)))
    else:
        shares = None
        if method == "weighted":
            shares = _shares(models, graphs[0], data, weights)
        outputs = _mean(members, shares)
    built = keras.Model(_as_given(models[0], inputs), outputs, name=name)
    copier.carry_weights()
    return built


def _checked(
    models: Sequence[keras.Model], method: str, data: Any, weights: Any
) -> list[Graph]:
    models = list(models) if isinstance(models, list | tuple) else []
    if len(models) < 2 or not all(isinstance(m, keras.Model) for m in models):
        raise UsageError(
            "An ensemble needs a list of two Keras models or more",
            received=[type(m).__name__ for m in models],
        )
    if method not in METHODS:
        raise UsageError(f"`method` must be one of {METHODS}", received=method)
    graphs = [trace(model) for model in models]
    for kind in ("inputs", "outputs"):
        shapes = [[(t.shape[1:], t.dtype) for t in getattr(g, kind)] for g in graphs]
        for number, found in enumerate(shapes):
            if found != shapes[0]:
                raise UsageError(
                    f"The models of an ensemble must have equal {kind}",
                    received=f"{found} of model {number}, {shapes[0]} of model 0",
                )
    if method == "stacked" and len(graphs[0].outputs) != 1:
        raise UsageError(
            "A trained head needs models of one output",
            received=f"{len(graphs[0].outputs)} outputs",
            fix='Pass method="average"',
        )
    if method != "stacked":
        _check_kinds(models, graphs)
    _check_weights(models, method, data, weights)
    return graphs


def _check_kinds(models: Sequence[keras.Model], graphs: list[Graph]) -> None:
    """Refuses means of probabilities and logits, which are neither."""
    found = []
    for model, graph in zip(models, graphs, strict=True):
        kinds = tree.flatten(kinds_of(model))
        unbounded = are_unbounded(graph)
        found.append(
            [
                "unbounded" if k == "values" and u else k
                for k, u in zip(kinds, unbounded, strict=True)
            ]
        )
    for number, kinds in enumerate(zip(*found, strict=True)):
        likely = [i for i, k in enumerate(kinds) if k in ("probabilities", "sigmoid")]
        others = {"logits", "binary logits"}
        if "probabilities" in kinds:  # a regression may be like a sigmoid
            others.add("unbounded")
        logits = [i for i, k in enumerate(kinds) if k in others]
        if likely and logits:
            raise UsageError(
                "The members of a mean must all say probabilities, or all logits",
                received=f"probabilities of model {likely[0]}, logits of model "
                f"{logits[0]} (output {number})",
                fix="End the one in a softmax (sigmoid) too: "
                "keras.Sequential([model, keras.layers.Softmax()])",
            )


def _check_weights(models: Any, method: str, data: Any, weights: Any) -> None:
    needs = method == "stacked" or (method == "weighted" and weights is None)
    if needs and data is None:
        raise UsageError(
            f"The method {method!r} needs data that the members were not trained on",
            received="data=None",
            fix="Pass data=(x, y)",
        )
    if weights is None:
        return
    try:
        numbers = np.asarray(weights, dtype=float)
    except (TypeError, ValueError):
        numbers = np.zeros(0)
    are_numbers = numbers.shape == (len(models),) and np.all(np.isfinite(numbers))
    fits = are_numbers and np.all(numbers >= 0) and numbers.sum()
    if method != "weighted" or not fits:
        raise UsageError(
            'With method="weighted", `weights` must be a number for each model, at '
            "least 0 and not all 0",
            received=f"method={method!r}, weights={weights}",
        )


def _input(tensor: Any, model: keras.Model, index: int) -> Any:
    names = [
        getattr(x, "name", None) for x in tree.flatten(getattr(model, "inputs", None))
    ]
    name = names[index] if index < len(names) else None
    return keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=name)


def _as_given(model: keras.Model, inputs: list[Any]) -> Any:
    """The inputs in the structure that the first model takes."""
    structure = getattr(model, "_inputs_struct", None)
    if structure is not None:
        return tree.pack_sequence_as(structure, inputs)
    return inputs[0] if len(inputs) == 1 else inputs


def _flat(members: list[Any]) -> list[Any]:
    return [tree.flatten(member)[0] for member in members]


def _shares(models: Any, graph: Graph, data: Any, weights: Any) -> list[float]:
    if weights is None:
        if len(graph.outputs) != 1:
            raise UsageError(
                "Weights are found for models of one output",
                received=f"{len(graph.outputs)} outputs",
                fix="Pass weights=[...]",
            )
        answers, labels = answers_of(models, data)
        numbers = class_numbers(answers[0], labels)
        if numbers is not None:
            found = mixture_weights(list(map(as_probabilities, answers)), numbers)
        elif are_binary(answers, labels):
            both = [np.stack([1 - p, p], axis=-1) for p in answers]
            found = mixture_weights(both, labels.reshape(answers[0].shape))
        else:
            found = least_squares_weights(answers, labels)
    else:
        found = np.asarray(weights, float)
    return [float(x) for x in found / found.sum()]


def _mean(members: list[Any], shares: list[float] | None) -> Any:
    """The mean of each output; with shares, each times its own, all added up."""

    def mean(*answers: Any) -> Any:
        if shares is None:
            return layers.Average()(list(answers))
        return layers.Add()(
            [layers.Rescaling(s)(x) for s, x in zip(shares, answers, strict=True)]
        )

    return tree.map_structure(mean, *members)
