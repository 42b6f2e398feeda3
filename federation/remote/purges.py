"""Telling another node of this project what was purged."""

from __future__ import annotations

from collections.abc import Sequence

from federation.core.purges import Purge
from federation.remote.client import Remote
from federation.remote.failures import FailureKind, NotFound, failure
from federation.remote.methods import APPLY_PURGES
from federation.wire.purges import IN_CALL_MAX, encode_purges


async def apply_purges(remote: Remote, purges: Sequence[Purge]) -> None:
    """Have a remote take over these records. See protos/federation/v1/purges.proto.

    Raises RemoteFailed: Unsupported where the remote is no node of this project, or an older one;
    Denied where it does not take this node for a peer; RequestRefused.
    """
    for at in range(0, len(purges), IN_CALL_MAX):
        part = purges[at : at + IN_CALL_MAX]
        try:
            await remote.calls.unary(
                APPLY_PURGES, encode_purges(remote.settings.instance_name, part)
            )
        except NotFound as error:
            raise failure(remote.name, FailureKind.MALFORMED, str(error)) from None
