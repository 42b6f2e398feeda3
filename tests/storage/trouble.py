"""Storage without room now and then, and what is left of blobs that were never stored."""

from __future__ import annotations

import random
from collections.abc import Collection
from pathlib import Path

from federation.core.digest import Digest
from federation.core.errors import StorageFull
from federation.core.provenance import FROM_CLIENT, Provenance
from federation.storage.ingest import LocalIngest
from federation.storage.storage import Storage


def fills_up(storage: Storage, rng: random.Random) -> None:
    """Let some blobs find no room: at once, at a piece, or when they are committed."""
    begin = storage.begin

    def begin_full(digest: Digest, *, provenance: Provenance = FROM_CLIENT) -> LocalIngest:
        step = rng.choice(["begin", "append", "commit", *["none"] * 9])
        if step == "begin":
            raise StorageFull("no room")
        ingest = begin(digest, provenance=provenance)

        async def full(*_: object) -> bool:
            raise StorageFull("no room")

        if step != "none":
            setattr(ingest, step, full)
        return ingest

    storage.begin = begin_full  # type: ignore[method-assign]


def received_files(storage: Storage) -> Collection[str]:
    """What is in incoming/, and what this process has open of it."""
    incoming = storage.core.directory.incoming
    found = {path.name for path in incoming.iterdir()}
    for fd in Path("/proc/self/fd").iterdir():
        try:
            target = str(fd.readlink())
        except FileNotFoundError:  # the descriptor that lists them
            continue
        if target.startswith(f"{incoming}/"):
            found.add(target)
    return found
