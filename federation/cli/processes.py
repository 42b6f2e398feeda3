"""Asks the processes that serve a data directory about themselves, over their Unix sockets.

A process that does not answer in time is reported as such; no command fails because of it.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from federation.core.clock import SystemClock
from federation.server.http.asking import CannotAsk, ask
from federation.storage.contract import Operations

BECAUSE = "offline-because"
_ANSWER_S = 1.0
_FOLLOW_S = 2.0


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
        # A process that does not answer is not waited for: the switch is in the catalogue either
        # way.
        if all(("switch" in because) is on for because in known if because is not None):
            return
        await clock.sleep(_FOLLOW_S / 20)


async def _ask_all(announced: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return list(await asyncio.gather(*map(_ask, announced)))


async def _ask(announced: dict[str, Any]) -> dict[str, Any]:
    if path := announced.get("http-socket"):
        place: Path | str = Path(path)
    elif address := announced.get("http"):  # of an older program
        place = address
    else:
        return {**announced, "not-known": "it has not said yet where it can be asked"}
    try:
        _, text = await ask(place, "/", _ANSWER_S)
        facts = json.loads(text)
    except (CannotAsk, ValueError) as error:
        return {**announced, "not-known": str(error)}
    if not isinstance(facts, dict):
        return {**announced, "not-known": "its answer is not from a node"}
    facts.pop("links", None)
    # Addresses, as they were announced; the page has a table about each.
    listeners = {"listeners": announced["listeners"]} if "listeners" in announced else {}
    return {**announced, **facts, **listeners}
