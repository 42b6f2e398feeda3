"""A peer is asked for lost blobs when its link may be used."""

from __future__ import annotations

from datetime import datetime

import pytest

from federation.config.peers import PeerConfig
from federation.replication.peer_blobs import may_fetch_from

WINDOW = {"when": "window"}
ALWAYS = {"match": "urn:small:*", "when": "always"}


@pytest.mark.parametrize(
    ("rules", "hour", "may"),
    [
        ([], 12, True),
        ([WINDOW], 12, False),
        ([WINDOW], 23, True),
        ([ALWAYS, WINDOW], 12, True),
        ([{"when": "manual"}], 12, True),
        ([{"when": "never"}, WINDOW], 12, False),
    ],
)
def test_a_peer_that_is_sent_to_in_its_window_alone_is_asked_then(
    rules: list[dict[str, str]], hour: int, may: bool
) -> None:
    settings = {"name": "tokyo", "url": "grpc://tokyo:1", "rules": rules, "window": "20:00-06:00"}
    peer = PeerConfig.model_validate(settings)
    wall_s = datetime(2030, 1, 1, hour).timestamp()
    assert may_fetch_from(peer, wall_s) is may
