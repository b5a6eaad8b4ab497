"""The target ethos-u55, by vela itself."""

import keras
import numpy as np
import pytest
from keras import layers

import kacc
from kacc.converters import ethos
from kacc.converters.artifact import open_artifact
from kacc.core.cost import cost


def _model(width=16):
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(width, 3, padding="same", activation="relu", name="a")(image)
    x = layers.Conv2D(width, 3, padding="same", activation="relu", name="b")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(4)(x))


@pytest.fixture(scope="module")
def images():
    shape = (32, 16, 16, 3)
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@pytest.fixture(scope="module")
def artifacts(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ethos")
    model = _model()
    return model, {
        size: kacc.convert(
            model,
            folder / f"{size}.tflite",
            "ethos-u55",
            images,
            accelerator=size,
            backend="tflite",
        )
        for size in ethos.ACCELERATORS
    }


def test_the_report_is_in_the_manifest(artifacts):
    model, files = artifacts
    for size, file in files.items():
        report = file.manifest.report
        assert report["accelerator"] == f"ethos-u55-{size}"
        assert report["cpu_operators"] == 0
        assert report["npu_share"] == 1.0
        assert report["cycles"] > 0
        assert report["sram_bytes"] > 16 * 16 * 16
        # vela counts the mean as a convolution too.
        assert cost(model).macs <= report["macs"] <= 1.01 * cost(model).macs
        assert report["milliseconds"] == pytest.approx(report["cycles"] / 500e3)
    counts = [files[size].manifest.report["cycles"] for size in ethos.ACCELERATORS]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 2 * counts[-1]


def test_the_file_is_opened_again_and_runs_only_on_the_npu(artifacts, images):
    _, files = artifacts
    again = open_artifact(files[128].path)
    assert again.manifest == files[128].manifest
    assert again.target == "ethos-u55"
    assert again.manifest.inputs[0].shape == (1, 16, 16, 3)
    assert again.manifest.inputs[0].dtype == "int8"
    with pytest.raises(kacc.UsageError, match="runs on the NPU only"):
        again.predict(images[:1])


def test_vela_says_the_same_every_time(artifacts):
    _, files = artifacts
    from kacc.converters import flatbuffer

    assert any(
        operator.name == "ethos-u"
        for graph in flatbuffer.subgraphs(files[128].read())
        for operator in graph.operators
    )


def test_what_the_npu_lacks_is_left_to_the_cpu(tmp_path, images):
    model = _model()
    with pytest.warns(UserWarning, match="The CPU runs what the NPU lacks: QUANTIZE"):
        file = kacc.convert(
            model,
            tmp_path / "a.tflite",
            "ethos-u55",
            images,
            io="float32",
            backend="tflite",
        )
    report = file.manifest.report
    assert report["cpu_operators"] > 0
    assert 0 < report["npu_share"] < 1


def test_operators_left_to_the_cpu_are_named_with_their_layer(tmp_path):
    image = keras.Input((8, 8, 4))
    x = layers.Conv2D(8, 3, name="a")(image)
    # Only enlarged by powers of two images stay on the NPU.
    x = layers.UpSampling2D(3, interpolation="bilinear", name="up")(x)
    model = keras.Model(image, layers.Conv2D(2, 1)(x))
    x = np.random.default_rng(0).normal(size=(32, 8, 8, 4)).astype("float32")
    with pytest.warns(UserWarning, match="RESIZE_BILINEAR from up"):
        file = kacc.convert(
            model, tmp_path / "a.tflite", "ethos-u55", x, backend="tflite"
        )
    assert file.manifest.report["on_cpu"] == ["RESIZE_BILINEAR from up"]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["ethos-u65", "ethos-u85"])
def test_larger_npus(target, tmp_path, images):
    npu = ethos.NPUS[target]
    files = [
        kacc.convert(
            _model(),
            tmp_path / f"{size}.tflite",
            target,
            images,
            accelerator=size,
            backend="tflite",
        )
        for size in (npu.sizes[0], npu.sizes[-1])
    ]
    small, large = (file.manifest.report for file in files)
    assert small["accelerator"] == f"{target}-{npu.sizes[0]}"
    assert small["npu_share"] == large["npu_share"] == 1.0
    assert small["cycles"] > large["cycles"] > 0
    assert small["dram_bytes"] > 0


def test_a_trained_model_needs_no_calibration(tmp_path, images):
    model = _model()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))
    qat = kacc.callbacks.QuantizationAwareTraining("int8")
    model.fit(images, np.arange(32) % 4, callbacks=[qat], verbose=0)
    file = kacc.convert(model, tmp_path / "a.tflite", "ethos-u55")
    assert file.manifest.scheme == "int8"
    assert file.manifest.report["npu_share"] == 1.0


@pytest.mark.slow
def test_cycles_are_a_budget():
    model, cycles = _model(32), ethos.cycles(128)
    whole = cycles(model)
    assert whole == cycles(model)
    smaller = kacc.prune_channels(model, share=0.6, cost=cycles)
    assert cycles(smaller) <= 0.6 * whole


BAD = [
    ({"accelerator": 100}, "`accelerator` must be one of"),
    ({"batch": 4}, "takes batches of 1 only"),
    ({"target": "tflite-int8", "accelerator": 128}, "no choice of `accelerator`"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_wrong_calls(options, message, tmp_path, images):
    arguments = {"target": "ethos-u55", "calibration": images, **options}
    with pytest.raises(kacc.UsageError, match=message):
        kacc.convert(_model(), tmp_path / "a.tflite", **arguments)


def test_what_vela_refuses_is_one_line():
    with pytest.raises(kacc.ConversionError, match="vela must be able to compile") as e:
        ethos.compile_for_npu(b"no model at all")
    assert "\n" not in str(e.value)


def test_without_vela_the_error_says_what_to_install(monkeypatch, tmp_path, images):
    monkeypatch.setattr(ethos.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(kacc.KaccError, match=r"pip install \"kacc\[ethos\]\""):
        kacc.convert(_model(), tmp_path / "a.tflite", "ethos-u55", images)
    assert not (tmp_path / "a.tflite").exists()
