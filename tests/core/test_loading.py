"""`import kacc` costs next to nothing, and puts kacc's names where Keras finds them."""

import sys

import pytest

from kacc import _loading
from tests.core.processes import run_python


def test_import_is_quick_and_imports_no_framework():
    run_python(
        """
        import sys, time
        start = time.process_time()
        import kacc
        took = time.process_time() - start
        heavy = {"tensorflow", "keras", "numpy", "matplotlib"} & set(sys.modules)
        assert not heavy, heavy
        assert took < 0.1, took
        assert "quantize" in dir(kacc) and not heavy & set(sys.modules)
        """
    )


def test_the_hook_leaves_other_modules_alone():
    finder = _loading._Finder()
    assert finder.find_spec("json") is None
    assert finder.find_spec("keras.src.saving") is None


def test_keras_has_its_registry_where_it_was():
    spec = _loading._Finder().find_spec(
        _loading.REGISTRY_MODULE, __import__("keras.src.saving").src.saving.__path__
    )
    assert isinstance(spec.loader, _loading._Loader)


def test_a_module_that_is_gone_is_no_error_of_ours():
    assert _loading._Finder().find_spec(_loading.REGISTRY_MODULE, ["/nowhere"]) is None


def test_registering_twice_adds_one_hook(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [])
    monkeypatch.delitem(sys.modules, _loading.REGISTRY_MODULE)
    _loading.register_loaders()
    _loading.register_loaders()
    assert [type(finder) for finder in sys.meta_path] == [_loading._Finder]


def test_public_names_are_there_and_unknown_ones_are_not():
    import kacc

    for name in kacc.__all__:
        assert getattr(kacc, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        kacc.quantise  # noqa: B018
