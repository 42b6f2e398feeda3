"""Which node does the work of a role for all: taking over from a silent one, and being overtaken.

A lead raises its beat each second. All nodes see it in what they poll of the site anyway, and
another one takes over when the beat has not changed for SILENT_S of its own clock; the new term
makes the old lead's writes fail, so one that was stopped and wakes does no harm. Locks of the
database would not do: a stopped process keeps them, and they do not survive a failover.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from federation.core.clock import Clock
from federation.core.errors import FederationError, LeadLost, SourceUnavailable
from federation.core.tasks import Background, FailingWork
from federation.storage.shared.catalogue.connections import DatabaseConnections
from federation.storage.shared.catalogue.rows import Lead, LeadRow, SiteRole
from federation.storage.shared.catalogue.site_watch import Polled, SiteWatch

SILENT_S = 5.0
_BEAT_S = 1.0
_LOOK_S = 0.5  # how often it is looked whether a beat is due
_STEP_MAX_MS = int(SILENT_S * 1000)  # a lead that was silent for longer may have been overtaken

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class LeadCandidate:
    """Decides when to take over a role. No I/O, no clock."""

    term: int = -1
    beat: int = -1
    since_s: float = 0.0  # when (term, beat) was first seen

    def is_due(self, row: LeadRow, asked_s: float, heard_s: float) -> bool:
        """Return whether to take over from what the row says.

        It was asked for and heard at these times: a slow answer is no silence of the lead.
        """
        if row.node is None:
            return True
        if (row.term, row.beat) != (self.term, self.beat):
            self.term, self.beat, self.since_s = row.term, row.beat, heard_s
        return asked_s - self.since_s >= SILENT_S

    def forget(self) -> None:
        """Begin again: nobody could be heard, so silence says nothing."""
        self.term = self.beat = -1


@dataclass(slots=True)
class _Leading:
    """A role that this node leads."""

    lead: Lead
    beaten_s: float  # when the last beat that reached the database began
    told_s: float  # up to when the site's clock was advanced


class SiteLeads:
    """The roles that this node wants to have, or has. Used from the event loop."""

    def __init__(
        self, connections: DatabaseConnections, watch: SiteWatch, clock: Clock, process_id: str
    ) -> None:
        """process_id: tells this process from the others of the site, for people."""
        self._connections = connections
        self._watch = watch
        self._clock = clock
        self._process_id = process_id
        self._wanted: dict[SiteRole, LeadCandidate] = {}
        self._leading: dict[SiteRole, _Leading] = {}
        self._due: dict[SiteRole, int] = {}  # roles to take over, and the terms that were seen
        self._wake = asyncio.Event()
        self._background = Background()
        self._resigning = Background()

    def __repr__(self) -> str:
        terms = {role.value: each.lead.term for role, each in self._leading.items()}
        return f"<SiteLeads leads {terms}, wants {[role.value for role in self._wanted]}>"

    def start(self, failing: FailingWork) -> None:
        """Begin to stand for the roles that are asked for; close() ends it."""
        self._watch.follow(self._polled)
        self._background.keep(self._run, "leads", self._clock, failing)

    def lead(self, role: SiteRole) -> Lead | None:
        """Return the proof that this node leads, None while it does not. Never waits.

        The first call makes this node stand for the role.
        """
        if role not in self._wanted:
            self._wanted[role] = LeadCandidate()
            self._watch.hasten()
        leading = self._leading.get(role)
        if leading is None or self._clock.monotonic_s() - leading.beaten_s >= SILENT_S:
            return None  # another node may have taken over
        return leading.lead

    def resign(self, role: SiteRole) -> None:
        """Leave a role, so that another node can take it at once. Never waits."""
        self._wanted.pop(role, None)
        leading = self._leading.pop(role, None)
        if leading is not None:
            self._resigning.start(self._resign(leading.lead), f"resign {role}")

    async def close(self) -> None:
        """Leave all roles."""
        leading, self._leading = list(self._leading.values()), {}
        self._wanted.clear()
        await self._background.close()
        await self._resigning.drain()
        for each in leading:
            await self._resign(each.lead)

    async def _resign(self, lead: Lead) -> None:
        try:
            await self._connections.ask(
                "SELECT federation_resign($1, $2)", lead.role.value, lead.term
            )
        except FederationError as error:  # then it is overtaken as a silent one
            _log.info("lead_not_resigned", role=lead.role.value, reason=str(error))

    def _polled(self, polled: Polled | None) -> None:
        """Decide which roles to take over; None: the database did not answer."""
        if polled is None:
            for candidate in self._wanted.values():
                candidate.forget()
            return
        wanted = {role.value: role for role in self._wanted if role not in self._leading}
        for row in polled.row.leads:
            role = wanted.get(row.role)
            if role and self._wanted[role].is_due(row, polled.asked_s, polled.heard_s):
                self._due[role] = row.term
                self._wake.set()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            await self._look()
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _look(self) -> None:
        for role, leading in list(self._leading.items()):
            if self._clock.monotonic_s() - leading.beaten_s >= _BEAT_S:
                await self._beat(role, leading)
        due, self._due = self._due, {}
        for role, term in due.items():
            try:
                await self._take(role, term)
            except SourceUnavailable:  # the watch of the site says so, and sees it again
                continue

    async def _beat(self, role: SiteRole, leading: _Leading) -> None:
        now_s = self._clock.monotonic_s()
        step_ms = min(_STEP_MAX_MS, int((now_s - leading.told_s) * 1000))
        advance_ms = step_ms if role is SiteRole.UPKEEP else 0
        leading.told_s = now_s  # also if the beat fails: a clock that is slow does no harm
        call = ("SELECT federation_beat($1, $2, $3)", role.value, leading.lead.term, advance_ms)
        try:
            await self._connections.ask(*call, twice=False)
        except LeadLost:
            if self._leading.pop(role, None) is not None:
                _log.warning("lead_lost", role=role.value, term=leading.lead.term)
        except SourceUnavailable:
            return
        else:
            leading.beaten_s = now_s

    async def _take(self, role: SiteRole, seen: int) -> None:
        """Take a role over from the term that was seen. Raises SourceUnavailable."""
        now_s = self._clock.monotonic_s()
        call = ("SELECT federation_take_lead($1, $2, $3)", role.value, self._process_id, seen)
        (term,) = await self._connections.ask_one(*call, twice=False)
        if term is None:
            return
        lead = Lead(role, term)
        if role not in self._wanted:  # resigned meanwhile
            await self._resign(lead)
            return
        self._leading[role] = _Leading(lead, now_s, now_s)
        _log.info("lead_taken", role=role.value, term=term)
