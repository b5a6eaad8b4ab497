"""What `kacc.split` gives: the parts, what they cost, and how they run in a chain."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import tree

from kacc.converters.artifact import Artifact
from kacc.converters.convert import CALIBRATION_SAMPLES, convert
from kacc.converters.samples import check, gather
from kacc.converters.signature import Signature
from kacc.converters.targets import Target, target_called
from kacc.core.errors import ConversionError, UsageError
from kacc.quantization.model import scheme_of
from kacc.splitting import report as reporting
from kacc.splitting.chain import Chain, run_parts
from kacc.splitting.report import PartReport


class Split(Sequence[keras.Model]):
    """The parts of a model: a sequence of plain Keras models.

    `print(split)` and a rich console show what each costs; `report` has the figures.

    Args:
        name: of the whole model.
        parts: its parts, in the order in which they run.
        report: what each costs.
        signature: of the whole model's inputs.
        outputs: names of the tensors that are its outputs, in their structure.
    """

    def __init__(
        self,
        name: str,
        parts: Sequence[keras.Model],
        report: Sequence[PartReport],
        signature: Signature,
        outputs: Any,
    ) -> None:
        self.name = name
        self.parts = tuple(parts)
        self.report = tuple(report)
        self._signature = signature
        self._outputs = outputs

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: Any) -> Any:
        return self.parts[index]

    def __iter__(self) -> Iterator[keras.Model]:
        return iter(self.parts)

    def __str__(self) -> str:
        return reporting.text(self.name, self.report)

    def __repr__(self) -> str:
        return f"<{self}>"

    def __rich__(self) -> Any:
        return reporting.rich_view(self.name, self.report)

    def predict(self, x: Any, batch_size: int = 32) -> Any:
        """Runs samples through all parts in Keras.

        Args:
            x: as the whole model takes them, with a batch axis.
            batch_size: how many samples run at once.

        Returns:
            What the whole model's `predict` returns, in its structure.

        Raises:
            UsageError: if `x` does not fit the model's inputs.
        """
        arrays = check(x, self._signature.inputs, "The data")
        held = self._run(arrays, batch_size)
        return tree.map_structure(lambda name: held[name], self._outputs)

    def convert(
        self,
        path: str | os.PathLike[str],
        target: str,
        calibration: Any = None,
        **options: Any,
    ) -> list[Artifact]:
        """Converts each part; see `kacc.convert`.

        Parts of a model with quantization attached have its integers: their files in a
        chain give the numbers of the whole model's file, to the bit. Parts of a plain
        model are calibrated one by one, on what the parts before them make of the
        calibration data in float; the same tensor may then have two grids at a cut. To
        have one, quantize the whole model, calibrate or train it, and split it then.

        Args:
            path: a folder, for files called by the parts; or the path of a file with
                "{}" for the part's number.
            target: as for `kacc.convert`.
            calibration: samples as the whole model takes them, for integer targets of
                plain models.
            **options: those of `kacc.convert`; `rules` by the parts' own layer names.

        Returns:
            The files, in order. Each is there whole or not at all.

        Raises:
            UsageError: for a wrong argument.
            ConversionError: if a part cannot be converted.
        """
        row = target_called(target)
        paths = self._paths(path, row)
        for file in paths:
            place = row.format.place(file, options.get("version"))
            row.format.check_path(place, target)
        feeds = self._calibration(row, calibration)
        artifacts = [
            convert(part, path, target, feed, **options)
            for part, path, feed in zip(self.parts, paths, feeds, strict=True)
        ]
        apart = self.chain(artifacts).mismatches()
        if apart and scheme_of(self.parts[0]) is not None:
            raise ConversionError(
                "Files of a quantized model's parts must have one grid at each cut",
                received=f"two grids of {', '.join(apart)}",
                fix="Please report it, with the model",
            )
        return artifacts

    def chain(self, artifacts: Sequence[Artifact]) -> Chain:
        """The parts' files, to run one after another as the model."""
        if len(artifacts) != len(self):
            raise UsageError(
                f"The chain must have a file for each of the {len(self)} parts",
                received=f"{len(artifacts)} files",
            )
        names = [info.name for info in self._signature.inputs]
        return Chain(artifacts, names, list(dict.fromkeys(tree.flatten(self._outputs))))

    def _run(self, arrays: list[np.ndarray], size: int = 32) -> dict[str, np.ndarray]:
        names = [info.name for info in self._signature.inputs]
        return run_parts(
            [
                _runner(part, row, size)
                for part, row in zip(self.parts, self.report, strict=True)
            ],
            [row.takes for row in self.report],
            [row.gives for row in self.report],
            dict(zip(names, arrays, strict=True)),
        )

    def _paths(self, path: str | os.PathLike[str], row: Target) -> list[Path]:
        text = os.fspath(path)
        if "{}" in text:
            return [Path(text.replace("{}", str(n))) for n in range(len(self))]
        if not Path(text).is_dir():
            raise UsageError(
                "`path` must be a folder, or the path of a file with {} for the part's "
                "number",
                received=text,
                fix=f"Create the folder, or pass 'part_{{}}{row.format.extension}'",
            )
        return [Path(text, part.name + row.format.extension) for part in self]

    def _calibration(self, row: Target, data: Any) -> list[Any]:
        """What each part takes when the calibration data runs through them."""
        if data is None or not row.integer:
            return [None] * len(self)
        samples = gather(
            data, self._signature.inputs, "Calibration data", CALIBRATION_SAMPLES
        )
        held = self._run(samples.inputs)
        return [
            {name: held[name] for name in part.takes}
            if len(part.takes) > 1
            else held[part.takes[0]]
            for part in self.report
        ]


def _runner(part: keras.Model, row: PartReport, size: int) -> Any:
    """A part as a function of flat lists of arrays, by the names of its report."""

    def run(arrays: list[np.ndarray]) -> list[np.ndarray]:
        named = dict(zip(row.takes, arrays, strict=True))
        x = named if len(named) > 1 else arrays[0]
        results = part.predict(x, batch_size=size, verbose=0)
        if isinstance(results, dict):
            results = [results[name] for name in row.gives]
        return [_known(value) for value in tree.flatten(results)]

    return run


def _known(value: np.ndarray) -> np.ndarray:
    """NumPy itself does not know bfloat16."""
    return value.astype(np.float32) if value.dtype.name == "bfloat16" else value
