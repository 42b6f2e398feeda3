"""Telling another node of this project what is pinned."""

from __future__ import annotations

from collections.abc import Sequence

from federation.core.pins import Pin
from federation.remote.client import Remote
from federation.remote.failures import FailureKind, NotFound, failure
from federation.remote.methods import APPLY_PINS
from federation.wire.pins import PINS_IN_CALL_MAX, encode_pins


async def apply_pins(remote: Remote, pins: Sequence[Pin]) -> None:
    """Have a remote take over these records. See protos/federation/v1/pins.proto.

    Raises RemoteFailed: Unsupported where the remote is no node of this project, or an older one;
    Denied where it does not take this node for a peer; RequestRefused.
    """
    for at in range(0, len(pins), PINS_IN_CALL_MAX):
        part = pins[at : at + PINS_IN_CALL_MAX]
        try:
            await remote.calls.unary(APPLY_PINS, encode_pins(remote.settings.instance_name, part))
        except NotFound as error:
            raise failure(remote.name, FailureKind.MALFORMED, str(error)) from None
