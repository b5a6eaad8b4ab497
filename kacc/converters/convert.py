"""`kacc.convert`: a Keras model to a file for a target."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kacc.converters import checks, legacy
from kacc.converters.artifact import Artifact
from kacc.converters.formats import format_of
from kacc.converters.post_training import (
    BACKEND,
    PostTraining,
    calibrate,
    of_quantized,
    own_request,
)
from kacc.converters.request import Converted, Export, Request
from kacc.converters.samples import Samples, gather
from kacc.converters.signature import signature_of
from kacc.converters.targets import Target, target_called
from kacc.converters.trace import freeze
from kacc.core import attach, registry
from kacc.core.errors import UsageError
from kacc.core.files import digest
from kacc.core.manifest import Manifest
from kacc.core.memory import release
from kacc.core.rules import Rule
from kacc.core.transform import shares_scale

CALIBRATION_SAMPLES = 500  # enough for ranges; more would only take longer


def convert(
    model: Any,
    path: str | os.PathLike[str],
    target: str,
    calibration: Any = None,
    *,
    io: str | None = None,
    batch: int | None = None,
    backend: str | None = None,
    ranges: Any = "minmax",
    rules: Sequence[Rule] = (),
    rounding: Any = "nearest",
    bias_correction: bool = False,
    accelerator: int | None = None,
    sparse: bool = False,
    batch_sizes: Sequence[int] | None = None,
    xla: str | None = None,
    compute: str | None = None,
    version: int | None = None,
    platforms: Sequence[str] | None = None,
    opset: int | None = None,
    reuse_factor: int | None = None,
    io_type: str | None = None,
) -> Artifact:
    """Converts a Keras model to a file, which is there whole or not at all.

    Args:
        model: a built Keras model: Sequential, functional or subclassed, plain or with
            quantization attached; or a model of tf_keras, plain or quantized, pruned
            or clustered by tfmot, whose wrappers may still be on.
        path: the file to write, ending as the target's files do (".tflite", ".onnx"),
            or the folder: of the targets "xla-..." that of the served model, in which
            a folder of the version is written, as TensorFlow Serving lays it out.
        target: "tflite-float32", "tflite-float16", "tflite-dynamic", "tflite-int8",
            "tflite-w4a8", "tflite-int16x8"; "ethos-u55", "ethos-u65" or "ethos-u85" (an
            int8 file compiled by vela, whose figures are in the artifact's
            `manifest.report`); "xla-cpu", "xla-gpu" and "xla-tpu", SavedModels whose
            functions XLA compiles;
            "stablehlo"; "onnx", or "onnx-int8" in QDQ form; "fpga-hls", a project of
            hls4ml in fixed point, compiled by g++ to be run here. The targets
            "xla-...", "stablehlo" and "onnx" compute the quantization of a quantized
            model in floats (fake quantization); "fpga-hls" keeps the bits that its
            scheme gives to weights and activations, with steps that are powers of two.
        calibration: samples to find ranges with, up to 500 of which are used: arrays
            (a list or dictionary for several inputs), a tf.data.Dataset, a PyDataset
            or a generator of batches, with or without labels. A plain model needs them
            for "tflite-int8"; a model with attached quantization only if it was never
            trained. For "fpga-hls" they choose a plain model's types of 16 bits, which
            are ap_fixed<16,6> without.
        io: the type of an integer file's inputs and outputs, "float32" or its own:
            "int8", or "int16" of "tflite-int16x8", which is the default. Float targets
            have floats anyway.
        batch: a fixed batch size, or None for any.
        backend: "tflite", "ai-edge" or "kacc", to force one of the programs that
            calibrate plain models; by default all do, and the file whose outputs are
            nearest to the float model's is kept.
        ranges: how kacc chooses a tensor's range from what calibration sees: "minmax",
            "percentile", "mse", or a `kacc.quantization.Ranges` with options. Other
            programs know extremes only, so the backend is "kacc" if it is given.
        rules: exceptions by layer path for a plain model, as for `kacc.quantize`. What
            a rule skips computes in float, in the middle of integers, which a warning
            says. The backend is "kacc" here too.
        rounding: "nearest", or "adaround" to round each weight of a plain model up or
            down as its layer's outputs on the calibration data ask for (Nagel et al.
            2020, arXiv:2004.10568): it takes minutes, and gains much at 4 bits. A
            `kacc.quantization.AdaRound` has options. The backend is "kacc" here too.
        bias_correction: whether the biases of a plain model's layers make up for the
            mean error that quantization brings to their outputs on the calibration
            data (Nagel et al. 2019, arXiv:1906.04721): it takes seconds. The backend is
            "kacc" here too.
        accelerator: the NPU's MACs per cycle: of "ethos-u55" 32, 64, 128 (the default)
            or 256; of "ethos-u65" 256 (the default) or 512; of "ethos-u85" 128, 256
            (the default), 512, 1024 or 2048.
        sparse: for a pruned model and the targets "tflite-float32" and
            "tflite-float16": whether the file stores kernels of 1x1 convolutions and
            dense layers with many zeros in TFLite's sparse format (TFLiteConverter's
            experimental sparsity optimization). The file becomes smaller; runtimes
            unpack it when they load it. XNNPACK computes with the sparse form on Arm
            and in WebAssembly, not on x86 with AVX, where its dense kernels are faster.
            It does so from a 3x3 convolution of 3 channels, with stride 2 and a border
            of 1, on to a mean over the image: all between them must be 1x1
            convolutions, of whose weights two thirds are zero, depthwise 3x3 and 5x5
            convolutions, additions, multiplications and activations (Elsen et al. 2020,
            arXiv:1911.09723; XNNPACK delegate's README, "Sparse Inference").
        batch_sizes: for "xla-...": sizes with a signature of their own, "batch_8" and
            so on, which are compiled when the model is loaded. "xla-tpu" needs fixed
            sizes, and pads them to multiples of 8; its default is (8,).
        xla: for "xla-cpu": "auto" (the default) times each function on this machine
            with and without XLA and keeps the faster, which takes some twenty times the
            memory of the weights; "always" and "never" force it.
        compute: "float32" (the default), or "bfloat16" or "float16" for products and
            what stands between them, where the target offers it; inputs and outputs
            stay float32.
        version: for "xla-...": the number of the version folder, by default 1.
        platforms: for "stablehlo": some of "cpu", "cuda" and "tpu", by default all.
        opset: for "onnx...": the operator set, by default 17.
        reuse_factor: for "fpga-hls": how many products of a layer share a multiplier,
            by default 1, which is fastest and largest.
        io_type: for "fpga-hls": "io_parallel" (the default) gives tensors all at once,
            "io_stream" pixel by pixel, for larger images.

    Returns:
        The `Artifact`, which also `open_artifact(path)` gives.

    Raises:
        UsageError: if an argument is wrong, or the model's scheme does not fit.
        ConversionError: if the model cannot be converted; for integer targets also if
            operators stayed in float, which it names.
        KaccError: if the path cannot be written or the disk is full.

    Example:
        >>> import keras, numpy as np, tempfile
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> samples = np.random.default_rng(0).normal(size=(64, 4))
        >>> path = tempfile.mkdtemp() + "/model.tflite"
        >>> artifact = convert(model, path, "tflite-int8", samples)
        >>> artifact.manifest.inputs[0].dtype
        'int8'
    """
    row = target_called(target)
    export = Export(
        batch_sizes, xla, compute, version, platforms, opset, reuse_factor, io_type
    )
    options = PostTraining(ranges, rules, rounding, bias_correction)
    io = io or row.io
    checks.check_options(row, io, batch, backend, sparse)
    checks.check_accelerator(row, accelerator)
    batch = row.batch if batch is None else batch
    scheme = _scheme_of(model)
    checks.check_scheme(row, scheme, backend, model)
    checks.check_post_training(row, scheme, backend, options, model)
    checks.check_export(row, export)
    path = row.format.place(path, version)
    row.format.check_path(path, target)
    samples = _calibrated(model, row, scheme, calibration, options)
    graph = freeze(model, batch, barriers=row.integer)
    request = Request(
        graph,
        scheme,
        samples,
        io,
        backend,
        target,
        accelerator=accelerator,
        sparse=sparse,
        export=export,
        macs=_macs_of(model),
        model=model,
    )
    if legacy.is_legacy(model):
        request = replace(request, by_tfmot=scheme is not None)
    elif scheme is not None and row.integer:
        request = of_quantized(model, request)
    elif row.integer:
        own = own_request(model, row.scheme, request, batch, options)
        few = backend is None and _shares_values(model)
        forced = BACKEND if options.given or few else backend
        request = replace(request, own=own, backend=forced)
    converted = row.handler(request)
    used = {"batch": batch, **({"io": io} if row.integer else {}), **export.given}
    if sparse:
        used["sparse"] = True
    if samples is not None:
        used["calibration_samples"] = len(samples)
    artifact = _write(path, request, converted, used | options.given)
    release(artifact.size_bytes)
    return artifact


def _scheme_of(model: Any) -> str | None:
    import keras

    if legacy.is_legacy(model):
        return legacy.scheme_of(model)
    if not isinstance(model, keras.Model):
        return None  # `freeze` says what is wrong
    from kacc import quantization

    return quantization.scheme_of(model)


def _shares_values(model: Any) -> bool:
    """Whether channels of a layer share values, which only kacc keeps as few."""
    return any(
        shares_scale(layer, weight.attribute)
        for layer in attach.attached(model)
        for weight in getattr(registry.find(layer), "weights", ())
    )


def _calibrated(
    model: Any,
    row: Target,
    scheme: str | None,
    calibration: Any,
    options: PostTraining,
) -> Samples | None:
    """The samples to calibrate a plain model with; fills an attached model's ranges."""
    unused = not row.calibrates or calibration is None
    if not row.integer and scheme is None and unused:
        return None
    signature = signature_of(model, None)
    if scheme is None and calibration is None:
        raise UsageError(
            f"A plain model needs calibration data for the target {row.name!r}",
            received="calibration=None",
            fix="Pass some hundred samples, or train with "
            "kacc.callbacks.QuantizationAwareTraining",
        )
    if scheme is None:
        return gather(
            calibration, signature.inputs, "Calibration data", CALIBRATION_SAMPLES
        )
    if legacy.is_legacy(model):
        legacy.require_trained(model)
        if calibration is None:
            return None
        return gather(
            calibration, signature.inputs, "Calibration data", CALIBRATION_SAMPLES
        )
    from kacc import quantization

    unseen = quantization.unseen_ranges(model)
    if not unseen and options.given:
        raise UsageError(
            "`ranges` is for calibration; this model has learned its ranges",
            received=options.given["ranges"],
            fix="Leave it out",
        )
    if not unseen:
        return None
    if calibration is None:
        quantization.require_seen(
            model, "in training", "Train a step, or pass calibration="
        )
    samples = gather(
        calibration, signature.inputs, "Calibration data", CALIBRATION_SAMPLES
    )
    calibrate(model, samples, options)
    return samples


def _write(
    path: str | os.PathLike[str],
    request: Request,
    converted: Converted,
    options: dict[str, Any],
) -> Artifact:
    """Writes the file with its manifest, and reads it again."""
    manifest = Manifest(
        target=request.target,
        inputs=converted.inputs or request.graph.inputs,
        outputs=converted.outputs or request.graph.outputs,
        input_structure=request.graph.input_structure,
        output_structure=request.graph.output_structure,
        scheme=request.scheme,
        backend=converted.backend,
        options=options,
        versions=_versions(),
        report=converted.notes,
    )
    form = format_of(request.target)
    written = form.write(path, converted.data, manifest)
    return Artifact(written, form.manifest(written).of_file(*digest(written)))


def _macs_of(model: Any) -> int | None:
    """Multiply-accumulates for one sample, where the model's graph tells them."""
    if legacy.is_legacy(model):
        return None
    from kacc.core.cost import cost

    try:
        counted = cost(model)
    except UsageError:  # its `call` cannot be traced
        return None
    return None if counted.unknown else counted.macs


def _versions() -> dict[str, str]:
    import keras
    import tensorflow as tf

    import kacc

    return {
        "kacc": kacc.__version__,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
    }
