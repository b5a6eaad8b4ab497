"""`kacc.microcontroller`: sources that a compiler takes, and what TFLM needs."""

import io
import json
import os
import re
import shutil
import subprocess
import sys

import hypothesis
import keras
import numpy as np
import pytest
from hypothesis import strategies as st

import kacc
from kacc.cli.main import main
from kacc.converters import micro_operators
from kacc.converters.artifact import open_artifact
from kacc.converters.micro_arena import Buffer, estimate_arena, planned, span
from kacc.core.errors import ConversionError, KaccError, UsageError
from tests.quantization import blocks

layers = keras.layers
COMPILER = shutil.which("gcc") or shutil.which("cc")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")

# Writes the array to standard output, after checking what a device relies on.
PROGRAM = """
#include <stdint.h>
#include <stdio.h>
#include "net.h"
#include "net.h"  /* guarded */
int main(void) {
  if ((uintptr_t)net % 16 != 0) return 1;
  if (NET_ARENA_SIZE <= 0) return 2;
  return fwrite(net, 1, net_len, stdout) == net_len ? 0 : 3;
}
"""


def compiled(folder, source, language):
    """The output of a program with the array in it."""
    program = folder / ("main.c" if language == "c" else "main.cc")
    program.write_text(PROGRAM)
    flags = ["-Wall", "-Wextra", "-Werror"]
    # A C++ program links the array of a C file and the other way round.
    for path in (program, source):
        standard = "-std=c11" if path.suffix == ".c" else "-std=c++11"
        subprocess.run(
            [COMPILER, *flags, standard, "-c", path, "-o", f"{path}.o"], check=True
        )
    binary = folder / "main"
    subprocess.run([COMPILER, f"{program}.o", f"{source}.o", "-o", binary], check=True)
    return subprocess.run([binary], check=True, capture_output=True).stdout


@needs_compiler
@pytest.mark.parametrize("language", ["c++", "c"])
@pytest.mark.parametrize("program", ["c++", "c"])
def test_the_compiled_array_is_the_file(int8_file, tmp_path, language, program):
    bundle = kacc.microcontroller(int8_file, tmp_path, "net", language=language)
    assert compiled(tmp_path, bundle.files[0], program) == int8_file.read()


def test_names_of_the_files(int8_file, tmp_path):
    folder = tmp_path / "made" / "here"
    bundle = kacc.microcontroller(int8_file, folder, "net")
    assert sorted(os.listdir(folder)) == ["net.cc", "net.h", "net_operators.h"]
    assert [path.name for path in bundle.files] == [
        "net.cc",
        "net.h",
        "net_operators.h",
    ]
    assert bundle.size_bytes == int8_file.size_bytes
    assert f"#define NET_ARENA_SIZE {bundle.arena.total}" in bundle.files[1].read_text()
    assert int8_file.manifest.sha256 in bundle.files[0].read_text()


def test_operators_are_those_of_the_file(int8_file, tmp_path):
    bundle = kacc.microcontroller(int8_file, tmp_path)
    counts = {op.name: op.count for op in bundle.operators}
    assert counts == {
        "CONV_2D": 3,
        "FULLY_CONNECTED": 1,
        "RESHAPE": 1,
        "SOFTMAX": 1,
    }
    text = (tmp_path / "model_operators.h").read_text()
    for call in ("AddConv2D", "AddFullyConnected", "AddReshape", "AddSoftmax"):
        assert text.count(f"resolver.{call}()") == 1
    assert "model_operator_count = 4;" in text


