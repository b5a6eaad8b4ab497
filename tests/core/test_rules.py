"""Rules: which layers they are for, and which of several wins."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kacc.core import rules
from kacc.core.errors import UsageError
from kacc.core.rules import Rule

PATHS = ["stem/conv", "stem/bn", "body/conv", "head"]


def test_patterns_are_for_the_whole_path():
    assert Rule("head").matches("head")
    assert not Rule("head").matches("head_2")
    assert not Rule("conv").matches("stem/conv")
    assert Rule(r".*/conv").matches("stem/conv")


def test_the_last_rule_that_matches_wins():
    first, second = Rule(r"stem/.*", skip=True), Rule(r".*/conv", skip=False)
    chosen = rules.resolve([first, second], PATHS)
    assert chosen == {"stem/conv": second, "stem/bn": first, "body/conv": second}
    assert rules.resolve([second, first], PATHS)["stem/conv"] is first


def test_a_rule_that_matches_nothing_is_an_error():
    with pytest.raises(UsageError) as error:
        rules.resolve([Rule("heads")], PATHS)
    assert str(error.value) == (
        "A rule must match a layer. Received: 'heads'. "
        "The paths are: stem/conv, stem/bn, body/conv, head."
    )


@pytest.mark.parametrize("pattern", ["(", "*", None, 3])
def test_patterns_that_are_none(pattern):
    with pytest.raises(UsageError, match="must be a regular expression"):
        Rule(pattern)


@given(
    st.lists(
        st.builds(Rule, st.sampled_from([*PATHS, r".*", r"stem/.*"]), st.booleans())
    )
)
def test_every_path_gets_the_last_of_its_rules(given_rules):
    chosen = rules.resolve(given_rules, PATHS)
    for path in PATHS:
        fitting = [rule for rule in given_rules if rule.matches(path)]
        assert chosen.get(path) == (fitting[-1] if fitting else None)
    assert rules.from_config(rules.to_config(given_rules)) == tuple(given_rules)


def test_operations_have_rules_by_any_of_their_paths():
    shared, other = SimpleNamespace(), SimpleNamespace()
    calls = [
        SimpleNamespace(operation=shared, path="a"),
        SimpleNamespace(operation=other, path="b"),
        SimpleNamespace(operation=shared, path="inner/a"),
    ]
    first, second = Rule(r"inner/.*", skip=True), Rule("b", clusters=4)
    chosen = rules.of_operations([first, second], calls)
    assert chosen == {id(shared): first, id(other): second}
    again = Rule("a", clusters=4)
    assert rules.of_operations([first, again], calls)[id(shared)] is again
    with pytest.raises(UsageError, match="must match a layer"):
        rules.of_operations([Rule("c")], calls)


@pytest.mark.parametrize("thing", ["head", ("head", True), None])
def test_what_is_no_rule(thing):
    with pytest.raises(UsageError, match=r"must be kacc\.Rule objects"):
        rules.checked([Rule("head"), thing])


@pytest.mark.parametrize("thing", [Rule("head"), None, 3])
def test_rules_are_several(thing):
    with pytest.raises(UsageError, match=r"must be kacc\.Rule objects"):
        rules.checked(thing)
