"""A bucket whose rules delete a site's objects is recognised; see also the signature's example."""

from datetime import UTC, datetime

import pytest

from federation.core.errors import StorageRefused
from federation.storage.shared.bucket_rules import expiry_rule
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
