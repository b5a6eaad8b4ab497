"""Files of attached models: whole models, weights, and loading elsewhere."""

import keras
import numpy as np
import pytest

import kacc
from kacc.core import attach, recipe
from kacc.core.errors import KaccError, UsageError
from kacc.quantization import scheme_of, unseen_ranges
from kacc.quantization.transform import quantize_of
from tests.core import models
from tests.core.processes import run_python


def ranges_of(model):
    """The ends of all ranges, in the order of the layers."""
    return [
        [transform.ends(name) for name in sorted(transform.ranges)]
        for transform in map(quantize_of, attach.attached(model))
    ]


def assert_same(model, case):
    assert scheme_of(model) == "int8"
    assert recipe.recipe_of(model) == recipe.recipe_of(case.model)
    assert unseen_ranges(model) == []
    assert ranges_of(model) == ranges_of(case.model)
    for got, want in zip(models.outputs(model, case.x), case.outputs, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("build", models.MODELS, ids=lambda b: b.__name__)
class TestEveryKind:
    def test_a_loaded_model_is_the_saved_one(self, build, trained):
        case = trained(build)
        model = keras.models.load_model(case.path)
        assert_same(model, case)
        # Twice, since what is loaded must be saved again as it was.
        again = case.path.with_stem("again")
        model.save(again)
        assert_same(keras.models.load_model(again), case)

    @pytest.mark.sampled(3)
    def test_training_goes_on_after_loading(self, build, trained):
        case = trained(build)
        model = keras.models.load_model(case.path)
        before = int(model.optimizer.iterations)
        model.fit(case.x, models.targets_for(model), batch_size=16, verbose=0)
        assert int(model.optimizer.iterations) == before + 1
        assert ranges_of(model) != ranges_of(case.model)

    def test_plain_models_take_weights_of_attached_ones(self, build, trained, tmp_path):
        case = trained(build)
        path = tmp_path / "model.weights.h5"
        case.model.save_weights(path)
        keras.utils.set_random_seed(99)
        plain = build()
        plain.load_weights(path)
        want = kacc.strip(keras.models.load_model(case.path))
        x = case.x
        for a, b in zip(models.outputs(plain, x), models.outputs(want, x), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_attached_models_take_weights_of_plain_ones(self, build, trained, tmp_path):
        case = trained(build)
        keras.utils.set_random_seed(98)
        plain = build()
        path = tmp_path / "model.weights.h5"
        plain.save_weights(path)
        model = keras.models.load_model(case.path)
        model.load_weights(path)
        assert ranges_of(model) == ranges_of(case.model)  # a plain file has none
        got = models.outputs(kacc.strip(model), case.x)
        for a, b in zip(got, models.outputs(plain, case.x), strict=True):
            np.testing.assert_array_equal(a, b)

    @pytest.mark.sampled(3)
    def test_weight_files_between_attached_models(self, build, trained, tmp_path):
        case = trained(build)
        path = tmp_path / "model.weights.h5"
        case.model.save_weights(path)
        model = kacc.quantize(build())
        model.load_weights(path)
        for a, b in zip(models.outputs(model, case.x), case.outputs, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.sampled(2)  # tests/augmentation/test_layer.py has another order
@pytest.mark.parametrize(
    "imports", ["import kacc, keras", "import tensorflow as tf, keras, kacc"]
)
def test_a_fresh_process_needs_only_import_kacc(imports, trained, tmp_path):
    """Loading in a process that has imported nothing else of kacc."""
    kinds = [models.sequential, models.nested, models.operators, models.subclassed]
    kinds += [models.plain]
    cases = {build.__name__: trained(build) for build in kinds}
    paths = {name: str(case.path) for name, case in cases.items()}
    np.savez(tmp_path / "x.npz", **{name: case.x for name, case in cases.items()})
    run_python(
        f"""
        import sys
        {imports}
        import numpy as np
        load = (tf.keras if "tf" in globals() else keras).models.load_model
        assert not [m for m in sys.modules if m.startswith("kacc.quantization")]
        import tests.core.models  # the custom classes, which are not kacc's
        x = np.load(r"{tmp_path}/x.npz")
        outputs = {{}}
        for name, path in {paths}.items():
            outputs[name] = np.asarray(load(path)(x[name], training=False))
        np.savez(r"{tmp_path}/out.npz", **outputs)
        """
    )
    got = np.load(tmp_path / "out.npz")
    for name, case in cases.items():
        np.testing.assert_array_equal(got[name], case.outputs[0], err_msg=name)


def test_the_old_format_is_refused_before_a_file_is_lost(trained, tmp_path):
    """It would save the model and not load it again."""
    path = tmp_path / "model.h5"
    path.write_bytes(b"precious")
    model = trained(models.sequential).model
    with pytest.raises(UsageError, match=r"in the \.keras format.*model\.h5.*strip"):
        model.save(path)
    assert path.read_bytes() == b"precious"
    kacc.strip(keras.models.load_model(trained(models.sequential).path)).save(path)
    assert not attach.is_attached(keras.models.load_model(path, compile=False))


def test_attached_models_save_the_settings_of_the_recipe(tmp_path):
    model = models.sequential()
    kacc.quantize(model, rules=[kacc.Rule("head", skip=True)])
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.models.load_model(path)
    assert quantize_of(loaded.get_layer("head")) is None
    assert quantize_of(loaded.get_layer("conv")) is not None
    settings = recipe.recipe_of(loaded)["quantization"]
    assert settings["rules"] == [{"pattern": "head", "skip": True}]


def test_a_transform_of_a_newer_kacc_is_an_error_of_one_line(trained):
    model = trained(models.sequential).model
    config = model.get_layer("conv").get_config()
    config["transforms"][0]["class_name"] = "Telepathy"
    with pytest.raises(KaccError, match=r"does not know.*'Telepathy'.*newer"):
        attach.from_config(config)
