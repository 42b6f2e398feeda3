"""README and `serve` give each client the setting that it is driven with here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.http.builds import CacheAddress
from tests.clients.http.every import CLIENTS
from tests.support.process import serve

pytestmark = pytest.mark.clients

README = Path(__file__).parents[3] / "README.md"


@pytest.mark.parametrize("tokens", [False, True])
def test_serve_prints_what_each_client_is_given(tmp_path: Path, tokens: bool) -> None:
    listener = {"address": "127.0.0.1:0", "protocol": "http", "push": True}
    if tokens:
        (tmp_path / "tokens").touch(mode=0o600)
        listener["auth"] = {"tokens": str(tmp_path / "tokens")}
    with serve(tmp_path / "data", {"listeners": [listener]}) as node:
        at = CacheAddress(node.address, "TOKEN" if tokens else None)
        for name, made in CLIENTS.items():
            assert f": {made(tmp_path / name).setting(at)}\n" in node.log, name


def test_the_readme_shows_what_each_client_is_given(tmp_path: Path) -> None:
    at, text = CacheAddress("127.0.0.1:8982"), README.read_text()
    for name, made in CLIENTS.items():
        assert f"`{made(tmp_path / name).setting(at)}`" in text, name
