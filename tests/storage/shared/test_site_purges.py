"""A node of a shared site keeps no records of purges, and says so to whoever wants it to."""

from __future__ import annotations

import pytest

from federation.core.digest import digest_of
from federation.core.errors import InvalidRequest
from federation.core.index import EntryKey, EntryKind, Stamp
from federation.core.purges import Purge
from federation.storage.shared.site_purges import SitePurges

BLOB, KEY = digest_of(b"blob"), EntryKey(EntryKind.ASSET_BLOB, "", b"name")


async def test_a_site_refuses_to_purge_and_to_be_told_and_has_purged_nothing() -> None:
    purges = SitePurges()
    with pytest.raises(InvalidRequest, match="does not support purges"):
        await purges.purge([(BLOB, "")], "alice")
    with pytest.raises(InvalidRequest, match="does not support purges"):
        await purges.apply([Purge(BLOB, Stamp(1, "there"))])
    assert await purges.apply([]) == 0
    assert await purges.page(7, 10) == ([], 7)
    assert await purges.blobs_among([BLOB]) == set()
    assert await purges.entries_among([KEY]) == set()
