"""Gives a data directory a new node id: a copy has the id of the original."""

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
    """Replace the node id, and let the next start begin a new change log epoch. Blocks.

    Keeps all objects and peer records. Raises StorageRefused: there is no catalogue, it has another
    schema version, or a node serves it.
    """
    directory = existing(data_dir)
    if not directory.catalogue.exists():
        raise StorageRefused(
            f"{data_dir} has no catalogue: it gets an id when a node first serves it"
        )
    with unserved(directory):
        try:
            return _replace(directory.catalogue)
        except UNREADABLE as error:
            raise StorageRefused(f"{directory.catalogue} cannot be written ({error})") from error


def _replace(catalogue: Path) -> NewId:
    connection = schema.connect(catalogue)
    try:
        version = schema.stored_version(connection)
        # Nothing is migrated here: that is a start's work, with its copy and its checks.
        if version != schema.VERSION:
            raise StorageRefused(
                f"the catalogue has schema version {version}, this program uses {schema.VERSION}: "
                "start a node of this version on it once, or use the version that wrote it"
            )
        found = NewId(str(get_meta(connection, "node_id") or ""), uuid.uuid4().hex)
        with schema.writing(connection):
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('node_id', ?)", (found.now,))
            # Peers know the original's log under the old id: this one needs an epoch of its own.
            connection.execute("DELETE FROM meta WHERE name = ?", (LOG_EPOCH,))
    finally:
        connection.close()
    return found
