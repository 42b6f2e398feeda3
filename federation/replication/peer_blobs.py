"""One peer as a place to fetch blobs from, for healing and pins."""

from __future__ import annotations

from federation.config.peers import PeerConfig
from federation.core.digest import Digest
from federation.core.window import Window
from federation.remote.client import Remote
from federation.remote.store import RemoteStore
from federation.replication.rules import Rules


class PeerBlobs:
    """See federation.upstream.peer_copies.BlobHolder."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self.store = RemoteStore(remote)

    def __repr__(self) -> str:
        return f"<PeerBlobs {self.name}>"

    @property
    def name(self) -> str:
        """Its name in the configuration."""
        return self._remote.name

    @property
    def node_id(self) -> str:
        """See Remote.node_id."""
        return self._remote.node_id

    def sent_wrong_bytes(self, digest: Digest) -> None:
        """See BlobHolder."""
        self.store.sent_wrong_bytes(digest)


def may_fetch_from(peer: PeerConfig, wall_s: float) -> bool:
    """Whether the link to a peer may be used now.

    A peer whose rules send in its window alone has a link for that time; others may be asked at all
    times.
    """
    rules = Rules(peer)
    return rules.sends_always or not rules.has_window or Window.parse(peer.window).is_open(wall_s)
