"""Removes files that no row claims, without making uploads wait.

Removing a large file takes milliseconds or more, and a new upload of the blob reuses its path. So a
write transaction checks that no row claims the file and renames it to a unique name; the file is
removed after the transaction. Files left under such names by a crash are removed like the
unfinished uploads of dead processes.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from functools import partial

from federation.core.digest import Digest
from federation.storage.catalogue.blobs import key_of
from federation.storage.catalogue.transaction import Transaction
from federation.storage.context import StorageContext
from federation.storage.publishing import discard, rename_stray

_AT_ONCE = 50  # renames in one transaction
_numbers = itertools.count()

Stray = tuple[str, bytes]  # path, and the catalogue key its name states (empty for none)


class Discarder:
    """Removes files. Used by the process that holds the maintenance lock."""

    def __init__(self, core: StorageContext) -> None:
        self._core = core

    async def discard_blobs(self, digests: Iterable[Digest]) -> int:
        """Remove the files of blobs whose rows are gone; return how many."""
        path_of = self._core.directory.blob_path
        return await self.discard([(path_of(digest), key_of(digest)) for digest in digests])

    async def discard(self, strays: Sequence[Stray]) -> int:
        """Remove files, each only if no row claims it; return how many.

        Raises SourceUnavailable if the volume is in doubt.
        """
        removed = 0
        for at in range(0, len(strays), _AT_ONCE):
            part = strays[at : at + _AT_ONCE]
            renamed = await self._core.writer.submit(partial(self._rename, part))
            removed += await self._core.writes.run(self._remove, renamed)
        return removed

    def _rename(self, strays: Sequence[Stray], transaction: Transaction) -> list[str]:
        directory = self._core.directory
        # In the transaction: a volume that went since the list was made has other files under these
        # names.
        directory.volume.check_certain()
        renamed = []
        for path, key in strays:
            # Of this run, so that the sweep removes what a crash leaves under such names.
            name = f"{self._core.run.id}-gone-{next(_numbers)}"
            target = os.path.join(directory.incoming, name)
            if rename_stray(transaction, directory, path, key, target):
                renamed.append(target)
        return renamed

    def _remove(self, paths: Iterable[str]) -> int:
        return sum(discard(self._core.directory, path) for path in paths)
