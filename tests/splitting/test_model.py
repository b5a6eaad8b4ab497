"""The parts in a chain compute what the whole model does; wrong calls are refused."""

import io

import keras
import numpy as np
import pytest
from rich.console import Console

import kacc
from kacc.splitting.layout import Layout
from kacc.splitting.model import cut_at_positions
from tests.conformance.random_graphs import SAMPLES, grow, random_branches
from tests.splitting import models


def _close(got, want):
    got, want = keras.tree.flatten(got), keras.tree.flatten(want)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", models.KINDS, ids=lambda kind: kind.__name__)
def test_chain_equals_the_whole_with_a_cut_at_every_place(kind):
    model = kind()
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(np.full(layer.moving_mean.shape, 0.5))
    x = models.data(model)
    want = model.predict(x, verbose=0)
    weights = [v.numpy() for v in model.variables]
    layout = Layout(model)
    for position in range(1, len(layout.calls)):
        parts = cut_at_positions(layout, [position])
        got = parts.predict(x)
        keras.tree.assert_same_structure(got, want)
        _close(got, want)
    _close(kacc.split(model).predict(x), want)
    # The model itself is as it was.
    _close(model.predict(x, verbose=0), want)
    for before, variable in zip(weights, model.variables, strict=True):
        np.testing.assert_array_equal(before, variable.numpy())


def test_random_graphs_equal_the_whole_with_a_cut_at_every_place():
    crossed = 0
    for branch in random_branches(3, 8):
        grown = grow(branch)
        if not grown.outputs:
            continue
        model = keras.Model(grown.inputs, grown.outputs)
        x = models.data(model, SAMPLES)
        layout = Layout(model)
        want = model.predict(x, verbose=0)
        for position in range(1, len(layout.calls)):
            if layout.refusal(position) is None:
                _close(cut_at_positions(layout, [position]).predict(x), want)
                crossed += len(layout.crossing(position)) > 1
    assert crossed >= 5


def test_parts_are_plain_models_named_after_what_they_carry(tmp_path):
    model = models.residual()
    parts = kacc.split(model, at=["first", "pool"])
    taken = [sorted(x.name for x in part.inputs) for part in parts]
    assert taken == [["image"], ["first", "relu"], ["pool"]]
    x = models.data(model)
    for part in parts:
        part.save(tmp_path / f"{part.name}.keras")
    loaded = [keras.models.load_model(tmp_path / f"{p.name}.keras") for p in parts]
    relu, first = (loaded[0].predict(x, verbose=0)[n] for n in ("relu", "first"))
    pool = loaded[1].predict({"relu": relu, "first": first}, verbose=0)
    _close(loaded[2].predict(pool, verbose=0), model.predict(x, verbose=0))
    assert not {id(v) for p in parts for v in p.variables} & set(
        map(id, model.variables)
    )


def test_cuts_are_even_and_cross_few_bytes():
    dense = keras.layers.Dense
    widths = (8, 64, 8, 64, 8, 64)
    stack = [
        keras.Input((8,)),
        *(dense(n, name=f"d{n}_{i}") for i, n in enumerate(widths)),
    ]
    parts = kacc.split(keras.Sequential(stack), 3)
    macs = [row.macs for row in parts.report]
    assert sum(macs) == sum(a * b for a, b in zip((8, *widths), widths, strict=False))
    assert [row.cut_bytes for row in parts.report[:-1]] == [32, 32]


def test_by_memory_counts_weights_and_activations():
    x = inputs = keras.Input((16, 16, 4))
    for i in range(4):
        x = keras.layers.Conv2D(4, 3, padding="same", name=f"conv{i}")(x)
    x = keras.layers.Flatten(name="flat")(x)
    model = keras.Model(inputs, keras.layers.Dense(16, name="big")(x))
    by_macs, by_memory = kacc.split(model, 2), kacc.split(model, 2, by="memory")
    assert [part.layers[-1] for part in by_macs.report] != ["flat", "big"]
    assert by_memory.report[1].layers in (("big",), ("flat", "big"))
    # Four KiB each for input and output; the weights are 16 * 1024 * 4 bytes.
    assert by_memory.report[0].peak_bytes == 2 * 4096
    assert by_memory.report[1].params_bytes == 16 * 1025 * 4
    assert by_memory.report[1].peak_bytes == 4096 + 64


