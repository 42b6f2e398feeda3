from __future__ import annotations

import pytest
import structlog
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from federation.core.digest import DigestFunction, digest_of
from federation.services import checksum
from tests.services.assets.served import BAD, NOT_FOUND, URI, Assets, qualifiers, sri
from tests.services.calls import refused
from tests.support.messages import message_of


async def test_w38_qualifiers_in_any_order_match_and_come_back_as_stored(assets: Assets) -> None:
    assets.put(b"it")
    pushed = qualifiers(resource_type="tar", directory="d")
    await assets.push_blob(URI, qualifiers=pushed)
    found = await assets.fetch_blob(URI, qualifiers=pushed[::-1])
    assert list(found.qualifiers) == pushed
    await assets.hidden(URI)
    await assets.hidden(URI, qualifiers=pushed[:1])
    await assets.hidden(URI, qualifiers=qualifiers(resource_type="d", directory="tar"))


async def test_w37_w38_unsupported_and_repeated_qualifiers_are_refused(assets: Assets) -> None:
    for wrong in (qualifiers(colour="red"), qualifiers(directory="a") * 2):
        await refused(assets.fetch_blob(URI, qualifiers=wrong), BAD)
        await refused(assets.fetch_directory(URI, qualifiers=wrong), BAD)
        await refused(assets.push_blob(URI, qualifiers=wrong), BAD)
        await refused(assets.push_directory(URI, qualifiers=wrong), BAD)


async def test_credentials_in_qualifiers_are_neither_stored_nor_needed_nor_logged(
    assets: Assets,
) -> None:
    assets.put(b"it")
    secrets = [
        asset.Qualifier(name=name, value="s3cret")
        for name in ("bazel.auth_headers", "http_header:Authorization", "http_header_url:0:X")
    ]
    with structlog.testing.capture_logs() as logs:
        await assets.push_blob(URI, qualifiers=[*secrets, *qualifiers(directory="d")])
        found = await assets.fetch_blob(URI, qualifiers=qualifiers(directory="d"))
        await refused(assets.fetch_blob(URI, qualifiers=secrets), NOT_FOUND)
        await refused(assets.push_blob(URI, qualifiers=secrets * 2), BAD)
    assert list(found.qualifiers) == qualifiers(directory="d")
    assert "s3cret" not in repr(assets.index.entries)
    assert logs
    assert "s3cret" not in repr(logs)


async def test_w38_content_older_than_accepted_is_not_found(assets: Assets) -> None:
    assets.put(b"it")
    await assets.push_blob(URI)
    now_s = int(assets.clock.wall_s())
    for offset_s in (-1, 0):
        oldest = Timestamp(seconds=now_s + offset_s)
        assert (await assets.fetch_blob(URI, oldest_content_accepted=oldest)).uri == URI
    newer = Timestamp(seconds=now_s, nanos=1_000_000)
    await assets.hidden(URI, oldest_content_accepted=newer)
    assets.clock.advance(1)
    await assets.push_blob(URI)
    assert (await assets.fetch_blob(URI, oldest_content_accepted=newer)).uri == URI


async def test_expiry_is_told_and_honoured_by_the_wall_clock(assets: Assets) -> None:
    assets.put(b"it")
    expiry = Timestamp(seconds=int(assets.clock.wall_s()) + 10, nanos=500_000_000)
    await assets.push_blob(URI, expire_at=expiry)
    assert (await assets.fetch_blob(URI)).expires_at == expiry
    assets.clock.step_wall(10)
    assert (await assets.fetch_blob(URI)).expires_at == expiry
    assets.clock.step_wall(1)
    await assets.hidden(URI)
    assets.clock.step_wall(-5)
    assert (await assets.fetch_blob(URI)).uri == URI


async def test_w37_an_expiry_in_the_past_is_taken_and_never_served(assets: Assets) -> None:
    assets.put(b"it")
    for past in (Timestamp(seconds=int(assets.clock.wall_s()) - 1), Timestamp()):
        await assets.push_blob(URI, expire_at=past)
        await assets.hidden(URI)
    await assets.push_blob(URI)
    assert not (await assets.fetch_blob(URI)).HasField("expires_at")


