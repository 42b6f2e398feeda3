"""A cache that refuses a client, or that is gone: the build goes on, and nothing is stored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from federation.access.rights import Role
from federation.access.tokens import RANDOM_BYTES, make_token
from federation.core.clock import SystemClock
from tests.clients.http.builds import CacheAddress, CacheClient, ClientBuild
from tests.clients.http.every import CLIENTS
from tests.support.process import Node, serve

pytestmark = [pytest.mark.clients, pytest.mark.timeout(400)]

# Clients that end the build themselves, whatever an HTTP server could answer, and what they say.
_STOP_UNAUTHENTICATED = {"nx": "Unauthorized"}
_STOP_WITHOUT_SERVER = {"nx": "Failed to send request", "sccache": "Connection refused"}
_STOPPED = {"nx": 1, "sccache": 2}  # exit codes


class Refusing(NamedTuple):
    """A node with a listener that wants a token, and one that takes no writes."""

    node: Node
    right: CacheAddress
    wrong: CacheAddress
    read_only: CacheAddress


@pytest.fixture
def refusing(tmp_path: Path) -> Iterator[Refusing]:
    made = make_token(Role.named("push"), bytes(RANDOM_BYTES), SystemClock().wall_s())
    other = make_token(Role.named("push"), b"\1" * RANDOM_BYTES, SystemClock().wall_s())
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{made.line}\n")
    http = {"address": "127.0.0.1:0", "protocol": "http"}
    listeners = [
        {**http, "push": True, "auth": {"tokens": str(tokens)}},
        {**http, "push": False},
    ]
    (tmp_path / "node").mkdir()
    with serve(tmp_path / "node" / "data", {"listeners": listeners}) as node:
        guarded, read_only = node.addresses
        yield Refusing(
            node,
            CacheAddress(guarded, made.text),
            CacheAddress(guarded, other.text),
            CacheAddress(read_only),
        )


@pytest.fixture(params=CLIENTS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(tmp_path: Path, name: str) -> CacheClient:
    return CLIENTS[name](tmp_path / "client")


def counted(build: ClientBuild) -> tuple[int, int]:
    return build.hits, build.executed


def test_a_wrong_token_costs_the_cache_and_not_the_build(
    refusing: Refusing, name: str, client: CacheClient
) -> None:
    stopped = _STOP_UNAUTHENTICATED.get(name)
    build = client.build(refusing.wrong, _STOPPED[name] if stopped else 0)
    assert counted(build) == (0, 0 if stopped else client.actions), build.output
    if stopped:
        assert stopped in build
    first = client.build(refusing.right)
    assert counted(first) == (0, client.actions), first.output  # nothing was stored before
    again = client.build(refusing.right)
    assert counted(again) == (client.actions, 0), again.output
    assert again.outputs == first.outputs


def test_a_listener_without_push_is_read_and_does_not_stop_a_build(
    refusing: Refusing, client: CacheClient
) -> None:
    build = client.build(refusing.read_only)
    assert counted(build) == (0, client.actions), build.output
    first = client.build(refusing.right)
    assert counted(first) == (0, client.actions), first.output  # nothing was stored before
    again = client.build(refusing.read_only)
    assert counted(again) == (client.actions, 0), again.output
    assert again.outputs == first.outputs


def test_a_node_that_is_gone_does_not_stop_a_build(
    refusing: Refusing, name: str, client: CacheClient
) -> None:
    refusing.node.kill()
    stopped = _STOP_WITHOUT_SERVER.get(name)
    build = client.build(refusing.read_only, _STOPPED[name] if stopped else 0)
    assert counted(build) == (0, 0 if stopped else client.actions), build.output
    if stopped:
        assert stopped in build
