"""What a project of the target fpga-hls computes in NumPy, and how far Keras may be."""

import keras
import numpy as np

import kacc
from kacc.converters.hls_layers import plain_model
from kacc.converters.hls_numbers import affine, numbers_of
from kacc.core.graph import fill, trace


def rounded(fixed, values):
    """As `ap_fixed` with AP_RND and AP_SAT: halves go up, ends hold."""
    steps = np.floor(np.asarray(values, np.float64) / fixed.step + 0.5)
    return np.clip(steps * fixed.step, fixed.low, fixed.high)


class Emulation:
    """The project's arithmetic in NumPy, tensor by tensor of the plain model."""

    def __init__(self, model, calibration=None):
        self.numbers = numbers_of(model, calibration)
        self.plain = plain_model(self.numbers, "fpga-hls")
        self.graph = trace(self.plain.model)
        self.parts = {part.name: part for part in self.plain.parts}

    def walk(self, arrays, follow):
        """Runs the graph; `follow(call, values)` gives a call's result."""
        names = [tensor.name for tensor in self.plain.model.inputs]
        entered = [
            rounded(self.parts[name].types["result"], array)
            for name, array in zip(names, arrays, strict=True)
        ]
        return self.graph.run(entered, follow)

    def apply(self, call, values):
        args, kwargs = fill(call, [v.astype("float32") for v in values])
        made = np.asarray(call.operation(*args, **kwargs), np.float64)
        return rounded(self.parts[call.path].types["result"], made)


# What the tables of a softmax add, relative to p <= 1: exp of a difference in steps of
# 2^-8 (in the number and in the sum), the inverse of a sum in steps of 2^-10, and three
# roundings to 18 bits. Those of a sigmoid: 4096 steps over 16, the lower end is looked
# up, times the slope of a quarter, and a rounding to 18 bits.
SOFTMAX = 2 * 2**-9 + 2**-11 + 3 * 2**-17
SIGMOID = 2**-8 / 4 + 2**-17


def spread(call, part, values, e, theirs, half):
    """How far a layer's results may be apart, by how far its inputs may be.

    Products add the distances of their weights; `theirs` are Keras's.
    """
    kind, operation = type(call.operation).__name__, call.operation
    mine = [np.asarray(w, np.float64) for w in getattr(operation, "weights", ())]
    if theirs is not None:
        kernel, bias = theirs
        if kind == "BatchNormalization":
            return (
                e[0] * np.abs(kernel)
                + np.abs(kernel - mine[0]) * np.abs(values[0])
                + np.abs(bias - mine[1])
            )

        def product(*given):
            given = [np.asarray(w, np.float32) for w in given]
            result, _ = operation.stateless_call(given[:2], [], given[2])
            return np.asarray(result, np.float64)

        off = np.abs(bias - mine[1]) + half
        return product(np.abs(kernel), off, e[0]) + product(
            np.abs(kernel - mine[0]), 0 * off, np.abs(values[0])
        )
    if kind == "Softmax":
        return np.max(e[0], axis=-1, keepdims=True) / 2 + SOFTMAX
    if kind in ("Add", "Subtract"):
        return e[0] + e[1]
    if kind == "Maximum":
        return np.maximum(*e)
    if kind == "Multiply":
        return np.abs(values[0]) * e[1] + np.abs(values[1]) * e[0] + e[0] * e[1]
    if kind == "Activation":
        sigmoid = operation.activation is keras.activations.sigmoid
        return e[0] / 4 + SIGMOID if sigmoid else e[0]
    # Pooling, joining and reshaping; a mean is cut off to its accumulator's bits.
    e = [x.astype("float32") for x in e]
    made = np.asarray(operation(e if len(e) > 1 else e[0]), np.float64)
    return made + (part.types["accum"].step if "Average" in kind else 0.0)


class Bounds(Emulation):
    """How far each tensor of a project may be from that of Keras.

    Quantizing adds half a step of both, and what the range of one clips off.
    """

    def __init__(self, model, calibration=None):
        super().__init__(model, calibration)
        self.calls = {call.path: call for call in self.numbers.graph.calls}
        self.last = {part.path: part.name for part in self.plain.parts}
        self.quantized = kacc.quantization.scheme_of(model) is not None
        self.errors, self.steps = {}, {}

    def outputs(self, arrays):
        """For each output a bound by sample and class."""
        sources = self.numbers.graph.inputs
        for new, old, x, fixed in zip(
            self.graph.inputs, sources, arrays, self.plain.inputs, strict=True
        ):
            self.settle(new, self.numbers.ends[old], fixed, x, np.zeros(x.shape))
        self.walk(arrays, self.follow)
        return [self.errors[tensor] for tensor in self.graph.outputs]

    def settle(self, tensor, ends, fixed, value, e):
        e = e + fixed.step / 2 + np.maximum(0, value - fixed.high)
        e = e + np.maximum(0, fixed.low - value)
        step = 0.0
        if self.quantized and ends is not None:  # Keras quantizes as well
            (low, high), before = ends, e
            step = (high - low) / 255
            e = e + step / 2 + np.maximum(0, value + before - high)
            e = e + np.maximum(0, low - value + before)
        self.errors[tensor], self.steps[tensor] = e, step

    def follow(self, call, values):
        part = self.parts[call.path]
        old = self.calls[part.path]
        args, kwargs = fill(call, [v.astype("float32") for v in values])
        made = np.asarray(call.operation(*args, **kwargs), np.float64)
        theirs, half = None, 0.0
        if "weight" in part.types:
            weights = self.numbers.weights(old)
            theirs = weights.kernel, weights.bias
            # Keras's bias is a whole number of products of both steps.
            half = self.steps[call.inputs[0]] * np.abs(weights.kernel).max() / 127 / 2
        elif "scale" in part.types:
            theirs = affine(old.operation)
        if theirs is not None:  # what is written is Keras's, rounded
            names = ["weight" if "weight" in part.types else "scale", "bias"]
            pairs = zip(names, theirs, call.operation.get_weights()[:2], strict=True)
            for name, wanted, written in pairs:
                half_step = part.types[name].step / 2 * (1 + 1e-6)
                assert np.abs(wanted - written).max() <= half_step, (part.name, name)
        e = [self.errors[tensor] for tensor in call.inputs]
        e = spread(call, part, values, e, theirs, half)
        ends = self.numbers.before.get(old)
        if part.name == self.last[part.path]:
            behind = self.numbers.folded.get(old, old)
            ends = self.numbers.ends.get(behind.outputs[0])
        self.settle(call.outputs[0], ends, part.types["result"], made, e)
        return rounded(part.types["result"], made)
