"""Rules: exceptions by layer path to what a technique does."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kacc.core.errors import UsageError


@dataclass(frozen=True)
class Rule:
    """What to do with the layers whose whole path matches a pattern.

    A path is the layer's name with those of the nested models around it, as in
    "backbone/stem/conv". The last rule that matches a layer wins.

    Args:
        pattern: regular expression for the whole path.
        skip: whether the layers stay as they are.
        bits: of the layers' weights, 4 or 8, or None for what the scheme says.
        sparsity: for pruning, the share of their weights to remove.
        clusters: for clustering, how many values their weights share.

    Raises:
        UsageError: if the pattern is not a regular expression, `bits` another width,
            `sparsity` not from 0 to less than 1, or `clusters` not at least 2.

    Example:
        >>> import kacc
        >>> kacc.Rule(r"stem/.*", skip=True).matches("stem/conv")
        True
    """

    pattern: str
    skip: bool = False
    bits: int | None = None
    sparsity: float | None = None
    clusters: int | None = None

    def __post_init__(self) -> None:
        if self.bits not in (None, 4, 8):
            raise UsageError("The `bits` of a rule must be 4 or 8", received=self.bits)
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            raise UsageError(
                "The sparsity of a rule must be from 0 to less than 1",
                received=self.sparsity,
                fix="0.75 removes three of four weights",
            )
        if self.clusters is not None:
            clusters_checked(self.clusters)
        try:
            re.compile(self.pattern)
        except (re.error, TypeError) as error:
            raise UsageError(
                f"The pattern of a rule must be a regular expression ({error})",
                received=self.pattern,
                fix=r'Write it like r"stem/.*"',
            ) from None

    def matches(self, path: str) -> bool:
        """Whether the rule is for the layer at `path`."""
        return re.fullmatch(self.pattern, path) is not None


def clusters_checked(clusters: Any) -> int:
    """The number of clusters itself.

    Raises:
        UsageError: if it is not a whole number from 2 to 256.
    """
    is_int = isinstance(clusters, int) and not isinstance(clusters, bool)
    if not is_int or not 2 <= clusters <= 256:
        raise UsageError(
            "Weights can share 2 to 256 values: more are no fewer than 8 bit integers",
            received=clusters,
            fix="Pass a whole number such as 16",
        )
    return int(clusters)


def checked(rules: Sequence[Any]) -> Sequence[Rule]:
    """The rules themselves.

    Raises:
        UsageError: if one is not a `Rule`.
    """
    several = isinstance(rules, Iterable)
    for rule in rules if several else (rules,):
        if not several or not isinstance(rule, Rule):
            raise UsageError(
                "`rules` must be kacc.Rule objects",
                received=rule,
                fix='Pass a list like [kacc.Rule(r"stem/.*", skip=True)]',
            )
    return rules


def resolve(rules: Sequence[Rule], paths: Iterable[str]) -> dict[str, Rule]:
    """The rule for each path that has one.

    Args:
        rules: in the order given by the user.
        paths: of all layers and operators.

    Returns:
        path -> the last rule that matches it.

    Raises:
        UsageError: for a rule that matches nothing.
    """
    paths = list(paths)
    for rule in rules:
        if not any(rule.matches(path) for path in paths):
            raise UsageError(
                "A rule must match a layer",
                received=rule.pattern,
                fix=f"The paths are: {', '.join(paths[:20])}",
            )
    return {path: r for path in paths for r in rules if r.matches(path)}


def of_operations(rules: Sequence[Rule], calls: Iterable[Any]) -> dict[int, Rule]:
    """The rule for each operation that has one, at any of the paths it is called by.

    Args:
        rules: in the order given by the user.
        calls: of a graph.

    Returns:
        Id of the operation -> the last rule that matches one of its paths.

    Raises:
        UsageError: for a rule that matches nothing.
    """
    calls = list(calls)
    resolve(rules, dict.fromkeys(call.path for call in calls))
    return {
        id(call.operation): rule
        for rule in rules
        for call in calls
        if rule.matches(call.path)
    }


def to_config(rules: Sequence[Rule]) -> list[dict[str, Any]]:
    """The rules as JSON values; what a rule leaves open is left out."""
    return [
        {name: value for name, value in asdict(rule).items() if value is not None}
        for rule in rules
    ]


def from_config(config: Iterable[dict[str, Any]]) -> tuple[Rule, ...]:
    """The rules that `to_config` wrote."""
    return tuple(Rule(**entry) for entry in config)
