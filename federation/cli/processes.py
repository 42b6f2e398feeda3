"""Asks the processes that serve a data directory about themselves, over HTTP.

A process that does not answer in time is reported as such; no command fails because of it.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp

from federation.core.clock import SystemClock
from federation.storage.contract import Operations

BECAUSE = "offline-because"
_ANSWER_S = 1.0
_FOLLOW_S = 2.0
_BYTES_MAX = 2**20
_ACCEPT = {"Accept": "application/json"}


def facts_of_processes(operations: Operations) -> list[dict[str, Any]]:
    """Return for each process what it has announced, updated by what it answers now.

    One that does not answer has the reason under "not-known". Raises StorageRefused.
    """
    announced = [_with_dashes(each) for each in operations.processes()]
    return asyncio.run(_ask_all(announced)) if announced else []


def _with_dashes(announced: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of a process with the one spelling that keys have in output."""
    return {key.replace("_", "-"): value for key, value in announced.items()}


def wait_for_switch(operations: Operations, *, on: bool) -> None:
    """Wait until every process that can say so has followed the switch, at most _FOLLOW_S."""
    asyncio.run(_followed(operations.processes(), on=on))


async def _followed(announced: list[dict[str, Any]], *, on: bool) -> None:
    clock = SystemClock()
    until_s = clock.monotonic_s() + _FOLLOW_S
    while clock.monotonic_s() < until_s:
        known = [each.get(BECAUSE) for each in await _ask_all(announced)]
        if all(("switch" in because) is on for because in known if because is not None):
            return
        await clock.sleep(_FOLLOW_S / 20)


async def _ask_all(announced: list[dict[str, Any]]) -> list[dict[str, Any]]:
    timeout = aiohttp.ClientTimeout(total=_ANSWER_S)
    async with aiohttp.ClientSession(timeout=timeout, headers=_ACCEPT) as session:
        return list(await asyncio.gather(*(_ask(session, each) for each in announced)))


async def _ask(session: aiohttp.ClientSession, announced: dict[str, Any]) -> dict[str, Any]:
    address = announced.get("http")
    if not address:
        return {**announced, "not-known": "it has no HTTP listener"}
    try:
        async with session.get(f"http://{address}/") as answer:
            facts = json.loads(await _body(answer))
    except TimeoutError:
        return {**announced, "not-known": f"no answer within {_ANSWER_S:g} s"}
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return {**announced, "not-known": str(error) or type(error).__name__}
    if not isinstance(facts, dict):
        return {**announced, "not-known": "its answer is not from a node"}
    facts.pop("links", None)
    listeners = {"listeners": announced["listeners"]} if "listeners" in announced else {}
    return {**announced, **facts, **listeners}


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    """Read the whole answer. Raises ValueError if it is larger than any node's."""
    body = bytearray()
    async for part in answer.content.iter_any():
        body += part
        if len(body) > _BYTES_MAX:
            raise ValueError(f"its answer has more than {_BYTES_MAX} bytes")
    return bytes(body)
