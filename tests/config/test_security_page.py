"""What the page about security shows of the configuration is taken as it stands."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from federation.config.model import Config

PAGE = (Path(__file__).parents[2] / "docs/security.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
TLS = {"server-cert": "c", "server-key": "k"}


def whole(block: str) -> dict[str, Any]:
    """Put around a part of a file what would stand there."""
    part: dict[str, Any] | list[Any] = yaml.safe_load(block)
    if isinstance(part, list):
        return {"listeners": part}
    if "listeners" in part:
        return part
    if "jwt" in part:
        part = {"tls": TLS, "auth": part}
    return {"listeners": [{"address": "0.0.0.0:1", "push": True, **part}]}


def test_there_are_some() -> None:
    assert len(BLOCKS) >= 4


@pytest.mark.parametrize("block", BLOCKS)
def test_it_is_a_good_configuration(block: str) -> None:
    Config.model_validate(whole(block), by_alias=True, by_name=False)
