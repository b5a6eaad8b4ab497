import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kacc.core.errors import KaccError
from kacc.core.manifest import DICT, Manifest, TensorInfo

NAMES = st.lists(st.text(min_size=1), min_size=1, max_size=4, unique=True)


@settings(deadline=None, max_examples=40)
@given(NAMES, NAMES, st.dictionaries(st.text(), st.none() | st.integers() | st.text()))
def test_json_and_the_tensors_of_the_file_restore_a_manifest(inputs, outputs, options):
    into = {name: TensorInfo(name, (None, 3), "int8", 0.5, -3) for name in inputs}
    out = {name: TensorInfo(name, (None, 2), "float32") for name in outputs}
    manifest = Manifest(
        "tflite-int8",
        tuple(into.values()),
        tuple(out.values()),
        output_structure=DICT,
        scheme="int8",
        options=options,
        versions={"kacc": "1"},
    )
    # The file lists its tensors in an order of its own.
    shuffled = dict(reversed(into.items())), dict(reversed(out.items()))
    assert Manifest.from_json(manifest.to_json(), *shuffled) == manifest


def test_facts_that_the_file_has_are_not_written_twice():
    image = TensorInfo("image", (None, 3), "int8", 0.5, -3)
    record = json.loads(Manifest("t", (image,), (image,)).of_file("ab", 12).to_json())
    assert record["inputs"] == ["image"]
    assert not {"sha256", "size_bytes"} & set(record)


@pytest.mark.parametrize("text", ["{", "[]", '{"inputs": ["other"], "outputs": []}'])
def test_a_manifest_of_another_file_is_an_error(text):
    with pytest.raises(KaccError, match="must fit the file"):
        Manifest.from_json(text, {}, {})


def test_manifests_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Manifest("t", (), ()).target = "other"
