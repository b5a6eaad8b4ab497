"""`kacc.from_tf_keras`: a model of tf_keras made anew in Keras 3."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kacc.converters import legacy, tfmot
from kacc.converters.legacy_layers import NoLikeError, copy_weights, like
from kacc.converters.legacy_operators import operator_named
from kacc.core.errors import ConversionError, UsageError


def from_tf_keras(model: Any) -> Any:
    """Makes a Keras 3 model with the layers and weights of a tf_keras model.

    Wrappers of tensorflow-model-optimization are taken off: pruned weights are zero and
    clustered ones are their centroids, as `strip_pruning` and `strip_clustering` leave
    them; a quantization-aware model becomes the float model inside it, without its
    ranges. Layers, inputs and outputs keep their names, but for slashes. In training,
    Keras 3 forgets that a layer was called with `training=False`.

    Args:
        model: a built tf_keras model, Sequential or functional, whose layers may be
            such models again.

    Returns:
        A Keras 3 model of its own variables, not compiled.

    Raises:
        UsageError: if it is no tf_keras model, is not built, or is subclassed.
        ConversionError: if Keras 3 has no like of a layer, an activation or an
            operator; all of them are named.

    Example:
        >>> import numpy as np, tf_keras
        >>> old = tf_keras.Sequential([tf_keras.layers.Dense(2, input_shape=(3,))])
        >>> new = from_tf_keras(old)
        >>> x = np.ones((1, 3), "float32")
        >>> bool(np.allclose(new(x), old(x), atol=1e-6))
        True
    """
    if not legacy.is_legacy(model):
        raise UsageError(
            "kacc.from_tf_keras takes a tf_keras model",
            received=f"{type(model).__module__}.{type(model).__qualname__}",
        )
    if not _has_graph(model):
        raise UsageError(
            "kacc.from_tf_keras takes a Sequential or functional model that is built",
            received=f"{type(model).__name__} {model.name!r}",
            fix="kacc.convert takes subclassed models; write the class for Keras 3 and "
            "load the weights to train it on",
        )
    _reserve_names(model)
    builder = _Builder()
    with tfmot.wrappers_off(model):
        builder.make_all(model)
        if builder.problems:
            raise _unlike(builder.problems)
        try:
            new = builder.model(model)
            builder.copy_weights()
        except NoLikeError as error:
            raise _unlike([str(error)]) from error
    return new


def _reserve_names(model: Any) -> None:
    """Keeps Keras from giving operators the names that layers of the model have."""
    import keras

    for layer in model._flatten_layers():
        prefix, _, number = layer.name.rpartition("_")
        if not number.isdecimal():
            prefix, number = layer.name, "0"
        while keras.backend.get_uid(prefix) <= int(number):
            pass


def _unlike(problems: list[str]) -> ConversionError:
    return ConversionError(
        "Keras 3 must have the like of every layer, activation and operator",
        received=", ".join(dict.fromkeys(problems)),
        fix="Replace these; kacc.convert takes the tf_keras model as it is",
    )


def _has_graph(model: Any) -> bool:
    """Whether a model is a graph of layers, run as it stands."""
    import tf_keras

    # Private: tf_keras exports no class of functional models, and only this attribute
    # tells whether one has a graph. tests/core/test_keras_private.py watches.
    from tf_keras.src.engine.functional import Functional

    if not (
        isinstance(model, Functional) and getattr(model, "_is_graph_network", False)
    ):
        return False
    return type(model).call in (Functional.call, tf_keras.Sequential.call)


class _Builder:
    """Makes the layers anew, once each, and calls them as the old ones were called."""

    def __init__(self) -> None:
        self.made: dict[int, Any] = {}
        self.pairs: list[tuple[Any, Any]] = []
        self.problems: list[str] = []

    def make_all(self, model: Any) -> None:
        """Makes the layers of a model, those of models inside it too."""
        for layer in model.layers:
            try:
                self.make(layer)
            except NoLikeError as error:
                self.problems.append(str(error))

    def make(self, layer: Any) -> Any:
        """What takes a layer's place: a layer, a model, a function; None for inputs."""
        import tf_keras

        if id(layer) not in self.made:
            if isinstance(layer, tf_keras.Model):
                self.made[id(layer)] = self._inner_model(layer)
            elif not isinstance(layer, tf_keras.layers.InputLayer):
                self.made[id(layer)] = self._make(layer)
        return self.made.get(id(layer))

    def _inner_model(self, model: Any) -> Any:
        if not _has_graph(model):
            raise NoLikeError(f"subclassed model {type(model).__name__} {model.name}")
        count = len(self.problems)
        self.make_all(model)
        return None if len(self.problems) > count else self.model(model)

    def _make(self, layer: Any) -> Any:
        if tfmot.is_wrapper(layer, "QuantizeLayer"):
            return lambda x, **kwargs: x
        if type(layer).__name__ in ("TFOpLambda", "SlicingOpLambda"):
            function = layer.get_config()["function"]
            operator = operator_named(function)
            if operator is None:
                raise NoLikeError(f"operator tf.{function}")
            return operator
        new = like(tfmot.inner(layer), self.make)
        self.pairs.append((layer, new))
        return new

    def model(self, model: Any) -> Any:
        """The Keras 3 model of one whose layers are made."""
        import keras
        import tf_keras

        if isinstance(model, tf_keras.Sequential):
            layers = [self.made[id(layer)] for layer in model.layers]
            layers = [x for x in layers if isinstance(x, keras.Layer)]
            first = _input_of(model.inputs[0])
            return keras.Sequential([first, *layers], name=_name(model))
        inputs, outputs = self._called(model)
        return keras.Model(inputs, outputs, name=_name(model))

    def _called(self, model: Any) -> tuple[Any, Any]:
        """Inputs and outputs of a functional model, in its structure."""
        import tensorflow as tf

        values: dict[int, Any] = {id(x): _input_of(x) for x in model.inputs}

        def value(x: Any) -> Any:
            return values.get(id(x), x)

        # Private: the order of the calls and their arguments stand nowhere else.
        # tests/core/test_keras_private.py watches.
        for depth in sorted(model._nodes_by_depth, reverse=True):
            for node in model._nodes_by_depth[depth]:
                if node.is_input:
                    continue
                arguments = (node.call_args, node.call_kwargs)
                args, kwargs = tf.nest.map_structure(value, arguments)
                results = self._call(node.layer, args, kwargs)
                flat = tf.nest.flatten(node.outputs), _flat(results)
                values.update((id(old), new) for old, new in zip(*flat, strict=True))
        return (
            _plain(tf.nest.map_structure(value, model._nested_inputs)),
            _plain(tf.nest.map_structure(value, model._nested_outputs)),
        )

    def _call(self, layer: Any, args: Any, kwargs: Any) -> Any:
        function: Callable[..., Any] = self.made[id(layer)]
        kwargs = {key: value for key, value in kwargs.items() if value is not None}
        if kwargs.get("training"):  # which Keras 3 overrules in inference
            raise NoLikeError(f"{layer.name} (called with training=True)")
        try:
            return function(*args, **kwargs)
        except NoLikeError:
            raise
        except Exception as error:
            text = " ".join(str(error).split())[:200]
            raise NoLikeError(f"{layer.name} ({text})") from error

    def copy_weights(self) -> None:
        """Gives every layer its weights; Keras 3 copies some unbuilt layers inside."""
        for old, new in reversed(self.pairs):  # what is around first
            if new.built:
                copy_weights(old, new)


def _input_of(tensor: Any) -> Any:
    import keras

    # Private, as in Keras 3: the tensor's layer has the name that was given.
    layer = tensor._keras_history.layer
    return keras.Input(
        batch_shape=tuple(tensor.shape),
        dtype=tensor.dtype.name,
        name=_name(layer),
        sparse=bool(getattr(layer, "sparse", False)),
    )


def _flat(results: Any) -> list[Any]:
    import keras

    return keras.tree.flatten(results)


def _plain(structure: Any) -> Any:
    """Python's own lists and dictionaries in the place of tf_keras's tracked ones."""
    if isinstance(structure, dict):
        return {key: _plain(value) for key, value in structure.items()}
    if isinstance(structure, list | tuple):
        return [_plain(value) for value in structure]
    return structure


def _name(layer: Any) -> str:
    return str(layer.name).replace("/", "_")  # which Keras 3 does not allow
