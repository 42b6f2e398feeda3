"""What a replicating peer says of how long nobody used what it sends."""

from __future__ import annotations

import pytest

from federation.core import hops
from federation.core.hops import UNUSED_HEADER
from federation.core.provenance import Source
from federation.services.call import provenance_of


@pytest.mark.parametrize("seconds", [0, 1, 86_400, 9_999_999_999])
def test_it_is_read_as_it_was_said(seconds: int) -> None:
    sent = hops.of_replication(("a",), unused_s=seconds + 0.5)
    assert hops.parse(hops.headers(sent)) == sent
    came = provenance_of(sent)
    assert (came.source, came.unused_s) == (Source.PEER, float(seconds))


@pytest.mark.parametrize("text", ["-1", "1.5", "01", "", "1e3", "99999999999", " 1"])
def test_what_is_malformed_says_nothing(text: str) -> None:
    assert hops.parse([(UNUSED_HEADER, text)]).unused_s == 0
