"""Convolutions and matrix products by constant kernels, and their channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kacc.converters.passes.graph import Graph

FLOAT = 1  # TensorFlow's number of float32


@dataclass(frozen=True)
class Linear:
    """A linear operation with a constant kernel.

    Args:
        node: the operation.
        data, kernel: indices of its inputs.
        data_axis, axis: the axis of the channels in its input and its output.
        ranks: of its input and its output.
        channels: how many it reads and makes.
        reads, makes: for each element of the kernel the channel that it reads, and
            that it adds to, as arrays that broadcast against the kernel.
        pads: whether zeros, or edges, stand between what it reads.
    """

    node: Any
    data: int
    kernel: int
    data_axis: int
    axis: int
    ranks: tuple[int, int]
    channels: tuple[int, int]
    reads: np.ndarray
    makes: np.ndarray
    pads: bool

    @property
    def channels_first(self) -> bool:
        """Whether the channels of the output stand before its other axes."""
        return self.axis == 1 and self.ranks[1] > 2

    def inputs(self) -> np.ndarray:
        """The channels that it reads, as wide as its input."""
        return _along(self.data_axis, self.ranks[0], self.channels[0])

    def outputs(self) -> np.ndarray:
        """The channels that it makes, as wide as its output."""
        return _along(self.axis, self.ranks[1], self.channels[1])

    def scaled(
        self, kernel: np.ndarray, before: np.ndarray, after: np.ndarray
    ) -> np.ndarray:
        """The kernel that also multiplies what it reads and what it makes."""
        wide = kernel.astype(np.float64)
        wide *= before[self.reads]
        wide *= after[self.makes]
        return wide.astype(np.float32)

    def response(self, kernel: np.ndarray, shift: np.ndarray) -> np.ndarray:
        """What it makes of an input that is `shift` everywhere."""
        products = kernel * shift[self.reads]
        spatial = tuple(range(kernel.ndim - 2))
        sums = products.sum(axis=spatial)
        makes = np.broadcast_to(self.makes, (1,) * len(spatial) + sums.shape)
        return np.bincount(
            makes.ravel(), weights=sums.ravel(), minlength=self.channels[1]
        )


def linear(graph: Graph, node: Any) -> Linear | None:
    """What is known about a linear operation, None if there is too little.

    Args:
        graph: has the node.
        node: of a kind in `LINEAR`.
    """
    if node.attr["T"].type != FLOAT or graph.is_tied(node):
        return None
    data, kernel = _INPUTS[node.op]
    if not graph.is_constant(node.input[kernel]):
        return None
    weights = graph.shape(node.input[kernel])
    shapes = graph.shape(node.input[data]), graph.shape(node.name)
    if weights is None or None in shapes or None in weights:
        return None
    return LINEAR[node.op](graph, node, weights)


def _convolution(graph: Graph, node: Any, weights: Any) -> Linear | None:
    *_, reads, makes = weights
    axis = _axis(node, len(weights))
    total = (graph.shape(node.input[0]) or ())[axis]
    if not total or total % reads or makes % (total // reads):
        return None
    groups = total // reads
    group = np.arange(makes) // (makes // groups)
    return Linear(
        node,
        *_INPUTS[node.op],
        data_axis=axis,
        axis=axis,
        ranks=(len(weights), len(weights)),
        channels=(total, makes),
        reads=_last_two(group * reads + np.arange(reads)[:, None], len(weights)),
        makes=_last_two(np.arange(makes)[None], len(weights)),
        pads=_pads(node),
    )


def _depthwise(graph: Graph, node: Any, weights: Any) -> Linear | None:
    *_, channels, times = weights
    axis = _axis(node, 4)
    numbers = np.arange(channels * times).reshape(channels, times)
    return Linear(
        node,
        *_INPUTS[node.op],
        data_axis=axis,
        axis=axis,
        ranks=(4, 4),
        channels=(channels, channels * times),
        reads=_last_two(np.arange(channels)[:, None], 4),
        makes=_last_two(numbers, 4),
        pads=_pads(node),
    )


def _transposed(graph: Graph, node: Any, weights: Any) -> Linear | None:
    *_, makes, reads = weights
    axis = _axis(node, len(weights))
    # A grouped one, which keras does not make, has fewer channels in its kernel.
    if (graph.shape(node.input[2]) or ())[axis] != reads:
        return None
    if (graph.shape(node.name) or ())[axis] not in (makes, None):
        return None
    return Linear(
        node,
        *_INPUTS[node.op],
        data_axis=axis,
        axis=axis,
        ranks=(len(weights), len(weights)),
        channels=(reads, makes),
        reads=_last_two(np.arange(reads)[None], len(weights)),
        makes=_last_two(np.arange(makes)[:, None], len(weights)),
        pads=True,
    )


def _product(graph: Graph, node: Any, weights: Any) -> Linear | None:
    ranks = len(graph.shape(node.input[0]) or ()), len(graph.shape(node.name) or ())
    turned = "transpose_a" if node.op == "MatMul" else "adj_x"
    if len(weights) != 2 or min(ranks) < 2 or node.attr[turned].b:
        return None
    reads, makes = np.arange(weights[0])[:, None], np.arange(weights[1])[None]
    if node.attr["transpose_b" if node.op == "MatMul" else "adj_y"].b:
        reads, makes = np.arange(weights[1])[None], np.arange(weights[0])[:, None]
    return Linear(
        node,
        *_INPUTS[node.op],
        data_axis=ranks[0] - 1,
        axis=ranks[1] - 1,
        ranks=ranks,
        channels=(reads.size, makes.size),
        reads=reads,
        makes=makes,
        pads=False,
    )


LINEAR = {
    "Conv2D": _convolution,
    "Conv3D": _convolution,
    "DepthwiseConv2dNative": _depthwise,
    "Conv2DBackpropInput": _transposed,
    "Conv3DBackpropInputV2": _transposed,
    "MatMul": _product,
    "BatchMatMul": _product,
    "BatchMatMulV2": _product,
}
_INPUTS = dict.fromkeys(LINEAR, (0, 1)) | {
    "Conv2DBackpropInput": (2, 1),
    "Conv3DBackpropInputV2": (2, 1),
}


def _along(axis: int, rank: int, count: int) -> np.ndarray:
    return np.arange(count).reshape([-1 if i == axis else 1 for i in range(rank)])


def _last_two(numbers: np.ndarray, rank: int) -> np.ndarray:
    return numbers.reshape((1,) * (rank - 2) + numbers.shape)


def _axis(node: Any, rank: int) -> int:
    return 1 if node.attr["data_format"].s.startswith(b"NC") else rank - 1


def _pads(node: Any) -> bool:
    return bool(node.attr["padding"].s != b"VALID")
