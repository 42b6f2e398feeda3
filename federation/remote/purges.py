"""Telling another node of this project what was purged."""

from __future__ import annotations

from collections.abc import Sequence

from federation.core.purges import Purge
from federation.remote.client import Remote
from federation.remote.methods import APPLY_PURGES
from federation.remote.records import apply_records
from federation.wire.purges import IN_CALL_MAX, encode_purges


async def apply_purges(remote: Remote, purges: Sequence[Purge]) -> None:
    """Have a remote take over these records. Raises as apply_records; see protos/federation/v1."""
    await apply_records(remote, APPLY_PURGES, purges, IN_CALL_MAX, encode_purges)
