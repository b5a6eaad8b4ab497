"""Running parts one after another: models in Keras, or files with raw integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kacc.converters.artifact import Artifact
from kacc.converters.runtime import from_grid, real, to_grid
from kacc.converters.samples import check
from kacc.core.errors import UsageError
from kacc.core.manifest import TensorInfo


class Chain:
    """The files of the parts of one model, run one after another.

    Tensors are handed on by name: each file takes inputs of the model and what files
    before it gave. Integers go from file to file as they are, where both have one grid;
    else they pass through real numbers.

    Args:
        artifacts: the files in the order of the parts.
        inputs: names of the model's inputs in its order; by default in the order in
            which the files take them.
        outputs: names of its outputs; by default what no file takes.

    Raises:
        UsageError: if there is no file, or a name is wrong.

    Example:
        >>> import keras, kacc, tempfile
        >>> dense = keras.layers.Dense
        >>> model = keras.Sequential([keras.Input((4,)), dense(8), dense(2)])
        >>> files = kacc.split(model).convert(tempfile.mkdtemp(), "tflite-float32")
        >>> Chain(files).predict(np.ones((3, 4))).shape
        (3, 2)
    """

    def __init__(
        self,
        artifacts: Sequence[Artifact],
        inputs: Sequence[str] = (),
        outputs: Sequence[str] = (),
    ) -> None:
        self.artifacts = tuple(artifacts)
        if not self.artifacts:
            raise UsageError("A chain must have at least one file", received=artifacts)
        manifests = [artifact.manifest for artifact in self.artifacts]
        self._taken: dict[str, TensorInfo] = {}
        self._given: dict[str, TensorInfo] = {}
        for manifest in manifests:
            for info in manifest.inputs:
                if info.name not in self._given:
                    self._taken.setdefault(info.name, info)
            self._given.update((info.name, info) for info in manifest.outputs)
        read = {info.name for manifest in manifests for info in manifest.inputs}
        ends = [name for name in self._given if name not in read]
        self.input_names = tuple(inputs or self._taken)
        self.output_names = tuple(outputs or ends)
        missing = set(self._taken) - set(self.input_names)
        unknown = set(self.output_names) - {*self._given, *self.input_names}
        if missing or unknown:
            raise UsageError(
                "`inputs` must name all that the files take from outside, and "
                "`outputs` what they give",
                received=sorted(missing | unknown),
                fix=f"They take {list(self._taken)} and give {list(self._given)}",
            )

    def predict(self, x: Any, raw: bool = False, *, kernels: str = "xnnpack") -> Any:
        """Runs samples through all files.

        Args:
            x: as for the whole model: an array, or a list or dictionary of arrays.
            raw: whether to take and return the files' own types, integers of integer
                files, instead of real numbers.
            kernels: as for `Artifact.predict`.

        Returns:
            An array, or a dictionary of arrays by name for several outputs.

        Raises:
            UsageError: if `x` does not fit.
        """
        infos = [self._taken[n] for n in self.input_names if n in self._taken]
        fed = infos if raw else [real(info) for info in infos]
        values = self._fed(x, fed)
        held = {
            info.name: (value, given)
            for info, value, given in zip(infos, values, fed, strict=True)
        }
        for artifact in self.artifacts:
            feeds = [_as(info, *held[info.name]) for info in artifact.manifest.inputs]
            results = artifact.runtime(kernels).run(feeds)
            for info, value in zip(artifact.manifest.outputs, results, strict=True):
                held[info.name] = value, info
        named = {n: _told(*held[n], raw) for n in self.output_names}
        return named if len(named) > 1 else next(iter(named.values()))

    def _fed(self, x: Any, infos: Sequence[TensorInfo]) -> list[np.ndarray]:
        """The model's inputs that a file takes, in the model's order."""
        count = len(self.input_names)
        if len(infos) < count and isinstance(x, list | tuple) and len(x) == count:
            x = dict(zip(self.input_names, x, strict=True))  # one is not used
        return check(x, infos, "The data")

    def mismatches(self) -> list[str]:
        """Names of the tensors that two files have as integers of different grids.

        A tensor that one of them has in float, since a rule keeps its reader so, or as
        nothing in that file computes with it, loses nothing on the way.
        """
        given: dict[str, TensorInfo] = {}
        found: list[str] = []
        for artifact in self.artifacts:
            for info in artifact.manifest.inputs:
                before = given.setdefault(info.name, info)
                both = _is_integer(before) and _is_integer(info)
                if both and _grid(before) != _grid(info):
                    found.append(info.name)
            given.update((info.name, info) for info in artifact.manifest.outputs)
        return list(dict.fromkeys(found))


def run_parts(
    calls: Sequence[Callable[[list[np.ndarray]], list[np.ndarray]]],
    takes: Sequence[Sequence[str]],
    gives: Sequence[Sequence[str]],
    inputs: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Runs functions one after another, and gives all tensors by name.

    Args:
        calls: each from a flat list of arrays to a flat list of arrays.
        takes: the names of what each one takes, in order.
        gives: the names of what each one gives, in order.
        inputs: what is there from the start.

    Example:
        >>> add = lambda x: [x[0] + 1]
        >>> held = run_parts([add, add], [["a"], ["b"]], [["b"], ["c"]], {"a": 1})
        >>> held
        {'a': 1, 'b': 2, 'c': 3}
    """
    held = dict(inputs)
    for call, taken, given in zip(calls, takes, gives, strict=True):
        results = call([held[name] for name in taken])
        held.update(zip(given, results, strict=True))
    return held


def _grid(info: TensorInfo) -> tuple[Any, ...]:
    return info.dtype, info.scale, info.zero_point


def _is_integer(info: TensorInfo) -> bool:
    return info.is_quantized and not info.dtype.startswith("float")


def _as(info: TensorInfo, value: np.ndarray, own: TensorInfo) -> np.ndarray:
    """A tensor for a file that takes it as `info` says."""
    if _grid(own) == _grid(info):
        return value
    value = _told(value, own, raw=False)
    return to_grid(value, info) if _is_integer(info) else value.astype(info.dtype)


def _told(value: np.ndarray, info: TensorInfo, raw: bool) -> np.ndarray:
    return from_grid(value, info) if _is_integer(info) and not raw else value
