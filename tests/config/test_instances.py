"""Which instances read from which, as the rules say; rules that go in a circle are refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from federation.config.instances import sources_of
from federation.config.model import Config

TWO_TIERS = [{"match": "pr/*", "reads-from": ["main"]}]
CHAIN = [
    {"match": "pr/*", "reads-from": ["next", "main"]},
    {"match": "next", "reads-from": ["main", "old"]},
    {"match": "*", "reads-from": ["main"]},
]


def rules(*found: dict[str, Any]) -> Config:
    return Config.model_validate({"instances": list(found)})


@pytest.mark.parametrize(
    ("found", "instance", "sources"),
    [
        (TWO_TIERS, "pr/7", ("main",)),
        (TWO_TIERS, "main", ()),
        (TWO_TIERS, "", ()),
        (CHAIN, "pr/7", ("next", "main", "old")),
        (CHAIN, "next", ("main", "old")),
        (CHAIN, "main", ()),
        (CHAIN, "", ("main",)),
        ([{"match": "", "reads-from": ["main"]}], "", ("main",)),
        ([{"match": "pr", "reads-from": [""]}], "pr", ("",)),
        ([{"match": "pr/7"}, *TWO_TIERS], "pr/7", ()),
    ],
)
def test_the_first_rule_decides_and_what_it_names_is_followed(
    found: list[dict[str, Any]], instance: str, sources: tuple[str, ...]
) -> None:
    assert sources_of(rules(*found).instances, instance) == sources


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ([{"match": "a", "reads-from": ["b"]}, {"match": "b", "reads-from": ["a"]}], "circle"),
        ([{"match": "*", "reads-from": ["main", "next"]}], "rule for 'main' without"),
        ([{"match": "a*", "reads-from": ["b"]}, {"match": "b", "reads-from": ["a1"]}], "circle"),
        (
            [{"match": f"{at}", "reads-from": [f"{at + 1}"]} for at in range(9)],
            "'0' reads from more than 8",
        ),
        ([{"match": "a", "reads-from": [str(at) for at in range(9)]}], "at most 8"),
        ([{"match": "kv/pr", "reads-from": ["kv/main"]}], "match: pr, reads-from: \\[main\\]"),
    ],
)
def test_circles_long_chains_and_namespaces_are_refused(
    found: list[dict[str, Any]], says: str
) -> None:
    with pytest.raises(ValidationError, match=says):
        rules(*found)


def test_an_instance_that_its_own_pattern_names_does_not_read_from_itself() -> None:
    found = rules({"match": "*", "reads-from": ["main"]}).instances
    assert sources_of(found, "main") == ()
    assert sources_of(found, "pr") == ("main",)
