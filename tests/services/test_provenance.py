"""What a caller says of where its writes come from counts only if it is a peer."""

from __future__ import annotations

from typing import cast

import pytest

from federation.access.rights import Rights, Role
from federation.core import hops
from federation.core.index import NO_STAMP, Entry, EntryKey, EntryKind, Stamp
from federation.core.provenance import FROM_CLIENT, Provenance, Source
from federation.services.call import Call
from federation.services.runtime import Runtime
from tests.support.transport import FakeTransport

ENTRY = Entry(EntryKey(EntryKind.ASSET_BLOB, "", b"name"), b"value", "urn:example")
STAMP = Stamp(1 << 60, "far")


def call_by(role: Role) -> Call:
    rights = Rights("somebody", role)
    runtime = cast(Runtime, None)  # it is not asked for provenance
    return Call(FakeTransport(), "somebody", "a.Service/Method", rights, runtime)


@pytest.mark.parametrize("role", [Role.PULL, Role.PUSH])
def test_a_client_cannot_say_where_an_object_has_been_nor_date_it(role: Role) -> None:
    with hops.serving(hops.of_replication(("far", "near"), STAMP)):
        assert call_by(role).provenance == FROM_CLIENT
        assert [entry.stamp for entry in call_by(role).dated([ENTRY])] == [NO_STAMP]


def test_a_peer_can() -> None:
    call = call_by(Role.PEER)
    with hops.serving(hops.of_replication(("far", "near"), STAMP)):
        assert call.provenance == Provenance(Source.PEER, ("far", "near"), "far")
        assert [entry.stamp for entry in call.dated([ENTRY])] == [STAMP]
    with hops.serving(hops.NOWHERE):
        assert call.provenance == FROM_CLIENT


def test_a_stamp_without_a_way_dates_nothing() -> None:
    with hops.serving(hops.of_replication((), STAMP)):
        assert [entry.stamp for entry in call_by(Role.PEER).dated([ENTRY])] == [NO_STAMP]
