"""A bucket whose rules delete a site's objects is recognised; see also the signature's example."""

import asyncio
from datetime import UTC, datetime

import pytest

from federation.config.storage import ObjectsConfig
from federation.core.clock import ManualClock
from federation.core.errors import StorageRefused
from federation.storage.shared.bucket_rules import expiry_rule, refuse_expiry
from federation.storage.shared.credentials import BucketKey
from federation.storage.shared.signing import signed_headers

EXPIRES = "<Expiration><Days>30</Days></Expiration>"
LARGER = "<ObjectSizeGreaterThan>1</ObjectSizeGreaterThan>"
ABORTS = (
    "<AbortIncompleteMultipartUpload><DaysAfterInitiation>1</DaysAfterInitiation>"
    "</AbortIncompleteMultipartUpload>"
)
TIDIES = "<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>"


def rules(*each: str) -> bytes:
    shown = "".join(f"<Rule>{rule}</Rule>" for rule in each)
    name = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
    return f"<LifecycleConfiguration {name}>{shown}</LifecycleConfiguration>".encode()


@pytest.mark.parametrize(
    "scope",
    [
        "",
        "<Prefix></Prefix>",
        "<Prefix>site-</Prefix>",
        "<Filter><Prefix>site-1/ab</Prefix></Filter>",
        f"<Filter><And><Prefix>site-1/</Prefix>{LARGER}</And></Filter>",
    ],
)
@pytest.mark.parametrize(
    "expires", [EXPIRES, "<Expiration><Date>2030-01-01T00:00:00Z</Date></Expiration>"]
)
def test_a_rule_that_reaches_the_prefix_of_the_site_is_found(scope: str, expires: str) -> None:
    rule = f"<ID>old</ID><Status>Enabled</Status>{scope}{expires}"
    assert expiry_rule(rules("<Status>Disabled</Status>", rule), "site-1/") == "old"


@pytest.mark.parametrize(
    "rule",
    [
        f"<Status>Disabled</Status>{EXPIRES}",
        f"<Status>Enabled</Status><Filter><Prefix>site-2/</Prefix></Filter>{EXPIRES}",
        f"<Status>Enabled</Status><Filter><Tag><Key>k</Key></Tag></Filter>{EXPIRES}",
        f"<Status>Enabled</Status>{ABORTS}",
        f"<Status>Enabled</Status>{TIDIES}",
    ],
)
def test_a_rule_that_deletes_nothing_of_the_site_is_none(rule: str) -> None:
    assert expiry_rule(rules(rule), "site-1/") is None


def test_rules_that_cannot_be_read_are_no_reason_to_begin() -> None:
    with pytest.raises(StorageRefused):
        expiry_rule(b"<html>", "site-1/")


async def test_the_rules_are_asked_for_through_the_proxy_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readline())
        writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        settings = ObjectsConfig(bucket="builds", endpoint="http://bucket.example.com:9000")
        await refuse_expiry(settings, ManualClock())
    assert heard == [b"GET http://bucket.example.com:9000/builds?lifecycle= HTTP/1.1\r\n"]


def test_a_request_is_signed_as_in_the_example_of_the_manual_of_s3() -> None:
    """Amazon S3 API Reference, "Examples: Signature Calculations": GET Bucket Lifecycle."""
    key = BucketKey("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    headers = signed_headers(
        "https://examplebucket.s3.amazonaws.com/",
        {"lifecycle": ""},
        "us-east-1",
        key,
        datetime(2013, 5, 24, tzinfo=UTC),
    )
    assert headers["authorization"].endswith(
        "Signature=fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
    )