@needs_compiler
def test_the_resolver_header_is_correct_c(int8_file, tmp_path):
    """Against a class of the same interface, since TFLM's headers are not here."""
    kacc.microcontroller(int8_file, tmp_path, "net")
    header = tmp_path / "tensorflow/lite/micro/micro_mutable_op_resolver.h"
    header.parent.mkdir(parents=True)
    calls = "".join(
        f"  TfLiteStatus {call}() {{ return added(); }}\n"
        for call in map(micro_operators.resolver_call, micro_operators.BUILTINS)
    )
    header.write_text(
        "enum TfLiteStatus { kTfLiteOk, kTfLiteError };\nnamespace tflite {\n"
        "template <unsigned int n> struct MicroMutableOpResolver {\n"
        "  unsigned int count = 0;\n"
        "  TfLiteStatus added() { return ++count > n ? kTfLiteError : kTfLiteOk; }\n"
        f"{calls}}};\n}}\n"
    )
    (tmp_path / "main.cc").write_text(
        '#include "net_operators.h"\n#include "net_operators.h"\nint main() {\n'
        "  tflite::MicroMutableOpResolver<net_operator_count> r;\n"
        "  return net_add_operators(r) == kTfLiteOk && r.count == 4 ? 0 : 1;\n}\n"
    )
    binary = tmp_path / "main"
    subprocess.run(
        [
            *(COMPILER, "-std=c++17", "-Wall", "-Werror", f"-I{tmp_path}"),
            *("-o", binary, tmp_path / "main.cc"),
        ],
        check=True,
    )
    subprocess.run([binary], check=True)


def converted(tmp_path, model, target="tflite-int8", x=None, **options):
    return kacc.convert(model, tmp_path / "m.tflite", target, x, **options)


@pytest.fixture(scope="module")
def gelu():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(40, 3, name="conv"),
            layers.Activation("gelu", name="act"),
        ]
    )


