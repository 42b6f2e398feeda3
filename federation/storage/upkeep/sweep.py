"""Removes files that no row claims: unfinished uploads of dead processes, and stray blob files.

It works on one folder at a time and in slices, so that even a million files do not delay a start or
a request.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import structlog

from federation.storage.catalogue import blobs as catalogue
from federation.storage.catalogue.blobs import key_of
from federation.storage.context import StorageContext
from federation.storage.directory import disk_errors_named, parse_blob_name
from federation.storage.processes import live_runs
from federation.storage.publishing import discard
from federation.storage.upkeep.discarding import Discarder, Stray

_SLICE = 500
_log = structlog.get_logger(__name__)


class Sweeper:
    """Removes unclaimed files. Used by the process that holds the maintenance lock."""

    def __init__(self, core: StorageContext) -> None:
        self._core = core
        self._discarder = Discarder(core)

    async def incoming(self) -> int:
        """Remove the unfinished uploads of dead processes; return how many.

        Raises SourceUnavailable or TooBusy: the folder cannot be read, such as while its volume is
        away.
        """
        removed = 0
        while slice_ := await self._core.pool.run(self._dead_uploads):
            done = await self._core.pool.run(self._remove, slice_)
            removed += done
            if done < len(slice_):
                break  # something cannot be removed: do not find it again and again
        if removed:
            _log.info("unfinished_uploads_removed", count=removed)
        return removed

    async def folder(self, number: int) -> int:
        """Remove the stray files of blob folder number (0..255); return how many.

        Raises SourceUnavailable if the volume is in doubt: then nobody knows what is stray.
        """
        strays = await self._core.pool.run(self._strays, number)
        removed = 0
        for at in range(0, len(strays), _SLICE):
            part = strays[at : at + _SLICE]
            removed += await self._discarder.discard(part)
        if removed:
            _log.info("stray_files_removed", folder=f"{number:02x}", count=removed)
        return removed

    def _dead_uploads(self) -> list[str]:
        """Return the paths of up to _SLICE uploads of dead processes.

        The live processes are listed before and after the scan, because one may have started and
        begun an upload meanwhile: a process registers itself before its first upload.
        """
        alive = self._alive()
        found = []
        incoming = self._core.directory.incoming
        with disk_errors_named("listing unfinished uploads"), os.scandir(incoming) as entries:
            for entry in entries:
                if entry.name.partition("-")[0] not in alive:
                    found.append(entry)
                    if len(found) == _SLICE:
                        break
        alive = self._alive()
        return [entry.path for entry in found if entry.name.partition("-")[0] not in alive]

    def _alive(self) -> set[str]:
        return {run["id"] for run in live_runs(self._core.directory)} | {self._core.run.id}

    def _remove(self, paths: Iterable[str]) -> int:
        return sum(discard(self._core.directory, path) for path in paths)

    def _strays(self, number: int) -> list[Stray]:
        self._core.directory.volume.check_quickly()
        folder = self._core.directory.blobs / f"{number:02x}"
        with disk_errors_named("listing blobs"), os.scandir(folder) as entries:
            named = [(entry.path, parse_blob_name(entry.name)) for entry in entries]
        keys = [key_of(digest) for _, digest in named if digest is not None]
        rows = catalogue.look_up(self._core.pool.connection(), keys)
        strays: list[Stray] = []
        for path, digest in named:
            row = rows.get(key_of(digest)) if digest is not None else None
            claimed = (
                digest is not None
                and row is not None
                and not row.inline
                and self._core.directory.blob_path(digest._replace(size_bytes=row.size_bytes))
                == path
            )
            if not claimed:
                strays.append((path, key_of(digest) if digest is not None else b""))
        # What was found missing its row may be another volume's: checked before any is removed.
        if strays:
            self._core.directory.volume.check_certain()
        return strays
