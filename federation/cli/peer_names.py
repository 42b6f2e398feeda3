"""The names of peers that commands take."""

from __future__ import annotations

from federation.cli.options import Place
from federation.core.errors import ConfigError
from federation.storage.reports import KnownPeer


def check_peer(where: Place, name: str) -> KnownPeer:
    """Return what is known of a peer.

    Raises ConfigError for a name that no peer has, StorageRefused.
    """
    known = where.operations.peers()
    for peer in known:
        if peer.name == name:
            return peer
    names = ", ".join(peer.name for peer in known) or "none"
    raise ConfigError(
        f"no peer {name!r} is known in {where.data_dir}; known: {names}. A peer is known once a "
        "process has served with it in its configuration"
    )