def test_operators_that_tflm_lacks_are_named(gelu, images, tmp_path):
    artifact = converted(tmp_path, gelu, x=images, backend="tflite")
    with pytest.raises(ConversionError, match=r"GELU is not among.*act"):
        kacc.microcontroller(artifact, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_of_other_types_are_named(gelu, tmp_path):
    artifact = converted(tmp_path, gelu, "tflite-float16")
    with pytest.raises(ConversionError, match=r"DEQUANTIZE has FLOAT16.*tflite-int8"):
        kacc.microcontroller(artifact, tmp_path)
    wide = keras.Sequential([keras.Input((64,)), layers.Dense(64, name="wide")])
    artifact = converted(tmp_path, wide, "tflite-dynamic")
    with pytest.raises(ConversionError, match=r"floats with weights of INT8 \(.*wide"):
        kacc.microcontroller(artifact, tmp_path)


def test_shapes_that_are_known_too_late(images, tmp_path):
    """A Reshape that takes sizes to the batch; the file has a 1 for what it becomes."""
    image = keras.Input((8, 8, 3))
    flat = keras.ops.reshape(layers.Conv2D(4, 1, name="conv")(image), (-1, 4))
    model = keras.Model(image, layers.Dense(2, name="dense")(flat))
    artifact = converted(tmp_path, model, "tflite-float32")
    with pytest.raises(ConversionError, match=r"shapes.*\(64, \d\) in.*batch=1"):
        kacc.microcontroller(artifact, tmp_path)
    artifact = converted(tmp_path, model, "tflite-float32", batch=1)
    kacc.microcontroller(artifact, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "7seas"}, "`name` must be a name in C"),
        ({"name": "a b"}, "`name` must be a name in C"),
        ({"name": ""}, "`name` must be a name in C"),
        ({"language": "rust"}, "`language` must be one of"),
        ({"artifact": "m.tflite"}, "takes an Artifact"),
    ],
)
def test_wrong_calls(int8_file, tmp_path, options, message):
    call = {"artifact": int8_file, "folder": tmp_path / "out", **options}
    with pytest.raises(UsageError, match=message) as caught:
        kacc.microcontroller(**call)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_a_file(int8_file, tmp_path):
    (tmp_path / "out").write_text("old")
    with pytest.raises(KaccError, match="folder must be one that can be made"):
        kacc.microcontroller(int8_file, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "old"


def test_the_table_and_the_line(int8_file, tmp_path):
    from rich.console import Console

    bundle = kacc.microcontroller(int8_file, tmp_path)
    assert f"arena of about {bundle.arena.total:,} bytes" in str(bundle)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(bundle)
    text = console.export_text()
    for part in ("AddConv2D()", f"{bundle.size_bytes:,}", f"{bundle.arena.total:,}"):
        assert part in text


def test_command(int8_file, tmp_path, capfd):
    code = main(["micro", str(int8_file.path), str(tmp_path / "out"), "--name", "net"])
    output = capfd.readouterr()
    assert code == 0, output.err
    assert "AddSoftmax()" in output.out
    assert (tmp_path / "out/net.cc").is_file()


def test_command_prints_json(int8_file, tmp_path, capfd):
    command = ["micro", str(int8_file.path), str(tmp_path), "--json", "--language", "c"]
    assert main(command) == 0
    found = json.loads(capfd.readouterr().out)
    bundle = kacc.microcontroller(int8_file, tmp_path)
    assert found["arena_bytes"] == bundle.arena.total
    assert found["resolver_calls"] == [op.call for op in bundle.operators]
    assert found["files"][0] == str(tmp_path / "model.c")
    assert len(found["plan"]) == len(bundle.arena.plan)


@pytest.mark.parametrize(
    ("arguments", "code"), [(["none.tflite", "out"], 2), (["words.tflite", "out"], 1)]
)
def test_command_on_things_that_are_no_files(arguments, code, tmp_path, capfd):
    (tmp_path / "words.tflite").write_text("words, and no model")
    paths = [str(tmp_path / argument) for argument in arguments]
    assert main(["micro", *paths]) == code
    error = capfd.readouterr().err
    assert error.startswith("kacc: ")
    assert len(error.splitlines()) == 1


@hypothesis.given(
    st.lists(
        st.tuples(st.integers(1, 40), st.integers(0, 9), st.integers(0, 4)),
        min_size=1,
        max_size=12,
    )
)
def test_no_buffers_that_live_together_share_memory(rows):
    buffers = [Buffer("b", 16 * size, at, at + time) for size, at, time in rows]
    plan = planned(buffers)
    for i, a in enumerate(plan):
        for b in plan[:i]:
            together = a.first <= b.last and b.first <= a.last
            apart = a.offset + a.size <= b.offset or b.offset + b.size <= a.offset
            assert apart or not together
    busiest = max(
        sum(b.size for b in buffers if b.first <= time <= b.last) for time in range(14)
    )
    assert busiest <= span(plan) <= sum(b.size for b in buffers)


def test_equal_buffers_are_placed_from_the_last(int8_file):
    plan = planned([Buffer(name, 16, 0, 2) for name in "abc"])
    assert [buffer.offset for buffer in plan] == [32, 16, 0]


def test_smaller_pointers_take_less(int8_file):
    small, large = (estimate_arena(int8_file.read(), size) for size in (4, 8))
    assert small.plan == large.plan
    assert small.activations == large.activations
    assert small.total < large.total
    assert small.total % 16 == 0


def test_micro_kernels_want_the_package(int8_file, images, monkeypatch):
    monkeypatch.setitem(sys.modules, "tflite_micro.python.tflite_micro", None)
    with pytest.raises(UsageError, match=r"tflite-micro.*kacc\[micro\]"):
        open_artifact(int8_file.path).predict(images, kernels="micro")


def test_it_works_without_the_package(int8_file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tflite_micro.python.tflite_micro", None)
    assert not kacc.microcontroller(int8_file, tmp_path).tried


@pytest.fixture(scope="module")
def net():
    """A small net of the usual layers."""
    keras.utils.set_random_seed(5)
    x = image = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, padding="same", activation="relu")(x)
    y = layers.DepthwiseConv2D(3, padding="same")(x)
    x = layers.ReLU(6.0)(layers.Add()([x, y]))
    x = layers.Conv2D(8, 1)(layers.MaxPooling2D(2)(x))
    x = layers.Flatten()(layers.AveragePooling2D(2)(x))
    return keras.Model(image, layers.Dense(5, activation="softmax")(x))


def quantized(model, x, scheme="int8"):
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    kacc.quantize(copy, scheme)
    kacc.quantization.calibrate(copy, [x])
    return copy


class TestOnTFLM:
    """What TensorFlow Lite Micro itself says, through its Python package."""

    @pytest.fixture(scope="class")
    def tflm(self):
        return pytest.importorskip(
            "tflite_micro.python.tflite_micro.runtime",
            reason="the extra kacc[micro] is not installed",
        )

    def arena(self, tflm, data, capfd):
        """Head and tail as TFLM's recording allocator reports them."""
        machine = tflm.Interpreter.from_bytes(data, arena_size=1_000_000)
        machine.invoke()
        capfd.readouterr()
        machine.print_allocations()
        text = capfd.readouterr().err
        words = [line.split() for line in text.splitlines() if "Arena alloc" in line]
        sizes = {line[3]: int(line[4]) for line in words}
        return sizes["head"], sizes["tail"]

    def test_the_list_of_operators(self, tflm):
        """The operators of the schema whose kernels the library has, by their names."""
        from ai_edge_litert.schema_py_generated import BuiltinOperator

        with open(tflm._runtime.__file__, "rb") as file:
            library = file.read()
        names = {
            match[2][: int(match[1])].decode().removeprefix("Register_")
            for match in re.finditer(rb"(\d+)(Register_[A-Z0-9_]+)", library)
        }
        assert names & set(vars(BuiltinOperator)) == micro_operators.BUILTINS

    def test_a_trained_model_is_its_simulation_to_the_bit(
        self, tflm, net, images, tmp_path
    ):
        model = quantized(net, images)
        artifact = converted(tmp_path, model)
        assert kacc.microcontroller(artifact, tmp_path).tried
        parity = kacc.parity(model, artifact, images, kernels="micro")
        assert parity.equal == 1
        assert parity.first_difference is None
        assert len(parity.layers) >= 6
        got = artifact.predict(images, kernels="micro")
        want = kacc.simulate(model, "micro")(images)
        np.testing.assert_array_equal(got, want)

    def test_activations_of_16_bits_are_their_simulation_to_the_bit(
        self, tflm, images, tmp_path
    ):
        """With layers whose 16 bit kernels round unlike LiteRT's."""
        keras.utils.set_random_seed(5)
        x = image = keras.Input((8, 8, 3))
        x = layers.Conv2D(6, 3, padding="same", activation="relu")(x)
        x = layers.Add()([x, layers.DepthwiseConv2D(3, padding="same")(x)])
        x = layers.Multiply()([x, layers.Conv2D(6, 1)(x)])
        x = layers.Dense(16)(layers.Flatten()(x))
        model = quantized(keras.Model(image, x), images, "int16x8")
        artifact = converted(tmp_path, model, "tflite-int16x8")
        assert kacc.microcontroller(artifact, tmp_path).tried
        parity = kacc.parity(model, artifact, images, kernels="micro")
        assert parity.equal == 1
        assert parity.first_difference is None

    def test_every_block_is_its_simulation_to_the_bit(self, tflm, tmp_path):
        """All small graphs of the tests of quantization, side by side."""
        known = [b for b in blocks.BLOCKS if b is not blocks.convnext]  # it has a GELU
        model = blocks.model_of(*known)
        x = [
            np.random.default_rng(i).normal(size=(32, *blocks.SHAPE)).astype("float32")
            for i in range(len(model.inputs))
        ]
        kacc.quantize(model)
        artifact = converted(tmp_path, model, x=x, batch=1)
        parity = kacc.parity(model, artifact, x, kernels="micro")
        assert {o.name: o.equal for o in parity.outputs if o.equal < 1} == {}

    def test_fully_connected_rounds_unlike_the_reference_kernels(self, tflm, tmp_path):
        """LiteRT's reference kernel rounds once where TFLM rounds twice."""
        keras.utils.set_random_seed(3)
        model = keras.Sequential([keras.Input((64,)), layers.Dense(96)])
        x = np.random.default_rng(0).normal(size=(256, 64)).astype("float32")
        model = quantized(model, x)
        artifact = converted(tmp_path, model)
        raw = [
            artifact.predict(artifact.feeds([x])[0], raw=True, kernels=kernels)
            for kernels in ("micro", "reference")
        ]
        assert 0.99 < (raw[0] == raw[1]).mean() < 1
        for kernels in ("micro", "reference"):
            assert kacc.parity(model, artifact, x, kernels=kernels).equal == 1

    @pytest.mark.parametrize("target", ["tflite-int8", "tflite-float32"])
    def test_the_arena(self, tflm, target, net, images, tmp_path, capfd):
        data = converted(tmp_path, net, target, images).read()
        head, tail = self.arena(tflm, data, capfd)
        estimate = estimate_arena(data, pointer_bytes=8)
        assert estimate.activations == head
        assert tail <= estimate.persistent <= 1.06 * tail
        # It starts with what was estimated, and not with much less.
        tflm.Interpreter.from_bytes(data, arena_size=estimate.total)
        with pytest.raises(RuntimeError):
            tflm.Interpreter.from_bytes(data, arena_size=int(0.9 * estimate.total))

    def test_the_plan_of_branches(self, tflm, images, tmp_path, capfd):
        """Tensors that wait for others, scratch, several inputs and outputs."""
        x, y = keras.Input((8, 8, 3), name="x"), keras.Input((8, 8, 3), name="y")
        a = layers.Conv2D(6, 3, padding="same", activation="relu")(x)
        b = layers.Conv2DTranspose(10, 3, padding="same")(y)
        c = layers.Concatenate()([a, b, x])
        d = layers.Conv2D(5, 2)(layers.MaxPooling2D(2)(c))
        e = layers.Concatenate()([layers.GlobalAveragePooling2D()(v) for v in (d, c)])
        model = keras.Model([x, y], [layers.Dense(4, activation="softmax")(e), a])
        for ends in ("int8", "float32"):
            artifact = converted(
                tmp_path, model, x=[images, images], io=ends, backend="tflite", batch=1
            )
            head, _ = self.arena(tflm, artifact.read(), capfd)
            assert estimate_arena(artifact.read(), 8).activations == head

    def test_the_plan_of_loops(self, tflm, tmp_path, capfd):
        model = keras.Sequential([keras.Input((7, 5)), layers.LSTM(4), layers.Dense(2)])
        data = converted(tmp_path, model, "tflite-float32", batch=1).read()
        assert "WHILE" in {op.name for op in micro_operators.operators_of(data)}
        head, tail = self.arena(tflm, data, capfd)
        estimate = estimate_arena(data, 8)
        assert estimate.activations == head
        assert tail <= estimate.persistent < 1.4 * tail

    def test_the_resnet_of_mlperf_tiny(self, tflm, data, load, tmp_path, capfd):
        """Real images, to the bit; the arena within half a percent."""
        path = data / "models/mlperf_tiny_resnet8.keras"
        model = keras.models.load_model(path, compile=False)
        x = np.asarray(load.cifar10("val")[0][:64], "float32")
        model = quantized(model, x)
        artifact = converted(tmp_path, model)
        assert kacc.parity(model, artifact, x, kernels="micro").equal == 1
        head, tail = self.arena(tflm, artifact.read(), capfd)
        estimate = estimate_arena(artifact.read(), 8)
        assert estimate.activations == head
        assert head + tail <= estimate.total <= 1.005 * (head + tail)

    @pytest.mark.parametrize("target", ["tflite-float16", "tflite-dynamic"])
    def test_what_tflm_refuses_is_refused(self, tflm, gelu, target, tmp_path):
        artifact = converted(tmp_path, gelu, target)
        with pytest.raises(ConversionError, match="TensorFlow Lite Micro must be able"):
            artifact.predict(np.zeros((1, 8, 8, 3)), kernels="micro")
        with pytest.raises(ConversionError, match="must run every operator"):
            kacc.microcontroller(artifact, tmp_path)

    @pytest.mark.parametrize(
        ("layer", "shape", "message"),
        [
            (layers.ReLU(6.0), (8, 8, 3), "RELU6 keeps the scale"),
            (layers.ELU(), (6,), "EXP takes floats only"),
            (layers.Cropping3D(1), (4, 4, 4, 2), "STRIDED_SLICE takes at most 4 axes"),
        ],
    )
    def test_kernels_that_take_less_than_litert(
        self, tflm, layer, shape, message, tmp_path
    ):
        """Refused by its rules; RELU6 it would run, and compute something else."""
        x = np.random.default_rng(0).normal(size=(32, *shape)).astype("float32")
        net = [keras.Input(shape), layer, layers.Flatten(), layers.Dense(3)]
        model = quantized(keras.Sequential(net), 9 * x)
        artifact = converted(tmp_path, model, batch=1)
        with pytest.raises(ConversionError, match=message):
            kacc.microcontroller(artifact, tmp_path)
        if message.startswith("RELU6"):
            assert kacc.parity(model, artifact, x, kernels="reference").equal == 1
            assert kacc.parity(model, artifact, x, kernels="micro").equal < 0.5
        else:
            with pytest.raises(ConversionError, match="must be able to run"):
                artifact.predict(x, kernels="micro")
