"""Credential helpers as real programs: what they get and give, and how one that hangs is ended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from federation.remote import helper_process
from federation.remote.helper_answer import HelperFailed
from federation.remote.helper_process import run_helper
from tests.remote.fake_server import FakeServer
from tests.remote.served import connected
from tests.remote.test_tls import answers, secure, tls
from tests.support.certificates import self_signed

URI = "https://cache.example.com"


def program(folder: Path, script: str) -> Path:
    path = folder / "helper"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


async def test_a_helper_gets_the_uri_and_its_headers_go_with_every_call(tmp_path: Path) -> None:
    files = self_signed(tmp_path)
    helper = program(
        tmp_path,
        f'cat >> {tmp_path}/asked; echo "$1" >> {tmp_path}/asked\n'
        'echo \'{"headers": {"Authorization": ["Bearer secret"], "x-team": ["a"]}}\'',
    )
    token = tmp_path / "token"
    token.write_text("other")
    async with FakeServer(tls(files)) as fake:
        options: dict[str, Any] = {
            "url": secure(fake.address),
            "server_cert": files.certificate,
            "credential_helper": helper,
            "access_token": token,
        }
        async with connected(fake.address, **options) as here:
            for _ in range(3):
                await answers(here)
            assert "secret" not in f"{here.remote.describe()} {here.remote!r}"
        sent = [(asked.metadata["authorization"], asked.metadata["x-team"]) for asked in fake.asked]
    assert sent == [("Bearer secret", "a")] * len(fake.asked)
    assert len(sent) >= 3
    asked = (tmp_path / "asked").read_text()
    assert asked == json.dumps({"uri": f"https://{fake.address}"}) + "get\n"


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("exit 3", "status 3"),
        ("exec sleep 1000", "not ended within 0.2 s"),
        ("sleep 1000 &", "not ended within 0.2 s"),
        ("exec 1>&-; exec sleep 1000", "not ended within 0.2 s"),
        ("head -c 100000 /dev/zero", "more than 65536 bytes"),
        ("echo secret >&2; echo secret", "no JSON"),
    ],
)
async def test_a_helper_that_fails_or_hangs_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, says: str
) -> None:
    if "sleep" in script:
        monkeypatch.setattr(helper_process, "RUN_S", 0.2)
    async with asyncio.timeout(60):
        with pytest.raises(HelperFailed, match=says) as failed:
            await run_helper(program(tmp_path, script), URI)
    assert "secret" not in str(failed.value)


def not_there(path: Path) -> None:
    path.unlink()


def not_executable(path: Path) -> None:
    path.chmod(0o644)


@pytest.mark.parametrize("spoil", [not_there, not_executable])
async def test_a_helper_that_cannot_be_run_is_an_error(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    helper = program(tmp_path, "echo {}")
    spoil(helper)
    with pytest.raises(HelperFailed, match="cannot be run"):
        await run_helper(helper, URI)


async def test_a_helper_need_not_read_its_input(tmp_path: Path) -> None:
    found = await run_helper(program(tmp_path, "exec <&-; echo {}"), "https://" + "a" * 200_000)
    assert found == ([], None)
