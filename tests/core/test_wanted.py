"""Names of what is fetched: URIs, digests, actions; anything else is refused with a reason."""

from __future__ import annotations

import pytest

from federation.core.digest import Digest, DigestFunction, digest_of
from federation.core.wanted import Wanted, parse_list, parse_wanted

DIGEST = digest_of(b"data")
B3 = digest_of(b"data", DigestFunction.BLAKE3)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("urn:fdc:buildstream.build:2020:artifact:p/e/k", None),
        ("https://example.com/a?b=c", None),
        (str(DIGEST), Wanted(digest=DIGEST)),
        (str(B3), Wanted(digest=B3)),
        (f"sha256/{DIGEST}", Wanted(digest=DIGEST)),
        (f"action {DIGEST}", Wanted(digest=DIGEST, is_action=True)),
        (f"  action\t{B3} ", Wanted(digest=B3, is_action=True)),
    ],
)
def test_a_name_is_read(text: str, wanted: Wanted | None) -> None:
    expected = wanted or Wanted(uri=text)
    assert parse_wanted(text) == expected
    assert parse_wanted(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        DIGEST.hash_hex,
        f"{DIGEST.hash_hex}/",
        f"{DIGEST.hash_hex}/-1",
        f"md5/{DIGEST}",
        f"action{DIGEST}",
        "action urn:a",
        "urn:with space",
        "urn:bell\x07",
        "urn:" + "x" * 8192,
    ],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be fetched: give a URI, a digest"):
        parse_wanted(text)


def test_only_blobs_have_a_blob() -> None:
    assert parse_wanted(str(DIGEST)).blob == Digest(DIGEST.hash, 4)
    assert parse_wanted(f"action {DIGEST}").blob is None
    assert parse_wanted("urn:a").blob is None


def test_a_list_has_comments_and_says_which_line_is_wrong() -> None:
    assert parse_list(["# a list\n", "\n", " urn:a \n", f"{DIGEST}\n"]) == [
        Wanted(uri="urn:a"),
        Wanted(digest=DIGEST),
    ]
    with pytest.raises(ValueError, match="line 3: 'nonsense' cannot be fetched"):
        parse_list(["# a list", "urn:a", "nonsense"])
