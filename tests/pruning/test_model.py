"""Pruning whole models of every kind: what goes, what stays, and what is left."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import kacc
from kacc.core import attach, recipe
from kacc.core.errors import UsageError
from kacc.core.transform import QUANTIZE
from kacc.pruning.masks import pruned_layers
from kacc.pruning.transform import prune_of
from tests.core import models


def chain(units=(8, 8, 8, 4), inputs=8, **options):
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((inputs,)),
            *[layers.Dense(n, name=f"d{i}", **options) for i, n in enumerate(units)],
        ]
    )


def zeros(layer, attribute="kernel"):
    return getattr(layer, attribute).numpy() == 0


def names(model):
    return {layer.name for layer, _ in pruned_layers(model)}


@pytest.mark.parametrize("build", models.MODELS, ids=lambda b: b.__name__)
class TestEveryKind:
    def test_outputs_are_those_of_a_plain_model_with_zeros(self, build):
        keras.utils.set_random_seed(1)
        model = kacc.prune(build(), 0.5, keep_ends=False)
        x = models.inputs_for(model)
        got = [models.outputs(model, x), model.predict(x, verbose=0)]
        plain = kacc.strip(model)
        assert not attach.is_attached(plain)
        assert [v for v in plain.variables if "mask" in v.name] == []
        want = models.outputs(plain, x)
        for a, b in zip(got[0], want, strict=True):
            np.testing.assert_array_equal(a, b)
        for a, b in zip(keras.tree.flatten(got[1]), want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)

    def test_before_the_schedule_it_is_the_identity(self, build):
        keras.utils.set_random_seed(1)
        model = build()
        x = models.inputs_for(model)
        want = models.outputs(model, x)
        schedule = kacc.schedules.PolynomialDecay(0.0, 0.5, 10, 20)
        kacc.prune(model, schedule, keep_ends=False)
        assert kacc.pruning.sparsity(model) == 0
        for a, b in zip(models.outputs(model, x), want, strict=True):
            np.testing.assert_array_equal(a, b)

    @pytest.mark.sampled(3)
    def test_a_loaded_model_is_the_saved_one_and_trains_on(self, build, tmp_path):
        keras.utils.set_random_seed(1)
        model = build()
        model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=False)
        kacc.prune(model, 0.6, keep_ends=False)
        x, y = models.inputs_for(model), models.targets_for(model)
        model.fit(x, y, batch_size=8, epochs=2, verbose=0)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert recipe.recipe_of(loaded) == recipe.recipe_of(model)
        assert names(loaded) == names(model)
        assert kacc.pruning.sparsity(loaded) == kacc.pruning.sparsity(model) > 0.5
        for a, b in zip(
            models.outputs(loaded, x), models.outputs(model, x), strict=True
        ):
            np.testing.assert_array_equal(a, b)
        loaded.fit(x, y, batch_size=8, verbose=0)
        for layer, transform in pruned_layers(loaded):
            for one in transform.pruned.values():
                assert (one.variable.numpy()[one.zeros] == 0).all(), layer.name

    def test_weights_go_to_plain_models_and_back(self, build, tmp_path):
        keras.utils.set_random_seed(1)
        model = kacc.prune(build(), 0.5, keep_ends=False)
        x = models.inputs_for(model)
        model.save_weights(tmp_path / "pruned.weights.h5")
        plain = build()
        plain.load_weights(tmp_path / "pruned.weights.h5")
        want = models.outputs(model, x)
        for a, b in zip(models.outputs(plain, x), want, strict=True):
            np.testing.assert_array_equal(a, b)
        plain.save_weights(tmp_path / "plain.weights.h5")
        model.load_weights(tmp_path / "plain.weights.h5")
        for a, b in zip(models.outputs(model, x), want, strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_first_and_the_last_layer_are_kept():
    model = kacc.prune(chain(), 0.75)
    assert names(model) == {"d1", "d2"}
    assert kacc.pruning.sparsity(model) == 0.75


def test_ends_of_a_graph_with_branches():
    image = keras.Input((8, 8, 3))
    stem = layers.Conv2D(4, 3, padding="same", name="stem")(image)
    left = layers.Conv2D(4, 3, padding="same", name="left")(stem)
    right = layers.Conv2D(4, 3, padding="same", name="right")(image)
    x = layers.Flatten()(layers.Add()([left, right]))
    x = layers.Dense(4, name="middle")(x)
    heads = [layers.Dense(2, name=name)(x) for name in ("one", "two")]
    model = kacc.prune(keras.Model(image, heads), 0.5)
    assert names(model) == {"left", "middle"}


def test_nothing_left_to_prune():
    with pytest.raises(UsageError, match=r"a layer to prune.*d0 stays.*keep_ends"):
        kacc.prune(chain((8, 2)), 0.5)


def test_global_ranks_all_layers_together_and_layer_each_by_itself():
    model = chain()
    model.layers[1].kernel.assign(model.layers[1].kernel * 1e-6)
    model = kacc.prune(model, 0.5)
    assert zeros(model.layers[1]).all()
    assert not zeros(model.layers[2]).any()
    model = chain()
    model.layers[1].kernel.assign(model.layers[1].kernel * 1e-6)
    model = kacc.prune(model, 0.5, scope="layer")
    assert [zeros(x).mean() for x in model.layers] == [0, 0.5, 0.5, 0]


def test_rules_set_layers_apart():
    rules = [
        kacc.Rule("d[0-2]", sparsity=0.25),
        kacc.Rule("d1", skip=True),
        kacc.Rule("d3", sparsity=0.5),
    ]
    model = kacc.prune(chain((8,) * 6), 0.75, rules=rules)
    got = [zeros(x).mean() for x in model.layers]
    assert got[:4] == [0.25, 0, 0.25, 0.5]
    assert got[4:] == [0.75, 0]
    assert recipe.recipe_of(model)["pruning"]["rules"][0]["sparsity"] == 0.25


def test_rules_that_are_wrong():
    with pytest.raises(UsageError, match="A rule must match a layer"):
        kacc.prune(chain(), 0.5, rules=[kacc.Rule("d9", skip=True)])
    with pytest.raises(UsageError, match="The sparsity of a rule"):
        kacc.Rule("d1", sparsity=1.0)
    with pytest.raises(UsageError, match=r"2:4.*reaches a sparsity of 0.5"):
        kacc.prune(chain(), method="2:4", rules=[kacc.Rule("d1", sparsity=0.75)])


def test_two_of_four_along_the_inputs():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, name="stem")(image)
    x = layers.Conv2D(8, 3, name="conv")(x)
    x = layers.Conv2DTranspose(6, 3, name="up")(x)
    x = layers.SeparableConv2D(8, 3, name="separable")(x)
    x = layers.Dense(4, name="head")(layers.Flatten()(x))
    model = kacc.prune(keras.Model(image, x), method="2:4")
    kept = {name: ~zeros(model.get_layer(name)) for name in ("conv", "up")}
    for groups in (
        kept["conv"].reshape(9, 2, 4, 8).sum(2),
        kept["up"].reshape(9, 6, 2, 4).sum(-1),
    ):
        assert (groups == 2).all()
    separable = model.get_layer("separable")
    assert not zeros(separable, "depthwise_kernel").any()
    # Six inputs: four of which two stay, and two that stay.
    assert zeros(separable, "pointwise_kernel").sum() == 2 * 8
    assert names(model) == {"conv", "up", "separable"}


@pytest.mark.parametrize("block", [(1, 4), (4, 1), (2, 2), (8, 8)])
def test_blocks(block):
    model = kacc.prune(chain((16, 16, 16, 4)), 0.5, method=block, scope="layer")
    for layer in model.layers[1:3]:
        rows, columns = 16 // block[0], 16 // block[1]
        parts = zeros(layer).reshape(rows, block[0], columns, block[1])
        whole = parts.sum((1, 3))
        assert set(np.unique(whole)) == {0, block[0] * block[1]}
        assert zeros(layer).mean() == 0.5


def test_layers_whose_axes_are_not_known_stay_dense_in_patterns():
    x = keras.Input((6, 4))
    y = layers.EinsumDense("abc,bcd->ad", 8, name="einsum")(x)
    y = layers.Dense(8, name="dense")(y)
    model = keras.Model(x, layers.Dense(2, name="head")(y))
    with pytest.warns(UserWarning, match="leaves dense: einsum .which axis has"):
        kacc.prune(model, method="2:4", keep_ends=False)
    assert names(model) == {"dense", "head"}
    kacc.prune(model, 0.5, keep_ends=False)
    assert "einsum" in names(model)


def test_a_soft_threshold_shrinks_what_stays():
    model = chain()
    before = np.abs(model.layers[1].kernel.numpy())
    kacc.prune(model, 0.5, method="soft", scope="layer")
    after = np.abs(model.layers[1].kernel.numpy())
    threshold = np.sort(before.ravel())[31]
    np.testing.assert_allclose(after, np.maximum(before - threshold, 0), atol=1e-7)
    again = model.layers[1].kernel.numpy()
    kacc.pruning.update_masks(model)
    np.testing.assert_array_equal(model.layers[1].kernel.numpy(), again)


def test_exact_counts_for_ties():
    model = chain(kernel_initializer="ones")
    kacc.prune(model, 0.3)
    assert sum(zeros(x).sum() for x in model.layers) == round(0.3 * 128)
    again = kacc.prune(chain(kernel_initializer="ones"), 0.3)
    for a, b in zip(model.layers, again.layers, strict=True):
        np.testing.assert_array_equal(a.kernel.numpy(), b.kernel.numpy())


def test_masks_never_lose_a_zero_without_regrowth():
    model = kacc.prune(chain(), 0.5)
    before = zeros(model.layers[1])
    model.layers[1].kernel.assign(np.ones((8, 8)))  # as Muon might
    kacc.pruning.update_masks(model, 0.1)
    assert kacc.pruning.sparsity(model) == 0.5
    kacc.prune(model, 0.75)
    assert (zeros(model.layers[1]) >= before).all()


def test_regrown_weights_learn_and_come_back():
    model = chain((8, 8, 8, 1), use_bias=False)
    kacc.prune(model, 0.5, scope="layer", regrow=True)
    layer = model.layers[1]
    assert not zeros(layer).any()  # the variable stays dense
    mask = prune_of(layer).pruned["kernel"].zeros
    effective = attach.weight_before(layer, "kernel", QUANTIZE).numpy()
    np.testing.assert_array_equal(effective == 0, mask)
    x = np.random.default_rng(0).normal(size=(4, 8)).astype("float32")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(x, training=True))
    assert (tape.gradient(loss, layer.kernel.value).numpy()[mask] != 0).any()
    value = layer.kernel.numpy()
    first = tuple(np.argwhere(mask)[0])
    value[first] = 9.0
    layer.kernel.assign(value)
    kacc.pruning.update_masks(model)
    after = prune_of(layer).pruned["kernel"].zeros
    assert not after[first]
    assert after.mean() == 0.5


def test_frozen_masks_are_zeros_in_the_variables():
    model = chain()
    model.compile(keras.optimizers.Adam(0.1), "mse", jit_compile=False)
    kacc.prune(model, 0.5, regrow=True)
    x, y = np.ones((8, 8), "float32"), np.zeros((8, 4), "float32")
    model.fit(x, y, verbose=0)
    want = model.predict(x, verbose=0)
    function = model.train_function
    kacc.pruning.freeze_masks(model)
    assert model.train_function is not function  # the gradient is another
    assert sum(zeros(layer).sum() for layer in model.layers) == 64
    np.testing.assert_allclose(model.predict(x, verbose=0), want, rtol=1e-5, atol=1e-6)
    assert not recipe.recipe_of(model)["pruning"]["regrow"]
    masks = [prune_of(x).pruned["kernel"].zeros for x in model.layers[1:3]]
    model.fit(x, y, epochs=3, verbose=0)
    for layer, mask in zip(model.layers[1:3], masks, strict=True):
        assert zeros(layer)[mask].all()
    function = model.train_function
    kacc.pruning.freeze_masks(model)
    assert model.train_function is function


def test_stripping_while_weights_regrow_leaves_exact_zeros():
    model = kacc.prune(chain(), 0.5, regrow=True)
    x = models.vectors(4)
    want = models.outputs(model, x)[0]
    plain = kacc.strip(model)
    assert sum(zeros(layer).sum() for layer in plain.layers) == 64
    assert not any(np.signbit(x.kernel.numpy()[zeros(x)]).any() for x in plain.layers)
    np.testing.assert_array_equal(models.outputs(plain, x)[0], want)


def test_a_second_call_replaces_the_first():
    model = kacc.prune(chain(), 0.25)
    kacc.prune(model, method="2:4", rules=[kacc.Rule("d1", skip=True)])
    assert names(model) == {"d2"}
    assert type(model.layers[1]) is layers.Dense
    assert len(attach.transforms_of(model.layers[2])) == 1


def test_shared_layers_are_pruned_once():
    model = kacc.prune(models.shared(), 0.5, keep_ends=False)
    assert sorted(names(model)) == ["conv", "head"]
    assert kacc.pruning.sparsity(model) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16"])
def test_half_precision(policy):
    model = chain(dtype=policy)
    kacc.prune(model, 0.5)
    assert kacc.pruning.sparsity(model) == 0.5
    model.compile("adam", "mse", jit_compile=False)
    x = models.vectors(8)
    model.fit(x, np.ones((8, 4)), epochs=2, verbose=0)
    assert kacc.pruning.sparsity(model) == 0.5
    kernels = [x.kernel.numpy().astype("float32") for x in model.layers]
    assert sum((k == 0).sum() for k in kernels[1:3]) == 64


class TestWrapper:
    def test_a_built_layer_is_pruned_at_once(self):
        layer = layers.Dense(4)
        layer.build((None, 8))
        assert kacc.layers.PruneWrapper(layer, 0.75) is layer
        assert zeros(layer).mean() == 0.75

    def test_a_layer_that_is_built_later_has_masks_then(self, tmp_path):
        keras.utils.set_random_seed(2)
        model = keras.Sequential(
            [
                keras.Input((8,)),
                kacc.layers.PruneWrapper(layers.Dense(8, name="a"), 0.25),
                layers.Dense(8, name="b"),
                kacc.layers.PruneWrapper(layers.Dense(4, name="c"), method="2:4"),
            ]
        )
        assert kacc.pruning.sparsity(model) == 0
        kacc.pruning.update_masks(model)
        assert [zeros(x).mean() for x in model.layers] == [0.25, 0, 0.5]
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        for a, b in zip(loaded.layers, model.layers, strict=True):
            np.testing.assert_array_equal(a.kernel.numpy(), b.kernel.numpy())
        assert kacc.pruning.sparsity(loaded) == kacc.pruning.sparsity(model)
        assert prune_of(loaded.layers[0]).wrapped

    def test_pruning_the_model_leaves_wrapped_layers_their_own(self):
        layer = kacc.layers.PruneWrapper(layers.Dense(8), 0.25)
        model = keras.Sequential([keras.Input((8,)), layer, *chain().layers])
        kacc.prune(model, 0.75, scope="layer")
        got = [zeros(x).mean() for x in model.layers]
        assert got == [0.25, 0.75, 0.75, 0.75, 0]

    def test_it_takes_no_layer_without_such_weights(self):
        for layer in (layers.ReLU(), layers.DepthwiseConv2D(3), layers.PReLU()):
            with pytest.raises(UsageError, match="weights that kacc can prune"):
                kacc.layers.PruneWrapper(layer, 0.5)
        with pytest.raises(UsageError, match="needs a sparsity to reach"):
            kacc.layers.PruneWrapper(layers.Dense(4))

    def test_both_wrappers_on_one_layer(self):
        layer = kacc.layers.PruneWrapper(layers.Dense(4), 0.5)
        layer = kacc.layers.QuantizeWrapper(layer)
        kinds = [type(t).__name__ for t in attach.transforms_of(layer)]
        assert kinds == ["Prune", "Quantize"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "needs a sparsity to reach"),
        ({"sparsity": 1.0}, "from 0 to less than 1"),
        ({"sparsity": -0.1}, "from 0 to less than 1"),
        ({"sparsity": "75%"}, "from 0 to less than 1"),
        ({"sparsity": True}, "from 0 to less than 1"),
        ({"sparsity": lambda step: 2.0}, "from 0 to less than 1"),
        ({"sparsity": lambda step: "much"}, "must give a number for a step"),
        ({"sparsity": 0.5, "method": "best"}, "`method` must be"),
        ({"sparsity": 0.5, "method": (1, 0)}, "sides of a block must be positive"),
        ({"sparsity": 0.5, "method": "4:2"}, "some weights must stay"),
        ({"sparsity": 0.75, "method": "2:4"}, "reaches a sparsity of 0.5"),
        ({"sparsity": 0.5, "scope": "model"}, "`scope` must be one of"),
        ({"sparsity": 0.5, "method": "soft", "regrow": True}, "none can come back"),
        ({"sparsity": 0.5, "rules": ["d1"]}, "`rules` must be kacc.Rule objects"),
    ],
)
def test_wrong_arguments(arguments, text):
    model = chain()
    with pytest.raises(UsageError, match=text):
        kacc.prune(model, **arguments)
    assert not attach.is_attached(model)


def test_a_model_without_weights():
    model = keras.Sequential([keras.Input((4,)), layers.ReLU()])
    with pytest.raises(UsageError, match="a model without weights"):
        kacc.prune(model, 0.5)


@pytest.mark.parametrize("regrow", [False, True])
@pytest.mark.parametrize("kind", ["NonNeg", "MaxNorm"])
def test_constraints_hold_for_pruned_weights(kind, regrow):
    constraint = getattr(keras.constraints, kind)()
    dense = keras.layers.Dense(8, kernel_constraint=constraint)
    model = keras.Sequential([keras.Input((6,)), dense])
    model.compile(keras.optimizers.SGD(0.5), "mse")
    kacc.prune(model, 0.5, keep_ends=False, regrow=regrow)
    x = np.random.default_rng(0).normal(size=(16, 6))
    model.fit(x, -3 * np.ones((16, 8)), epochs=2, verbose=0)
    used = kacc.strip(model).layers[0].kernel.numpy()
    assert 24 <= (used == 0).sum() < used.size
    np.testing.assert_allclose(constraint(used), used, rtol=1e-5)
