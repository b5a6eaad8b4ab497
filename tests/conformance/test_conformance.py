"""What every row of the registry must do, in one suite: a new row is picked up.

Attach, train a step, save and load, convert to integers only, and be equal to the file:
`predict` of the quantized model gives the file's outputs to the bit.
"""

import keras
import numpy as np
import pytest

import kacc
from kacc.converters.convert import convert
from kacc.core import attach, registry
from kacc.core.registry import Output
from kacc.quantization import unseen_ranges
from tests.conformance.rows import rows

ROWS = rows()


class Case:
    """A row's model, quantized and trained for a step, and its file."""

    def __init__(self, row, folder):
        self.row, self.folder = row, folder
        self.model = row.model()
        self.model.compile("sgd", "mse", run_eagerly=True)  # a trace takes longer
        self.plain_weights = [v.numpy() for v in self.model.trainable_variables]
        x = row.data(64, seed=1)
        kacc.quantize(self.model)
        shapes = self.model.compute_output_shape([(64, *a.shape[1:]) for a in x])
        y = {
            name: np.zeros([64 if n is None else n for n in shape], "float32")
            for name, shape in shapes.items()
        }
        self.model.fit(x, y, batch_size=64, verbose=0)
        # Beyond the ranges too, where everything clips.
        self.x = row.data(192, seed=2, spread=1.5)
        self.outputs = self.model.predict(self.x, batch_size=64, verbose=0)
        self._artifact = None

    @property
    def artifact(self):
        if self._artifact is None:
            path = self.folder / "model.tflite"
            self._artifact = convert(self.model, path, "tflite-int8")
        return self._artifact


@pytest.fixture(scope="module", params=ROWS, ids=lambda row: row.name)
def case(request, tmp_path_factory):
    return Case(request.param, tmp_path_factory.mktemp("row"))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_has_an_example(row):
    assert row.examples


def test_it_is_attached(case):
    kind = case.row.spec.type
    present = [o for o in case.model.operations if isinstance(o, kind)]
    assert len(present) >= len(case.row.examples)
    # Nothing is left in the file of dropout, or of an activation that is none.
    left = [o for o in present if registry.find(o).output is not Output.IDENTITY]
    found = [o for o in attach.attached(case.model) if isinstance(o, kind)]
    assert set(map(id, found)) == set(map(id, left))


def test_a_step_trains_its_weights_and_sees_its_ranges(case):
    assert unseen_ranges(case.model) == []
    pairs = zip(case.plain_weights, case.model.trainable_variables, strict=True)
    assert all(not np.array_equal(before, now) for before, now in pairs)


@pytest.mark.sampled(3)
def test_a_loaded_model_computes_the_same(case):
    path = case.folder / "model.keras"
    case.model.save(path)
    loaded = keras.models.load_model(path)
    got = loaded(case.x, training=False)
    for name, want in case.outputs.items():
        np.testing.assert_array_equal(got[name], want, err_msg=name)


def test_its_file_is_integer_throughout(case):
    runtime = case.artifact.runtime()
    floats = [
        tensor["name"]
        for tensor in runtime._interpreter.get_tensor_details()
        if np.issubdtype(tensor["dtype"], np.floating)
    ]
    assert floats == []
    assert [i.dtype for i in case.artifact.manifest.outputs] == ["int8"] * len(
        case.outputs
    )


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kernels", ["xnnpack", "builtin", "reference"])
def test_predict_equals_the_file(case, kernels):
    values = case.outputs
    if kernels != "xnnpack":
        values = kacc.simulate(case.model, kernels)(case.x)
    got = case.artifact.predict(case.x, kernels=kernels)
    for info in case.artifact.manifest.outputs:
        want, file = np.asarray(values[info.name]), got[info.name]
        steps = np.rint(np.abs(want - file) / info.scale)
        share = float((want == file).mean())
        message = f"output {info.name}: {share:.4f} equal, up to {steps.max()} steps"
        assert share == 1.0, message
        assert len(np.unique(file)) > 20, "the outputs must say something"
