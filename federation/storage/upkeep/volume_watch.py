"""Checks regularly whether the blobs' volume is mounted, and whether suspected damage was real.

So a volume that vanishes makes the node unready even while no client asks for a blob, and a volume
that returns makes it ready again without a restart.
"""

from __future__ import annotations

import structlog

from federation.core.digest import Digest
from federation.core.errors import FederationError, SourceUnavailable, TooBusy
from federation.core.tasks import Background
from federation.storage import quarantine
from federation.storage.blob_files import Damage, Gone, Unreadable, verify_path
from federation.storage.catalogue import blobs as catalogue
from federation.storage.catalogue.blobs import key_of
from federation.storage.catalogue.transaction import Transaction
from federation.storage.context import StorageContext
from federation.storage.upkeep.scrub import verify_stored

_POLL_EVERY_S = 1.0
_SUSPECTS_EVERY_S = 5.0
_UNREAD_EVERY_S = 60.0
_REWATCH_EVERY_S = 60.0

_log = structlog.get_logger(__name__)


class VolumeWatch:
    """The regular checks; one per process and data directory."""

    def __init__(self, core: StorageContext) -> None:
        self._core = core
        self._volume = core.directory.volume
        self._background = Background()
        self._logged = ""
        self._next_suspects_s = 0.0
        self._next_unread_s = 0.0
        self._next_rewatch_s = core.clock.monotonic_s() + _REWATCH_EVERY_S

    def start(self) -> None:
        """Start the regular checks; close() ends them."""
        self._background.keep(self._run, "volume", self._core.clock, self._core.metrics.failing)

    async def close(self) -> None:
        """Stop the regular checks."""
        await self._background.close()

    def recheck_unread_now(self) -> None:
        """Let the next poll also check the unreadable files in quarantine/."""
        self._next_unread_s = 0.0

    async def _run(self) -> None:
        while True:
            await self.poll()
            await self._core.clock.sleep(_POLL_EVERY_S)

    async def poll(self) -> None:
        """Check the marker and, when due, suspected and unreadable blobs. Raises apsw.Error."""
        now_s = self._core.clock.monotonic_s()
        await self._core.reads.run(self._check)
        if self._volume.breaker.trouble and now_s >= self._next_suspects_s:
            self._next_suspects_s = now_s + _SUSPECTS_EVERY_S
            await self._core.reads.run(self._judge_suspects)
        if not self._volume.trouble and now_s >= self._next_unread_s:
            self._next_unread_s = now_s + _UNREAD_EVERY_S
            await self._second_look()
        await self._tend_files(now_s)
        self._log_change()

    async def _tend_files(self, now_s: float) -> None:
        """Take what the kernel reported, which it keeps a bounded number of; watch anew if due."""
        files = self._core.files
        # Also if nobody asks: the kernel's queue is bounded, and an overflow ends the watching.
        files.changes()
        if not files.is_on and not self._volume.trouble and now_s >= self._next_rewatch_s:
            self._next_rewatch_s = now_s + _REWATCH_EVERY_S
            await self._core.reads.run(files.start)

    def _check(self) -> None:
        try:
            self._volume.check()
        except SourceUnavailable:
            return  # the volume keeps the reason in its attribute trouble

    def _log_change(self) -> None:
        trouble = self._volume.trouble
        self._core.metrics.volume_in_doubt.set(bool(trouble))
        if trouble and trouble != self._logged:
            _log.error("volume_in_doubt", reason=trouble)
        elif self._logged and not trouble:
            _log.warning("volume_back", reason=self._logged)
        self._logged = trouble

    def _judge_suspects(self) -> None:
        """Reset the breaker if all blobs that it did not admit as damaged are right or gone."""
        for digest, seq in self._volume.breaker.suspects():
            key = key_of(digest)
            row = catalogue.look_up(self._core.reads.connection(), [key]).get(key)
            # The suspect is gone or was replaced: nothing left to be judged.
            if row is None or row.seq != seq or row.inline:
                continue
            try:
                verify_stored(self._core.directory, digest._replace(size_bytes=row.size_bytes))
            except (Damage, SourceUnavailable, TooBusy):
                return
        self._volume.breaker.close()

    async def _second_look(self) -> None:
        """Restore quarantined files that could not be read before and are right now."""
        for digest, seq, name in await self._core.reads.run(
            quarantine.unread_files, self._core.directory
        ):
            if not await self._core.reads.run(self._is_right, digest, name):
                continue

            def work(
                transaction: Transaction, digest: Digest = digest, seq: int = seq, name: str = name
            ) -> bool:
                return quarantine.restore(transaction, self._core.directory, digest, seq, name)

            try:
                restored = await self._core.writer.submit(work)
            except FederationError as error:
                _log.warning("blob_not_restored", digest=str(digest), reason=str(error))
                continue
            if restored:
                self._core.metrics.restored.inc()
                _log.warning("blob_restored", digest=str(digest))

    def _is_right(self, digest: Digest, name: str) -> bool:
        directory = self._core.directory
        try:
            verify_path(str(directory.quarantine / name), digest)
        except (Gone, Unreadable, SourceUnavailable, TooBusy):
            return False  # Gone: another process has restored it
        except Damage:
            # Readable by now, and wrong: it needs no second look any more.
            quarantine.give_up(directory, name)
            return False
        return True
