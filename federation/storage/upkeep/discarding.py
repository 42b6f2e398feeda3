"""Removing files that no row claims, without uploads waiting for it.

A blob's path is another file's as soon as the blob is uploaded again. So a file loses that name
inside a write transaction, which sees that no row claims it, and is removed outside under a name
that nothing else ever has: removing a large file takes milliseconds and more. What is left under
such a name after a crash goes with the unfinished uploads of dead processes.
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
from federation.storage.publishing import discard, set_apart

_AT_ONCE = 50  # renames in one transaction
_numbers = itertools.count()

Stray = tuple[str, bytes]  # path, and the catalogue key its name states (empty for none)


class Discarder:
    """Used by the process that holds the maintenance lock."""

    def __init__(self, core: StorageContext) -> None:
        self._core = core

    async def discard_blobs(self, digests: Iterable[Digest]) -> int:
        """Remove the files of blobs whose rows are gone; return how many."""
        path_of = self._core.directory.blob_path
        return await self.discard([(path_of(digest), key_of(digest)) for digest in digests])

    async def discard(self, strays: Sequence[Stray]) -> int:
        """Remove files, each only while no row claims it; return how many.

        Raises SourceUnavailable where the volume is in doubt.
        """
        removed = 0
        for at in range(0, len(strays), _AT_ONCE):
            part = strays[at : at + _AT_ONCE]
            apart = await self._core.writer.submit(partial(self._set_apart, part))
            removed += await self._core.writes.run(self._remove, apart)
        return removed

    def _set_apart(self, strays: Sequence[Stray], transaction: Transaction) -> list[str]:
        directory = self._core.directory
        directory.volume.check_certain()
        apart = []
        for path, key in strays:
            name = f"{self._core.run.id}-gone-{next(_numbers)}"
            target = os.path.join(directory.incoming, name)
            if set_apart(transaction, directory, path, key, target):
                apart.append(target)
        return apart

    def _remove(self, paths: Iterable[str]) -> int:
        return sum(discard(self._core.directory, path) for path in paths)
