"""Three models through every target: parity, and each file run by its own runtime.

ResNet8, MobileNet 0.75 and a small text Transformer (float targets only). Each artefact
is compared with Keras, and opened again in a process that has neither kacc nor Keras:
TensorFlow for SavedModels, JAX for StableHLO, onnxruntime, LiteRT. Files for Ethos-U
are compiled by vela, modules for a TPU by libtpu; nothing runs on an NPU or TPU here.
Integer targets take the model quantized by kacc, its ranges calibrated.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import export_models
import numpy as np
from common import Check, Report, arguments, say, versions

FLOAT = ("tflite-float32", "xla-cpu", "xla-gpu", "xla-tpu", "stablehlo", "onnx")
INTEGER = ("tflite-int8", "onnx-int8", "ethos-u55", "ethos-u65", "ethos-u85")


def main() -> int:
    options = arguments(__doc__, ("--samples", {"type": int, "default": 32}))
    count = 4 if options.quick else options.samples
    report = Report("targets", options.quick, {"samples": count})
    report.notes["versions"] = str(
        versions("tensorflow", "keras", "onnxruntime", "jax", "libtpu", "ethos-u-vela")
    )
    rows = []
    for name, make in export_models.models().items():
        x = export_models.samples(name, count)
        model = make()
        for target in FLOAT:
            say(f"{name}: {target}")
            rows.append(converted(name, model, target, x))
        if name != export_models.TEXT:
            model = quantized(make())
            for target in INTEGER:
                say(f"{name}: {target}")
                rows.append(converted(name, model, target, x))
    report.table("Targets", rows)
    report.checks += list(checks(rows))
    return report.finish(options.out)


def quantized(model: Any) -> Any:
    import kacc

    return kacc.quantize(model, "int8")


def converted(name: str, model: Any, target: str, x: np.ndarray) -> dict[str, Any]:
    import kacc

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder, "model" + _ending(target))
        options = {"batch": len(x)} if target == "stablehlo" else {}
        data = x if target in INTEGER else None
        artifact = kacc.convert(model, path, target, data, **options)
        row = {"model": name, "target": target, "bytes": artifact.size_bytes}
        if target.startswith("ethos"):
            share = artifact.manifest.report["npu_share"]
            return {**row, "on the NPU": share, "own runtime": "vela"}
        parity = kacc.parity(model, artifact, x)
        row |= {
            "max rel": parity.max_rel,
            "within 1 LSB": parity.within_one,
            "same class": parity.argmax_agreement,
        }
        found = in_fresh_process(artifact, x, Path(folder))
        # Both runs are of one file: what differs is the process and the runtime.
        apart = np.abs(found - artifact.predict(x)).max()
        return {**row, "own runtime": float(apart)} | _tpu(artifact)


def _tpu(artifact: Any) -> dict[str, Any]:
    if artifact.target != "xla-tpu":
        return {}
    from kacc.converters.formats.stablehlo import tpu_module
    from kacc.converters.tpu import compile_for_tpu

    module = tpu_module(artifact.path)
    manifest = artifact.manifest
    compiled = compile_for_tpu(module, manifest.inputs, manifest.outputs, "v5e")
    return {"v5e microseconds": (compiled.optimal_seconds or float("nan")) * 1e6}


def _ending(target: str) -> str:
    if target.startswith(("xla", "stablehlo")):
        return ""
    return ".onnx" if target.startswith("onnx") else ".tflite"


# What a process with the runtime alone does: reads x, writes y.
_PROGRAMS = {
    "tflite": """
        from ai_edge_litert.interpreter import Interpreter
        runner = Interpreter(path).get_signature_runner()
        kind = next(iter(runner.get_input_details().values()))
        scale, zero = kind["quantization"]
        if kind["dtype"] == np.int8:
            x = np.clip(np.rint(x / scale) + zero, -128, 127).astype("int8")
        (y,) = runner(**{next(iter(runner.get_input_details())): x}).values()
        kind = next(iter(runner.get_output_details().values()))
        scale, zero = kind["quantization"]
        if kind["dtype"] == np.int8:
            y = (y.astype("float32") - zero) * scale
    """,
    "xla": """
        import tensorflow as tf
        function = tf.saved_model.load(path).signatures["serving_default"]
        spec = function.structured_input_signature[1]
        ((name, tensor),) = spec.items()
        size = tensor.shape[0] or len(x)
        y = np.concatenate([
            list(function(**{name: tf.constant(x[i:i + size])}).values())[0].numpy()
            for i in range(0, len(x), size)])
    """,
    "stablehlo": """
        import json, dataclasses, jax
        from jax import export
        signature = json.load(open(path + "/signature.json"))
        module = open(path + "/" + signature["modules"]["cpu"], "rb").read()
        (into,), (out,) = signature["inputs"], signature["outputs"]
        like = jax.jit(lambda x: (jax.numpy.zeros(()),), keep_unused=True)
        struct = jax.ShapeDtypeStruct(tuple(into["shape"]), into["dtype"])
        made = dataclasses.replace(
            export.export(like, platforms=["cpu"])(struct),
            mlir_module_serialized=module,
            out_avals=(jax.core.ShapedArray(tuple(out["shape"]), out["dtype"]),))
        y = np.asarray(made.call(x)[0])
    """,
    "onnx": """
        import onnxruntime
        session = onnxruntime.InferenceSession(path)
        (y,) = session.run(None, {session.get_inputs()[0].name: x})
    """,
}


def in_fresh_process(artifact: Any, x: np.ndarray, folder: Path) -> np.ndarray:
    """The outputs by the target's own runtime, without kacc and Keras."""
    import textwrap

    kind = artifact.target.split("-")[0]
    np.save(folder / "x.npy", x)
    program = textwrap.dedent(
        f"""
        import sys
        sys.modules["kacc"] = sys.modules["keras"] = None
        import numpy as np
        path = {str(artifact.path)!r}
        x = np.load({str(folder / "x.npy")!r})
        """
    ) + textwrap.dedent(_PROGRAMS[kind])
    program += f"\nnp.save({str(folder / 'y.npy')!r}, y)\n"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{artifact.target}: {done.stderr[-1500:]}")
    return np.load(folder / "y.npy")


def checks(rows: list[dict[str, Any]]) -> Any:
    for row in rows:
        what = f"{row['model']}, {row['target']}"
        if row["target"].startswith("ethos"):
            yield Check(f"{what}: share on the NPU", row["on the NPU"], ">=", 1.0, True)
            continue
        if row["target"] == "onnx-int8":
            share = row["within 1 LSB"]
            yield Check(f"{what}: share within 1 LSB", share, ">=", 0.995, True)
        elif row["target"] in FLOAT:
            yield Check(f"{what}: max rel", row["max rel"], "<=", 1e-4, True)
        own = row["own runtime"]
        yield Check(f"{what}: own runtime", own, "<=", 1e-4, True)


if __name__ == "__main__":
    sys.exit(main())
