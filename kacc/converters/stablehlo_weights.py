"""Weights of a StableHLO module, which XLA does not get to see.

To lower a graph with its weights takes a dozen times their bytes. So they are arguments
of what is lowered; in the module's text each argument becomes a constant of one number,
and its values take the number's place where the module is written.

A portable artifact is MLIR bytecode of the dialect VHLO (mlir.llvm.org, "MLIR Bytecode
Format"; the OpenXLA project's VhloBytecode.cpp): a section has all attributes, another
one their lengths, and the attribute of a constant is a code, a type and its bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

_ATTRIBUTES, _LENGTHS = 2, 3  # numbers of the sections
_TENSOR = 15  # code of a constant's attribute
_MARK = 0x7FC10000  # a NaN; the first constant's number
_PADDING = b"\xcb"


@dataclass(frozen=True)
class Module:
    """A StableHLO portable artifact.

    Args:
        data: its bytes, with marks in the place of weights.
        weights: values by their marks.
    """

    data: bytes
    weights: Mapping[bytes, np.ndarray] = field(default_factory=dict, compare=False)

    def pieces(self) -> Iterator[bytes | memoryview]:
        """The bytes of the artifact, weights in them, one after another."""
        if not self.weights:
            yield self.data
            return
        yield from _Filler(self.data, self.weights).pieces()

    def write(self, path: Path) -> None:
        """Writes the artifact."""
        with open(path, "wb") as file:
            file.writelines(self.pieces())


def with_constants(text: str, weights: list[np.ndarray]) -> Module:
    """A module whose last arguments are constants.

    Args:
        text: a module as text, whose main function takes weights behind its inputs.
        weights: their values, in float32.

    Raises:
        ValueError: if the text or its bytecode is not as it is known to be.
    """
    from tensorflow.compiler.mlir.stablehlo import stablehlo

    found = re.search(r"^ *func\.func (?:public )?@main\((.*)\) -> .*\{$", text, re.M)
    if found is None:
        raise ValueError("no main function")
    arguments = re.split(r", (?=%arg\d+: )", found[1])
    count = len(arguments) - len(weights)
    if count < 0:
        raise ValueError("fewer arguments than weights")
    lines, marks = [found[0].replace(found[1], ", ".join(arguments[:count]), 1)], {}
    for number, (argument, value) in enumerate(
        zip(arguments[count:], weights, strict=True)
    ):
        known = re.match(r"(%arg\d+): (tensor<[^<>]*xf32>)", argument)
        if known is None or value.dtype != np.float32:
            raise ValueError(f"an argument of another kind: {argument[:80]}")
        mark = _MARK + number
        lines.append(
            f"    {known[1]} = stablehlo.constant dense<0x{mark:X}> : {known[2]}"
        )
        marks[mark.to_bytes(4, "little")] = value
    whole = text[: found.start()] + "\n".join(lines) + text[found.end() :]
    version = stablehlo.get_current_version()
    data = stablehlo.serialize_portable_artifact_str(whole, version)
    if marks:
        _Filler(data, marks)  # raises where it cannot be filled
    return Module(data, marks)


class _Filler:
    """Puts weights into the bytecode of a module.

    Args:
        data: the bytecode.
        weights: values by their marks.

    Raises:
        ValueError: if there is not one place for each of them.
    """

    def __init__(self, data: bytes, weights: Mapping[bytes, np.ndarray]) -> None:
        self.weights = weights
        self.header, sections = _sections(data)
        self.sections = sections
        self.bodies = {number: body for number, _, body in sections}
        if not {_ATTRIBUTES, _LENGTHS} <= set(self.bodies):
            raise ValueError("no attributes")
        # Of each attribute its bytes, or what stands before its weights, and these.
        self.attributes: list[tuple[bytes, np.ndarray | None]] = []
        self.lengths = b""
        self._read()

    def pieces(self) -> Iterator[bytes | memoryview]:
        """The bytecode with weights in it."""
        position = len(self.header)
        yield self.header
        total = sum(len(a) + (0 if w is None else w.nbytes) for a, w in self.attributes)
        for number, alignment, body in self.sections:
            size = {_ATTRIBUTES: total, _LENGTHS: len(self.lengths)}.get(
                number, len(body)
            )
            head = bytes([number | (0x80 if alignment else 0)]) + _written(size)
            if alignment:
                head += _written(alignment)
                head += _PADDING * (-(position + len(head)) % alignment)
            yield head
            position += len(head) + size
            if number == _LENGTHS:
                yield self.lengths
            elif number == _ATTRIBUTES:
                for before, value in self.attributes:
                    yield before
                    if value is not None:
                        yield np.ascontiguousarray(value).data.cast("B")
            else:
                yield body

    def _read(self) -> None:
        lengths, body = _Reader(self.bodies[_LENGTHS]), self.bodies[_ATTRIBUTES]
        numbers = lengths.number(), lengths.number()
        parts = [_written(n) for n in numbers]
        start, left, seen = 0, sum(numbers), set()
        while left > 0:
            dialect, count = lengths.number(), lengths.number()
            parts += [_written(dialect), _written(count)]
            for _ in range(count):
                length = lengths.number()
                attribute = body[start : start + (length >> 1)]
                start += length >> 1
                before, mark = _marked(attribute, self.weights)
                if mark is not None and mark in seen:
                    raise ValueError("a mark that is there twice")
                if mark is not None:
                    seen.add(mark)
                    value = self.weights[mark]
                    self.attributes.append((before, value))
                    length = (len(before) + value.nbytes) << 1 | (length & 1)
                else:
                    self.attributes.append((attribute, None))
                parts.append(_written(length))
            left -= count
        if start != len(body) or not lengths.at_end or seen != set(self.weights):
            raise ValueError("attributes are not as they are known to be")
        self.lengths = b"".join(parts)


def _marked(
    attribute: bytes, weights: Mapping[bytes, np.ndarray]
) -> tuple[bytes, bytes | None]:
    """What stands before the values of a marked constant, and its mark."""
    if attribute[-4:] not in weights or len(attribute) > 32:
        return b"", None
    reader = _Reader(attribute)
    code, kind, size = reader.number(), reader.number(), reader.number()
    if code != _TENSOR or size != 4 or reader.left != 4:
        return b"", None
    mark = attribute[-4:]
    return _written(code) + _written(kind) + _written(weights[mark].nbytes), mark


class _Reader:
    """Reads numbers of MLIR bytecode: the trailing zeros say how many bytes follow."""

    def __init__(self, data: bytes, position: int = 0) -> None:
        self.data, self.position = data, position

    @property
    def left(self) -> int:
        return len(self.data) - self.position

    @property
    def at_end(self) -> bool:
        return self.left == 0

    def number(self) -> int:
        if self.left < 1:
            raise ValueError("bytecode that ends early")
        first = self.data[self.position]
        size = (first & -first).bit_length() if first else 9
        piece = self.data[self.position : self.position + size]
        self.position += size
        if size == 9:
            return int.from_bytes(piece[1:], "little")
        return int.from_bytes(piece, "little") >> size


def _written(number: int) -> bytes:
    for size in range(1, 9):
        if number < 1 << 7 * size:
            return ((number << size) | 1 << size - 1).to_bytes(size, "little")
    return b"\0" + number.to_bytes(8, "little")


def _sections(data: bytes) -> tuple[bytes, list[tuple[int, int, bytes]]]:
    """The header of bytecode, and of its sections the number, alignment and bytes."""
    if data[:4] != b"ML\xefR":
        raise ValueError("no bytecode")
    reader = _Reader(data, 4)
    reader.number()
    reader.position = data.index(b"\0", reader.position) + 1
    header = data[: reader.position]
    sections = []
    while not reader.at_end:
        number = data[reader.position]
        reader.position += 1
        size, alignment = reader.number(), 0
        if number & 0x80:
            alignment = reader.number()
            reader.position += -reader.position % alignment
        sections.append(
            (number & 0x7F, alignment, data[reader.position : reader.position + size])
        )
        reader.position += size
    return header, sections
