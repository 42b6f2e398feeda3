"""The node's own storage: a catalogue in SQLite and files for large blobs, in one directory."""

from federation.storage.storage import Storage

__all__ = ["Storage"]
