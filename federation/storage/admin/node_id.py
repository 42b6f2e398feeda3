"""Giving a data directory an id of its own, which a copy of another one has not."""

from __future__ import annotations

import uuid
from pathlib import Path

from federation.core.errors import StorageRefused
from federation.storage.admin.common import existing, unserved
from federation.storage.catalogue import schema
from federation.storage.catalogue.schema import UNREADABLE
from federation.storage.catalogue.transaction import LOG_EPOCH, get_meta
from federation.storage.reports import NewId


def new_id(data_dir: Path) -> NewId:
    """Take another id, and begin the change log's numbers anew; blocks.

    What is held stays, and so does how far each peer has come. Raises StorageRefused: there is no
    catalogue, it is served, or of another version.
    """
    directory = existing(data_dir)
    if not directory.catalogue.exists():
        raise StorageRefused(f"{data_dir} holds no catalogue: it gets an id when it is served")
    with unserved(directory):
        try:
            return _replace(directory.catalogue)
        except UNREADABLE as error:
            raise StorageRefused(f"{directory.catalogue} cannot be written ({error})") from error


def _replace(catalogue: Path) -> NewId:
    connection = schema.connect(catalogue)
    try:
        version = schema.stored_version(connection)
        if version != schema.VERSION:
            raise StorageRefused(
                f"the catalogue has schema version {version}, this program uses {schema.VERSION}: "
                "have this program serve it once, or use the one that wrote it"
            )
        found = NewId(str(get_meta(connection, "node_id") or ""), uuid.uuid4().hex)
        with schema.writing(connection):
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('node_id', ?)", (found.now,))
            # Peers know of the other's log what they were told under the old id.
            connection.execute("DELETE FROM meta WHERE name = ?", (LOG_EPOCH,))
    finally:
        connection.close()
    return found
