"""Blocking operations of commands on a data directory, whether nodes serve it or not."""

from federation.storage.admin.backup import backup, restore
from federation.storage.admin.collect import collect
from federation.storage.admin.explain import explaining
from federation.storage.admin.peers import (
    ask_reconcile,
    ask_retry,
    drop_peer,
    known_peers,
    read_parked,
)
from federation.storage.admin.pins import list_pins, pin, unpin
from federation.storage.admin.purge import find_entries, purge
from federation.storage.admin.rebuild import rebuild
from federation.storage.admin.summary import (
    offline_since_s,
    processes,
    summary,
    turn_offline,
)
from federation.storage.admin.verify import verify

__all__ = [
    "ask_reconcile",
    "ask_retry",
    "backup",
    "collect",
    "drop_peer",
    "explaining",
    "find_entries",
    "known_peers",
    "list_pins",
    "offline_since_s",
    "pin",
    "processes",
    "purge",
    "read_parked",
    "rebuild",
    "restore",
    "summary",
    "turn_offline",
    "unpin",
    "verify",
]
