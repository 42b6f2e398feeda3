from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.core.digest import MAX_SIZE_BYTES, Digest, DigestFunction, digest_of
from federation.core.errors import InvalidRequest
from federation.wire.resource_name import (
    RESERVED,
    check_instance,
    parse_read,
    parse_upload,
    read_name,
    upload_name,
)

D = digest_of(b"hello")
H = D.hash_hex
B3 = digest_of(b"hello", DigestFunction.BLAKE3)

digests = st.builds(
    Digest,
    st.binary(min_size=32, max_size=32),
    st.integers(0, MAX_SIZE_BYTES),
    st.sampled_from(DigestFunction),
)
parts = st.text(
    st.characters(categories=["L", "N", "P"], exclude_characters="/%"), min_size=1, max_size=12
).filter(lambda part: part not in RESERVED | {".", ".."})
instances = st.lists(parts, max_size=3).map("/".join)


@given(digests, instances, st.booleans())
def test_a_read_name_comes_back(digest: Digest, instance: str, compressed: bool) -> None:
    name = read_name(digest, instance, compressed=compressed)
    assert parse_read(name) == (instance, digest, compressed)


@given(digests, instances, parts, st.booleans())
def test_an_upload_name_comes_back(
    digest: Digest, instance: str, uuid: str, compressed: bool
) -> None:
    name = upload_name(digest, uuid, instance, compressed=compressed)
    assert parse_upload(name) == (instance, uuid, digest, compressed)
    assert parse_upload(name + "/some/file.txt") == parse_upload(name)


@given(st.text())
def test_w42_any_text_is_parsed_or_refused(text: str) -> None:
    for parse in (parse_read, parse_upload, check_instance):
        try:
            parse(text)
        except InvalidRequest:
            continue


@pytest.mark.parametrize(
    "name",
    [
        f"blobs/{H}/5",
        f"/blobs/{H}/5",
        f"main/blobs/{H}/5",
        f"team/a/blobs/{H}/5",
        f"blobs/sha256/{H}/5",
    ],
)
def test_w16_legal_read_names(name: str) -> None:
    assert parse_read(name).digest == D


def test_w16_the_function_is_a_component() -> None:
    assert parse_read(f"a/blobs/blake3/{B3.hash_hex}/5") == ("a", B3, False)
    assert parse_read(f"a/compressed-blobs/zstd/blake3/{B3.hash_hex}/5") == ("a", B3, True)


BAD_READS = {
    "nothing": "",
    "no hash": "blobs",
    "no size": f"blobs/{H}",
    "empty size": f"blobs/{H}/",
    "something after the size": f"blobs/{H}/5/x",
    "sha512": f"blobs/sha512/{H}/5",
    "md5": f"blobs/md5/{H}/5",
    "dots": f"../blobs/{H}/5",
    "dots inside": f"a/../blobs/{H}/5",
    "encoded dots": f"a/%2e%2E/blobs/{H}/5",
    "encoded slash": f"a%2fb/blobs/{H}/5",
    "dots in place of a hash": "blobs/../../etc/passwd",
    "NUL": f"a\0/blobs/{H}/5",
    "newline": f"a\n/blobs/{H}/5",
    "double slash": f"a//blobs/{H}/5",
    "double slash behind": f"blobs//{H}/5",
    "absolute": f"/a/blobs/{H}/5",
    "two leading slashes": f"//blobs/{H}/5",
    "4 KiB": "a" * 4096 + f"/blobs/{H}/5",
    "instance of more than 1 KiB": "a" * 1025 + f"/blobs/{H}/5",
    "reserved word": f"actions/blobs/{H}/5",
    "upload": f"uploads/u/blobs/{H}/5",
    "no compressor": f"compressed-blobs/{H}/5",
    "hash only": f"{H}/5",
}


@pytest.mark.parametrize("name", BAD_READS.values(), ids=BAD_READS.keys())
def test_w16_any_other_read_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_read(name)


@pytest.mark.parametrize("compressor", ["deflate", "brotli", "identity", "ZSTD", ""])
def test_w20_an_unknown_compressor_is_refused(compressor: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_read(f"compressed-blobs/{compressor}/{H}/5")
    with pytest.raises(InvalidRequest):
        parse_upload(f"uploads/u/compressed-blobs/{compressor}/{H}/5")


@pytest.mark.parametrize(
    "size",
    ["-1", "+5", "05", "00", "0x5", "5e3", "5" * 25, "9" * 19, "\u0665", "\uff15", " 5", "5 ", ""],
)
def test_w02_a_malformed_size_is_refused(size: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_read(f"blobs/{H}/{size}")


def test_w02_sizes_up_to_the_largest_are_read() -> None:
    assert parse_read(f"blobs/{H}/0").digest.size_bytes == 0
    assert parse_read(f"blobs/{H}/{2**63 - 1}").digest.size_bytes == 2**63 - 1


@pytest.mark.parametrize("text", [H[:-1], H + "0", H.upper(), H[:-1] + "g", H[:-1] + "\n"])
def test_w01_a_malformed_hash_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_read(f"blobs/{text}/5")


@pytest.mark.parametrize(
    "name",
    [
        f"uploads/blobs/{H}/5",
        f"uploads//blobs/{H}/5",
        f"uploads/blobs/blobs/{H}/5",
        "uploads",
        "uploads/u",
        f"uploads/u/{H}/5",
        f"uploads/{'u' * 257}/blobs/{H}/5",
        f"uploads/../blobs/{H}/5",
        f"uploads/u\n/blobs/{H}/5",
        f"blobs/{H}/5",
        f"a/actions/uploads/u/blobs/{H}/5",
    ],
)
def test_w16_an_upload_name_that_is_not_one_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_upload(name)


@pytest.mark.parametrize(
    "name", ["", "main", "a/b", "moon-outputs", "a.b", "\u00e9", "...", "a" * 1024]
)
def test_w17_legal_instances(name: str) -> None:
    assert check_instance(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        ".",
        "..",
        "a/..",
        "/a",
        "a/",
        "a//b",
        "/",
        "a" * 2**20,
        "a\0",
        "\x7f",
        "%2e%2e/x",
        "a/%2F",
    ]
    + sorted(RESERVED)
    + [f"a/{word}/b" for word in sorted(RESERVED)],
)
def test_w17_any_other_instance_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest):
        check_instance(name)
