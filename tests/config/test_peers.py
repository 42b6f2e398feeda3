"""Instances stay apart at a peer, whatever they are called there."""

from __future__ import annotations

from typing import Any

import pytest

from federation.config.peers import PeerConfig


def peer(**keys: Any) -> PeerConfig:
    named = {key.replace("_", "-"): value for key, value in keys.items()}
    return PeerConfig.model_validate({"name": "there", "url": "http://there:1", **named})


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        ({}, None),
        ({"instances": {"": "main"}}, {"": "main"}),
        ({"instances": {"": "main", "main": ""}}, {"": "main", "main": ""}),
        ({"instance_name": "main", "rules": [{"instances": [""]}]}, {"": "main"}),
        (
            {"instance_name": "", "rules": [{"match": "a", "instances": ["x"]}, {"when": "never"}]},
            {"x": ""},
        ),
    ],
)
def test_what_is_sent_is_called_as_is_said(
    keys: dict[str, Any], names: dict[str, str] | None
) -> None:
    assert peer(**keys).names_there == names


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"rules": []},
        {"rules": [{"instances": ["pr/*"]}]},
        {"rules": [{"instances": ["a", "b"]}]},
        {"rules": [{"instances": ["a"]}, {"instances": ["b"]}]},
        {"rules": [{"instances": ["a"]}, {}]},
        {"rules": [{"when": "never"}]},
    ],
)
def test_one_name_for_several_instances_is_refused_with_the_fix(keys: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r'instances: \{"": "main"\}'):
        peer(instance_name="main", **keys)


def test_two_instances_under_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="several have the name 'main'"):
        peer(instances={"": "main", "pr": "main"})
    with pytest.raises(ValueError, match="exclude each other"):
        peer(instances={"": "main"}, instance_name="main")
