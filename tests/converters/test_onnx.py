"""ONNX files: what is asked of tf2onnx beyond the conversion itself."""

import keras
import numpy as np

import kacc


def test_tf2onnx_keeps_no_copies_of_the_model(tmp_path, monkeypatch):
    from tf2onnx import graph, optimizer

    copied = []
    whole = optimizer.copy.deepcopy

    class Copies:
        @staticmethod
        def deepcopy(value, *rest):
            copied.append(type(value))
            return whole(value, *rest)

    monkeypatch.setattr(optimizer, "copy", Copies)
    kacc.convert(_dense(), tmp_path / "model.onnx", "onnx")
    assert copied
    assert graph.Graph not in copied


def test_an_optimizer_that_fails_is_gone_around(tmp_path, monkeypatch):
    """With the copies, to which tf2onnx goes back."""
    from tf2onnx.optimizer.identity_optimizer import IdentityOptimizer

    calls = []

    def fail(self, graph, iteration):
        calls.append(graph)
        raise ValueError("of the optimizer")

    monkeypatch.setattr(IdentityOptimizer, "optimize", fail)
    model = _dense()
    artifact = kacc.convert(model, tmp_path / "model.onnx", "onnx")
    assert len(calls) > 1
    x = np.ones((2, 4), "float32")
    assert kacc.parity(model, artifact, x).max_rel < 1e-5


def _dense():
    layers = [keras.layers.Dense(3, activation="relu"), keras.layers.Dense(2)]
    return keras.Sequential([keras.Input((4,)), *layers])
