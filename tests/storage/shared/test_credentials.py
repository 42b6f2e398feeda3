"""The key of the bucket in a file, as AWS's tools have it."""

from pathlib import Path

import pytest

from federation.config.storage import ObjectsConfig
from federation.core.errors import StorageRefused
from federation.storage.shared.credentials import BucketKey, read_key
from federation.storage.shared.objects import USUAL_LIMITS, open_store

KEY = "[default]\naws_access_key_id = id\naws_secret_access_key = very%secret\n"


@pytest.mark.parametrize(
    ("token", "key"),
    [
        ("", BucketKey("id", "very%secret")),
        ("aws_session_token = for/an+hour==\n", BucketKey("id", "very%secret", "for/an+hour==")),
    ],
)
def test_requests_are_signed_with_what_the_file_says(
    tmp_path: Path, token: str, key: BucketKey
) -> None:
    file = tmp_path / "credentials"
    file.write_text(KEY + token)
    assert read_key(file) == key
    assert "very" not in repr(key)
    used = open_store(ObjectsConfig(bucket="bucket"), key, USUAL_LIMITS, retries=0).config
    assert used.get("session_token", "") == key.session_token


@pytest.mark.parametrize("text", ["aws_secret_access_key = very%secret", KEY.replace("_id", "")])
def test_a_file_without_a_key_is_refused_and_not_quoted(tmp_path: Path, text: str) -> None:
    file = tmp_path / "credentials"
    file.write_text(text)
    with pytest.raises(StorageRefused, match="needs a section") as refused:
        read_key(file)
    assert "very" not in str(refused.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageRefused, match="absent: No such file"):
        read_key(tmp_path / "absent")
