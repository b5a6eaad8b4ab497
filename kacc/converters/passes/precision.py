"""Computing in half precision: products and what stands between them.

Sums over many numbers (means, softmax, normalizations) stay in float32, as mixed
precision training keeps them (Micikevicius et al. 2018, arXiv:1710.03740).
"""

from __future__ import annotations

from typing import Any

from kacc.converters.passes.graph import Graph, Pass

# Operation -> the inputs that have its type; None for all of them.
_HALF: dict[str, tuple[int, ...] | None] = {
    **dict.fromkeys(("Conv2D", "Conv3D", "DepthwiseConv2dNative", "BiasAdd")),
    **dict.fromkeys(("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")),
    **dict.fromkeys(("Einsum", "Add", "AddV2", "AddN", "Sub", "Mul", "Neg")),
    **dict.fromkeys(("Maximum", "Minimum", "Relu", "Relu6", "LeakyRelu", "Elu")),
    **dict.fromkeys(("Selu", "Sigmoid", "Tanh", "MaxPool", "AvgPool", "Pack")),
    **dict.fromkeys(("Identity", "SpaceToDepth", "DepthToSpace")),
    "Conv2DBackpropInput": (1, 2),
    "SelectV2": (1, 2),
    "PadV2": (0, 2),
    **dict.fromkeys(("Pad", "MirrorPad", "Reshape", "Transpose", "Squeeze"), (0,)),
    **dict.fromkeys(("ExpandDims", "Slice", "StridedSlice", "Tile"), (0,)),
    "GatherV2": (0,),
    "ConcatV2": (),  # all but the last, the axis
}
_ATTRIBUTES = {"GatherV2": "Tparams"}  # else "T"


def in_half_precision(dtype: str) -> Pass:
    """A pass that lets a graph compute in half precision; inputs and outputs stay.

    Args:
        dtype: "bfloat16" or "float16".

    Returns:
        The pass. Its graph's outputs differ by the rounding of the type.
    """

    def change(graph: Graph) -> None:
        _Lowering(graph, dtype).run()

    return change


class _Lowering:
    """One run of the pass: which tensors are in half precision by now."""

    def __init__(self, graph: Graph, dtype: str) -> None:
        import tensorflow as tf

        self.graph = graph
        self.half = tf.as_dtype(dtype)
        self.full = tf.float32
        self.lowered: set[str] = set()
        self.casts: dict[tuple[str, Any], str] = {}

    def run(self) -> None:
        for node in self.graph.ordered():
            attribute = _ATTRIBUTES.get(node.op, "T")
            lowers = (
                node.op in _HALF
                and node.attr[attribute].type == self.full.as_datatype_enum
                and self._is_worth_it(node)
            )
            typed = self._typed(node) if lowers else ()
            for index, tensor in enumerate(list(node.input)):
                if index in typed and tensor not in self.lowered:
                    self.graph.set_input(node, index, self._as(tensor, self.half))
                elif index not in typed and tensor in self.lowered:
                    self.graph.set_input(node, index, self._as(tensor, self.full))
            if lowers:
                node.attr[attribute].type = self.half.as_datatype_enum
                self.lowered.add(node.name)
        for tensor in set(self.graph.outputs) & self.lowered:
            back = self._as(tensor, self.full)
            outputs = self.graph.outputs
            self.graph.outputs = [back if x == tensor else x for x in outputs]

    def _typed(self, node: Any) -> tuple[int, ...]:
        data = [i for i, tensor in enumerate(node.input) if tensor[0] != "^"]
        if node.op == "ConcatV2":
            return tuple(data[:-1])
        chosen = _HALF[node.op]
        return tuple(data) if chosen is None else chosen

    def _is_worth_it(self, node: Any) -> bool:
        """Whether products are among its neighbours: a lone addition is not cast."""
        if node.op in ("Conv2D", "Conv3D", "DepthwiseConv2dNative", "MatMul"):
            return True
        if node.op.startswith("BatchMatMul") or node.op in (
            "Einsum",
            "Conv2DBackpropInput",
        ):
            return True
        return any(node.input[i] in self.lowered for i in self._typed(node))

    def _as(self, tensor: str, dtype: Any) -> str:
        """A tensor in a type: a constant anew, others by a Cast that is made once."""
        key = tensor, dtype
        if key in self.casts and self.casts[key] in self.graph.nodes:
            return self.casts[key]
        value = self.graph.value(tensor)
        name = f"{tensor.replace(':', '_')}/{dtype.name}"
        if value is not None:
            made = self.graph.add_constant(name, value.astype(dtype.as_numpy_dtype))
        else:
            source = self.half if tensor in self.lowered else self.full
            made = self.graph.add(
                "Cast",
                name,
                [tensor],
                self.graph.shape(tensor),
                SrcT=source.as_datatype_enum,
                DstT=dtype.as_datatype_enum,
            )
        self.casts[key] = made
        return made