def test_by_memory_puts_large_weights_into_several_parts():
    dense, widths = keras.layers.Dense, {"a": 256, "b": 256, "c": 256, "d": 8}
    layers = [dense(width, name=name) for name, width in widths.items()]
    model = keras.Sequential([keras.Input((8,)), *layers])
    parts = kacc.split(model, by="memory")
    assert [row.layers for row in parts.report] == [("a", "b"), ("c", "d")]


def test_shared_layers_stay_in_one_part_or_are_copied_with_a_warning():
    model = models.shared()
    parts = kacc.split(model)
    assert [row.layers for row in parts.report] == [
        ("before",),
        ("twice", "between", "after"),
    ] or [row.layers for row in parts.report] == [
        ("before", "twice", "between"),
        ("after",),
    ]
    with pytest.warns(UserWarning, match="twice"):
        parts = kacc.split(model, at=["between"])
    x = models.data(model)
    _close(parts.predict(x), model.predict(x, verbose=0))


def test_nested_models_can_be_named():
    parts = kacc.split(models.nested(), at=["inner"])
    assert parts.report[0].layers == ("a", "inner/a", "inner/b")
    parts = kacc.split(models.nested(), at=["inner/a"])
    assert parts.report[0].gives == ("a", "inner_a")


def test_masks_of_pruning_are_in_the_weights_of_the_parts():
    model = models.residual()
    kacc.prune(model, 0.5)
    model.get_layer("first").kernel.assign_add(np.ones((3, 3, 8, 8)))  # the mask stays
    parts = kacc.split(model)
    x = models.data(model)
    _close(parts.predict(x), model.predict(x, verbose=0))
    kernel = next(p for p in parts if "first" in [x.name for x in p.layers])
    zeros = np.mean(kernel.get_layer("first").kernel.numpy() == 0)
    assert zeros > 0.3


def test_results_print_as_a_table():
    parts = kacc.split(models.residual(), 2)
    assert str(parts).startswith("'net' in 2 parts\n  net_part_0: stem .. ")
    console = Console(file=io.StringIO(), width=120)
    console.print(parts)
    shown = console.file.getvalue()
    assert "crossing the cut" in shown
    assert "net_part_1" in shown
    assert len(parts) == 2
    assert parts[0] is next(iter(parts))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"parts": 1}, "`parts` must be an integer"),
        ({"parts": True}, "`parts` must be an integer"),
        ({"parts": 2, "at": ["first"]}, "Either `parts` or `at`"),
        ({"by": "latency"}, "`by` must be one of"),
        ({"at": "first"}, "must be a list of names"),
        ({"at": []}, "must be a list of names"),
        ({"at": ["frist"]}, "Did you mean 'first'"),
        ({"at": ["head"]}, "must be something after a cut"),
        ({"at": ["first", "first"]}, "Each cut must be given once"),
        ({"parts": 50}, "Ask for fewer parts"),
    ],
)
def test_wrong_calls(arguments, said):
    with pytest.raises(kacc.UsageError, match=said):
        kacc.split(models.residual(), **arguments)


def test_models_that_cannot_be_split():
    with pytest.raises(kacc.UsageError, match="must be built"):
        kacc.split(keras.Sequential([keras.layers.Dense(2)]))
    with pytest.raises(kacc.UsageError, match="Keras 3 models"):
        kacc.split("model")
    with pytest.raises(kacc.UsageError, match="must have been seen"):
        kacc.split(kacc.quantize(models.residual()))
    with pytest.raises(kacc.UsageError, match="a file for each"):
        kacc.split(models.residual()).chain([])


@pytest.mark.parametrize("path", ["no/such/folder", "no/such/{}.tflite"])
def test_nothing_is_converted_to_a_wrong_path(path):
    with pytest.raises(kacc.KaccError, match="folder"):
        kacc.split(models.sequential()).convert(path, "tflite-float32")
    with pytest.raises(kacc.UsageError, match="target"):
        kacc.split(models.sequential()).convert(path, "tflite-float31")
