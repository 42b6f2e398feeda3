"""The names of peers that commands take."""

from __future__ import annotations

from pathlib import Path

from federation.core.errors import ConfigError
from federation.storage.admin import KnownPeer, known_peers


def check_peer(data_dir: Path, name: str) -> KnownPeer:
    """Return what is known of a peer.

    Raises ConfigError for a name that no peer has, StorageRefused.
    """
    known = known_peers(data_dir)
    for peer in known:
        if peer.name == name:
            return peer
    names = ", ".join(peer.name for peer in known) or "none"
    raise ConfigError(
        f"no peer {name!r} is known in {data_dir}; known: {names}. A peer is known once a process "
        "has served with it in its configuration"
    )
