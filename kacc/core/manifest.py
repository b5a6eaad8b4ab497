"""The manifest: what a converted file is, and how numbers go in and come out of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from kacc.core.errors import KaccError

SINGLE, LIST, DICT = "single", "list", "dict"


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a file.

    Args:
        name: the name in the file's signature.
        shape: its shape; None where it is free.
        dtype: the type in the file, as NumPy spells it.
        scale: size of one integer step in real units; None where the file's values do
            not lie on a grid. An int8 file with float32 inputs and outputs has it too.
        zero_point: the integer that stands for 0.0, or None.
        integers: the type of the grid's integers, also where `dtype` is a float type.

    Example:
        >>> TensorInfo("image", (None, 8, 8, 1), "int8", 0.5, -128).is_quantized
        True
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None
    integers: str = "int8"

    @property
    def is_quantized(self) -> bool:
        """Whether the values lie on a grid of integers."""
        return self.scale is not None


@dataclass(frozen=True)
class Manifest:
    """What a converted file is: its target, its origin, its inputs and outputs.

    Args:
        target: the target's name, such as "tflite-int8".
        inputs, outputs: in the order of the Keras model.
        input_structure, output_structure: "single", "list" or "dict", as the Keras
            model takes and gives them.
        scheme: the quantization scheme that the model was trained with, or None.
        backend: the program that wrote the numbers ("tflite" or "ai-edge").
        options: the options of the conversion.
        versions: versions of kacc, keras and tensorflow.
        sha256, size_bytes: of the whole file.
        report: what the target's compiler said of the file.

    Example:
        >>> image = TensorInfo("image", (None, 8), "float32")
        >>> logits = TensorInfo("logits", (None, 2), "float32")
        >>> manifest = Manifest("tflite-float32", (image,), (logits,))
        >>> manifest.inputs[0].name
        'image'
    """

    target: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    input_structure: str = SINGLE
    output_structure: str = SINGLE
    scheme: str | None = None
    backend: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    sha256: str = ""
    size_bytes: int = 0
    report: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self, tensors: bool = False) -> str:
        """The part that travels with the file, which cannot hold its own hash.

        Args:
            tensors: whether types, shapes and scales are written too, where the file
                does not have them: else two records of one fact would differ one day.

        Returns:
            JSON, with inputs and outputs in the model's order.
        """
        record = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("sha256", "size_bytes"):
            del record[name]
        for name in ("inputs", "outputs"):
            record[name] = [asdict(t) if tensors else t.name for t in record[name]]
        return json.dumps(record, sort_keys=True, separators=(",", ":"), default=dict)

    @classmethod
    def from_json(
        cls,
        text: str | bytes,
        inputs: Mapping[str, TensorInfo] | None = None,
        outputs: Mapping[str, TensorInfo] | None = None,
    ) -> Manifest:
        """Restores a manifest from its JSON and the tensors that the file has.

        Args:
            text: what `to_json` returned.
            inputs: those of the file by name; None if the JSON has them.
            outputs: the same of the outputs.

        Returns:
            The manifest, without hash and size.

        Raises:
            KaccError: if the JSON is not a manifest, or names other tensors.
        """
        try:
            record = json.loads(text)
            known = {f.name: record[f.name] for f in fields(cls) if f.name in record}
            known["inputs"] = _tensors(record["inputs"], inputs)
            known["outputs"] = _tensors(record["outputs"], outputs)
            return cls(**known)
        except (ValueError, KeyError, TypeError) as error:
            raise KaccError(
                "The manifest in the file must fit the file",
                received=f"{type(error).__name__}: {error}",
                fix="Convert the model again",
            ) from error

    def of_file(self, sha256: str, size_bytes: int) -> Manifest:
        """The same manifest with the hash and size of the file that holds it."""
        return replace(self, sha256=sha256, size_bytes=size_bytes)


def _tensors(
    written: list[Any], of_file: Mapping[str, TensorInfo] | None
) -> tuple[TensorInfo, ...]:
    if of_file is not None:
        return tuple(of_file[name] for name in written)
    return tuple(TensorInfo(**{**t, "shape": tuple(t["shape"])}) for t in written)
