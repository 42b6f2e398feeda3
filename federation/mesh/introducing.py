"""Tells the members that this node invited about each other, until each has heard of all."""

from __future__ import annotations

import asyncio

import structlog

from federation.core.clock import Clock
from federation.core.tasks import sleep_unless
from federation.mesh.folder import KnownMember, MeshFolder
from federation.remote.credentials import SecretFiles
from federation.remote.failures import RemoteFailed
from federation.remote.methods import INTRODUCE
from federation.remote.one_call import call_once
from federation.remote.settings import RemoteSettings
from federation.wire.mesh import encode_introduction, parse_introduced

_log = structlog.get_logger(__name__)
_AGAIN_FIRST_S, _AGAIN_MAX_S = 2.0, 60.0
_AT_ONCE = 8


class Introducer:
    """Remembers in memory who was told what; after a start everybody is told once more."""

    def __init__(self, folder: MeshFolder, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock
        self._changed = asyncio.Event()
        self._told: dict[str, frozenset[str]] = {}  # by the member's certificate: whom it knows
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    def __repr__(self) -> str:
        return f"<Introducer {len(self._told)} told>"

    def look_again(self) -> None:
        """Report that members may have come or gone."""
        self._changed.set()

    async def run(self) -> None:
        """Tell whoever does not know all, at once after a change, until cancelled."""
        pause_s = _AGAIN_FIRST_S
        while True:
            # Before the folder is read: a change during the calls begins another round.
            self._changed.clear()
            if await self.tell_all():
                await self._changed.wait()
                pause_s = _AGAIN_FIRST_S
                continue
            await sleep_unless(self._changed, pause_s, self._clock)
            pause_s = min(pause_s * 2, _AGAIN_MAX_S)

    async def tell_all(self) -> bool:
        """Tell each invited member of those that it was not told of; return if none is left."""
        members = await asyncio.to_thread(self._folder.members)
        whole = [each for each in members if each.member.client_der]
        invited = [each for each in whole if each.config.via == "invited"]
        # Members that went are forgotten; one that comes back is told everything.
        self._told = {x.fingerprint: self._told.get(x.fingerprint, frozenset()) for x in invited}
        return all(await asyncio.gather(*(self._tell(each, whole) for each in invited)))

    async def _tell(self, member: KnownMember, members: list[KnownMember]) -> bool:
        others = [x for x in members if x.fingerprint != member.fingerprint]
        wanted = frozenset(each.fingerprint for each in others)
        if wanted <= self._told[member.fingerprint]:
            return True
        settings = RemoteSettings.of(member.config.peer, "")
        request = encode_introduction(each.member for each in others)
        try:
            async with self._at_once:
                # Read for each call: they are small, and rounds are rare.
                secrets = await SecretFiles(settings, self._clock).current()
                answer = await call_once(settings, secrets.certificates, INTRODUCE, request)
        except RemoteFailed as error:
            _log.info("introduction_failed", member=member.name, reason=error.reason)
            return False
        refused = parse_introduced(answer)
        # Not told again: a member that was removed there would be refused for ever.
        if refused:
            _log.warning("introductions_not_taken", member=member.name, reasons=refused)
        self._told[member.fingerprint] = wanted
        return True
