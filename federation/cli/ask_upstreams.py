"""Asks upstreams and peers about one object, from the command itself rather than from a node."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from federation.config.peers import PeerConfig
from federation.config.upstreams import UpstreamConfig as Settings
from federation.core import hops
from federation.core.clock import SystemClock
from federation.core.digest import Digest, DigestFunction
from federation.core.errors import FederationError, SourceUnavailable
from federation.core.index import Entry, EntryKind
from federation.observability.metrics import Metrics
from federation.remote.client import Remote
from federation.remote.index import RemoteIndex
from federation.remote.settings import RemoteSettings
from federation.remote.store import RemoteStore
from federation.wire.asset_request import content_of, pushed_of

_CALL_S = 3.0
_ALL_S = 5.0  # with connecting

PRESENT, ABSENT, SILENT, NOT_ASKED = "present", "absent", "silent", "not asked"


@dataclass(frozen=True, slots=True)
class UpstreamAnswer:
    """One upstream and the clients for it."""

    settings: Settings
    store: RemoteStore
    index: RemoteIndex


Question = Callable[[UpstreamAnswer], Awaitable[dict[str, Any]]]


def ask(upstreams: Sequence[Settings], node_id: str, question: Question) -> list[dict[str, Any]]:
    """Ask all upstreams at once; return a mapping for each, in their order.

    The answer of one that does not reply within a few seconds is SILENT, with the reason. Never
    raises.
    """
    return asyncio.run(_ask_all(upstreams, node_id, question))


def ask_peers(
    peers: Sequence[PeerConfig], instance: str, node_id: str, question: Question
) -> list[dict[str, Any]]:
    """Ask all peers in the same way. The request is marked as replication, so a node answers for
    what it stores itself.

    instance: the instance name here; a peer's own name for it is used where it has one.
    """
    alike = [
        Settings(
            name=peer.name,
            url=peer.url,
            instance_name=(peer.names_there or {}).get(instance, instance),
            auth=peer.auth,
            connection_config=peer.connection_config,
        )
        for peer in peers
    ]
    # Without the mark a node would answer for its own upstreams, too.
    with hops.serving(hops.Hops(replicates=True)):
        return ask(alike, node_id, question)


async def _ask_all(
    upstreams: Sequence[Settings], node_id: str, question: Question
) -> list[dict[str, Any]]:
    return list(await asyncio.gather(*(_ask(each, node_id, question) for each in upstreams)))


async def _ask(settings: Settings, node_id: str, question: Question) -> dict[str, Any]:
    answer: dict[str, Any]
    try:
        async with asyncio.timeout(_ALL_S):
            answer = await _put(settings, node_id, question)
    except TimeoutError:
        answer = {"answer": SILENT, "reason": f"no answer within {_ALL_S:g} s"}
    except SourceUnavailable as error:
        answer = {"answer": SILENT, "reason": error.reason}
    except FederationError as error:
        answer = {"answer": SILENT, "reason": str(error)}
    return {"name": settings.name, **answer}


async def _put(settings: Settings, node_id: str, question: Question) -> dict[str, Any]:
    impatient = replace(
        RemoteSettings.of(settings, settings.instance_name),
        # Somebody waits at a terminal; and a slow answer says what this command is run to find out.
        request_timeout_s=_CALL_S,
        stall_s=_CALL_S,
        retry_limit=0,
    )
    jitter = random.Random()  # noqa: S311 - it spreads retries, it guards nothing
    remote = Remote(impatient, Metrics(), SystemClock(), jitter, node_id=node_id)
    try:
        return await question(UpstreamAnswer(settings, RemoteStore(remote), RemoteIndex(remote)))
    finally:
        await remote.close()


def about_blob(digest: Digest) -> Question:
    """Return a question whether an upstream has a blob."""

    async def question(asked: UpstreamAnswer) -> dict[str, Any]:
        if asked.settings.type == "index":
            return _not_asked("it is not asked for blobs (type: index)")
        return _said(not await asked.store.find_missing([digest]))

    return question


def about_action(
    action: Digest, here: Sequence[Entry], missing: Sequence[Digest], below: str = ""
) -> Question:
    """Return a question for an action's result, and for the blobs of it that are missing here.

    below: the instance below the one that is asked otherwise: that of a keyed entry's namespace.
    """

    async def question(asked: UpstreamAnswer) -> dict[str, Any]:
        # Only what the node itself would ask for explains what it does.
        if asked.settings.type == "storage":
            return _not_asked("it is not asked for action results (type: storage)")
        if not asked.settings.trust_action_results:
            return _not_asked("it is not asked for action results (trust-action-results: false)")
        value = await asked.index.get_action_result(action, asked.index.instance_below(below))
        same = any(value == entry.value for entry in here)
        facts = {"same-as-here": same} if value is not None and here else {}
        return {**_said(value is not None), **facts, **await _of_missing(asked, missing)}

    return question


def about_asset(
    uri: str, qualifiers: Mapping[str, str], here: Sequence[Entry], missing: Sequence[Digest]
) -> Question:
    """Return a question for the blob and the directory of a URI, and for what is missing here."""
    functions = {content_of(pushed_of(entry)).function for entry in here}
    # A server looks an asset up for one function, that of what is here.
    function = functions.pop() if len(functions) == 1 else DigestFunction.SHA256

    async def question(asked: UpstreamAnswer) -> dict[str, Any]:
        if asked.settings.type == "storage":
            return _not_asked("it is not asked for assets (type: storage)")
        facts: dict[str, Any] = {}
        for kind, fetch in (
            (EntryKind.ASSET_BLOB, asked.index.fetch_blob),
            (EntryKind.ASSET_DIRECTORY, asked.index.fetch_directory),
        ):
            if (found := await fetch([uri], qualifiers, function)) is not None:
                contents = {content_of(pushed_of(e)) for e in here if e.key.kind is kind}
                facts[kind.name.lower().replace("_", "-")] = str(found.digest)
                if contents:
                    facts["same-as-here"] = found.digest in contents
        return {**_said(bool(facts)), **facts, **await _of_missing(asked, missing)}

    return question


async def _of_missing(asked: UpstreamAnswer, missing: Sequence[Digest]) -> dict[str, Any]:
    if not missing or asked.settings.type == "index":
        return {}
    absent = await asked.store.find_missing(missing)
    return {"has-of-the-missing": f"{len(missing) - len(absent)} of {len(missing)}"}


def _said(present: bool) -> dict[str, Any]:
    return {"answer": PRESENT if present else ABSENT}


def _not_asked(reason: str) -> dict[str, Any]:
    return {"answer": NOT_ASKED, "reason": reason}
