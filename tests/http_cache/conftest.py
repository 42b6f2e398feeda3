"""A server in this process for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.http_cache.server import HttpNode, serve_http

MakeHttpNode = Callable[..., Awaitable[HttpNode]]


@pytest.fixture
async def make_node() -> AsyncIterator[MakeHttpNode]:
    """Serve: await make_node(limits=, rights=, namespaces=, ...), as serve_http takes them."""
    running: list[HttpNode] = []

    async def make(**settings: object) -> HttpNode:
        running.append(await serve_http(**settings))  # type: ignore[arg-type]
        return running[-1]

    yield make
    for each in running:
        await each.close()


@pytest.fixture
async def http(make_node: MakeHttpNode) -> HttpNode:
    return await make_node()
