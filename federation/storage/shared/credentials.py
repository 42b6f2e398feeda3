"""The key of the bucket, read from a file as AWS's tools have it."""

from __future__ import annotations

import configparser
import os
from pathlib import Path
from typing import NamedTuple

from federation.core.errors import StorageRefused

_SECTION = "default"


class BucketKey(NamedTuple):
    """What requests to the bucket are signed with."""

    access_key_id: str
    secret_access_key: str
    session_token: str = ""

    def __repr__(self) -> str:
        return f"<BucketKey {self.access_key_id}>"  # never the secret: it could reach a log


def read_key(path: Path) -> BucketKey:
    """Read the key. Raises StorageRefused, whose message does not quote the file."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(path.read_text())
        section = parser[_SECTION]
        return BucketKey(
            section["aws_access_key_id"],
            section["aws_secret_access_key"],
            section.get("aws_session_token", ""),
        )
    except OSError as error:
        raise StorageRefused(f"the credentials of the bucket: {path}: {error.strerror}") from error
    except (configparser.Error, KeyError, UnicodeDecodeError):
        raise StorageRefused(
            f"{path} needs a section [{_SECTION}] with aws_access_key_id and aws_secret_access_key"
        ) from None


def key_of_environment() -> BucketKey | None:
    """Return the static key that the environment has, as obstore finds it; None: it has none."""
    try:
        return BucketKey(
            os.environ["AWS_ACCESS_KEY_ID"],
            os.environ["AWS_SECRET_ACCESS_KEY"],
            os.environ.get("AWS_SESSION_TOKEN", ""),
        )
    except KeyError:
        return None
