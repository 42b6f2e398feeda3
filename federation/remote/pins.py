"""Telling another node of this project what is pinned."""

from __future__ import annotations

from collections.abc import Sequence

from federation.core.pins import Pin
from federation.remote.client import Remote
from federation.remote.methods import APPLY_PINS
from federation.remote.records import apply_records
from federation.wire.pins import PINS_IN_CALL_MAX, encode_pins


async def apply_pins(remote: Remote, pins: Sequence[Pin]) -> None:
    """Have a remote take over these records. Raises as apply_records; see protos/federation/v1."""
    await apply_records(remote, APPLY_PINS, pins, PINS_IN_CALL_MAX, encode_pins)
