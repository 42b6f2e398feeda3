"""Telling another node of this project of records, as many at once as one call may have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from federation.remote.client import Remote
from federation.remote.failures import FailureKind, NotFound, failure
from federation.remote.methods import Method

_T = TypeVar("_T")


async def apply_records(
    remote: Remote,
    method: Method,
    records: Sequence[_T],
    at_once: int,
    encode: Callable[[str, Sequence[_T]], bytes],
) -> None:
    """Have a remote take over these records.

    encode: returns the request with an instance name and at most at_once records. Raises
    RemoteFailed: Unsupported where the remote is no node of this project, or an older one; Denied
    where it does not take this node for a peer; RequestRefused.
    """
    for at in range(0, len(records), at_once):
        part = records[at : at + at_once]
        try:
            await remote.calls.unary(method, encode(remote.settings.instance_name, part))
        except NotFound as error:
            # These methods have nothing that could be absent.
            raise failure(remote.name, FailureKind.MALFORMED, str(error)) from None
