from __future__ import annotations

import itertools

import pytest

from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from federation.core.digest import DigestFunction
from federation.core.errors import InvalidRequest
from federation.core.wanted import URI_MAX_BYTES
from federation.wire.asset_key import (
    QUALIFIER_MAX_BYTES,
    QUALIFIERS_MAX,
    URIS_MAX,
    asset_names,
    check_uris,
    qualifiers_of,
)

SHA256 = DigestFunction.SHA256
URI = "https://example.com/a"


def name(uri: str = URI, function: DigestFunction = SHA256, **qualifiers: str) -> bytes:
    return asset_names(function, [uri], qualifiers)[0]


def qualifiers(*pairs: tuple[str, str]) -> list[asset.Qualifier]:
    return [asset.Qualifier(name=name, value=value) for name, value in pairs]


def test_qualifiers_in_any_order_are_the_same_name() -> None:
    items = [("directory", "d"), ("vcs.branch", "b"), ("vcs.commit", "c")]
    names = {
        asset_names(SHA256, [URI], qualifiers_of(qualifiers(*order)))[0]
        for order in itertools.permutations(items)
    }
    assert len(names) == 1


def test_different_requests_have_different_names() -> None:
    names = [
        name(),
        name(URI + "a"),
        name(function=DigestFunction.BLAKE3),
        name(directory=""),
        name(directory="x"),
        name(directory="x", resource_type=""),
        name(directory="", resource_type="x"),
        name(directoryx="", resource_type=""),
        name(URI + "directory", x=""),
        name(""),
    ]
    assert len(set(names)) == len(names)
    assert {len(each) for each in names} == {32}


def test_a_name_stays_what_it_was() -> None:
    """Stored entries are found by it: a change here loses them."""
    found = name("urn:fdc:buildstream.build:2020:artifact:p/e/k", directory="d").hex()
    assert found == NAME_OF_TODAY


NAME_OF_TODAY = "ee9f76bead29e7d8f9838f20edf1e8836cee84e5fe590d621638f55c8d5c699d"


@pytest.mark.parametrize(
    "secret", ["bazel.auth_headers", "http_header:Authorization", "http_header_url:0:Cookie"]
)
def test_credentials_are_no_part_of_a_name(secret: str) -> None:
    with_secret = qualifiers_of(qualifiers((secret, "token"), ("directory", "d")))
    assert with_secret == {"directory": "d"}


def test_other_bazel_qualifiers_are_a_part_of_the_name() -> None:
    assert qualifiers_of(qualifiers(("bazel.canonical_id", "x"))) == {"bazel.canonical_id": "x"}


def test_w37_a_repeated_qualifier_is_refused_even_a_secret_one() -> None:
    for repeated in ("directory", "bazel.auth_headers"):
        with pytest.raises(InvalidRequest, match="repeated"):
            qualifiers_of(qualifiers((repeated, "a"), (repeated, "a")))


@pytest.mark.parametrize("unknown", ["", "colour", "Directory", "http_header", "vcs.tag"])
def test_w37_w38_an_unsupported_qualifier_is_refused_without_quoting_its_value(
    unknown: str,
) -> None:
    with pytest.raises(InvalidRequest, match="not supported") as caught:
        qualifiers_of(qualifiers((unknown, "s3cret")))
    assert "s3cret" not in str(caught.value)


def test_qualifiers_are_bounded_in_number_and_size() -> None:
    many = qualifiers(*((f"bazel.{n}", "") for n in range(QUALIFIERS_MAX + 1)))
    assert len(qualifiers_of(many[:-1])) == QUALIFIERS_MAX
    with pytest.raises(InvalidRequest, match="more than"):
        qualifiers_of(many)
    with pytest.raises(InvalidRequest, match="longer"):
        qualifiers_of(qualifiers(("directory", "x" * QUALIFIER_MAX_BYTES)))


@pytest.mark.parametrize(
    "uris",
    [
        [],
        [""],
        [URI] * (URIS_MAX + 1),
        ["x" * (URI_MAX_BYTES + 1)],
        ["é" * (URI_MAX_BYTES // 2 + 1)],
        [URI + "\n"],
        [URI + "\0"],
        [URI, "urn:\x1b[2J"],
        ["urn:\x9b"],
    ],
)
def test_w37_unusable_uris_are_refused(uris: list[str]) -> None:
    with pytest.raises(InvalidRequest):
        check_uris(uris)


def test_usable_uris_pass() -> None:
    check_uris([URI, "x" * URI_MAX_BYTES, "urn:é/ with space"])
    check_uris([URI] * URIS_MAX)