@pytest.mark.parametrize(
    "when",
    [Timestamp(seconds=2**62), Timestamp(seconds=-(2**62)), Timestamp(nanos=-1)],
)
async def test_impossible_dates_are_refused(assets: Assets, when: Timestamp) -> None:
    await refused(assets.push_blob(URI, expire_at=when), BAD)
    await refused(assets.push_directory(URI, expire_at=when), BAD)
    await refused(assets.fetch_blob(URI, oldest_content_accepted=when), BAD)


async def test_w38_a_negative_timeout_is_refused(assets: Assets) -> None:
    assets.put(b"it")
    await assets.push_blob(URI)
    for timeout in (Duration(seconds=-1), Duration(nanos=-1)):
        await refused(assets.fetch_blob(URI, timeout=timeout), BAD)
        await refused(assets.fetch_directory(URI, timeout=timeout), BAD)
    for timeout in (Duration(), Duration(seconds=10)):
        assert (await assets.fetch_blob(URI, timeout=timeout)).uri == URI


async def test_bazel_asks_for_any_mirror_with_a_checksum(assets: Assets) -> None:
    digest = assets.put(b"it")
    await assets.push_blob(URI, qualifiers=[sri("sha256", b"it")])
    asked = [sri("sha256", b"it")]
    assert (await assets.fetch_blob("urn:m", URI, qualifiers=asked)).blob_digest == digest
    canonical = asset.Qualifier(name="bazel.canonical_id", value="x")
    await assets.hidden(URI, qualifiers=[*asked, canonical])


async def test_a_checksum_is_compared_with_what_was_pushed_without_one(assets: Assets) -> None:
    assets.put(b"it")
    await assets.push_blob(URI)
    assert (await assets.fetch_blob(URI, qualifiers=[sri("sha256", b"it")])).uri == URI
    await assets.hidden(URI, qualifiers=[sri("sha256", b"other")])


@pytest.mark.parametrize("algorithm", ["sha384", "sha512"])
async def test_a_checksum_of_another_algorithm_is_verified_by_reading(
    assets: Assets, algorithm: str
) -> None:
    assets.put(b"it")
    await assets.push_blob(URI)
    for _ in range(2):
        assert (await assets.fetch_blob(URI, qualifiers=[sri(algorithm, b"it")])).uri == URI
        await assets.hidden(URI, qualifiers=[sri(algorithm, b"other")])
    # Even under the very name it was pushed with.
    await assets.push_blob(URI, qualifiers=[sri(algorithm, b"other")])
    await assets.hidden(URI, qualifiers=[sri(algorithm, b"other")])


async def test_a_checksum_of_a_blake3_blob_is_verified_by_reading(assets: Assets) -> None:
    blake3 = digest_of(b"it", DigestFunction.BLAKE3)
    assets.store.add(blake3, b"it")
    function = DigestFunction.BLAKE3
    await assets.push_blob(URI, blob_digest=message_of(blake3), digest_function=function)
    right, wrong = [sri("sha256", b"it")], [sri("sha256", b"other")]
    assert (await assets.fetch_blob(URI, qualifiers=right, digest_function=function)).uri == URI
    await assets.hidden(URI, qualifiers=wrong, digest_function=function)


async def test_a_blob_too_large_to_verify_is_a_miss(
    assets: Assets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksum, "VERIFY_MAX_BYTES", 1)
    assets.put(b"it")
    await assets.push_blob(URI)
    await assets.hidden(URI, qualifiers=[sri("sha512", b"it")])
    assert (await assets.fetch_blob(URI, qualifiers=[sri("sha256", b"it")])).uri == URI


async def test_a_checksum_that_is_malformed_or_not_the_blob_s_is_refused(assets: Assets) -> None:
    malformed = [asset.Qualifier(name="checksum.sri", value="sha256-nonsense")]
    await refused(assets.push_blob(URI, qualifiers=malformed), BAD)
    await refused(assets.fetch_blob(URI, qualifiers=malformed), BAD)
    await refused(assets.fetch_directory(URI, qualifiers=malformed), BAD)
    await refused(assets.push_blob(URI, qualifiers=[sri("sha256", b"other")]), BAD)


async def test_the_checksum_of_a_directory_is_of_its_archive_and_only_names_it(
    assets: Assets,
) -> None:
    archive = [sri("sha256", b"the archive")]
    await assets.push_directory(URI, qualifiers=archive)
    assert (await assets.fetch_directory(URI, qualifiers=archive)).uri == URI
    await refused(assets.fetch_directory(URI), NOT_FOUND)
