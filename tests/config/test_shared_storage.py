"""The keys of the shared storage engine belong together, and no password belongs among them."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from federation.config.file import loads
from federation.config.model import StorageConfig
from federation.core.errors import ConfigError

SHARED: dict[str, Any] = {
    "engine": "shared",
    "catalogue": "postgresql://cache@db/federation",
    "objects": {"bucket": "build-cache"},
    "quota": "1T",
}


def refusal(**changes: Any) -> str:
    with pytest.raises(ValidationError) as refused:
        StorageConfig.model_validate(SHARED | changes)
    return str(refused.value)


def test_the_shared_engine_is_taken_with_what_it_needs() -> None:
    found = StorageConfig.model_validate(SHARED | {"cache": "1G"})
    assert (found.engine, found.cache) == ("shared", 2**30)


@pytest.mark.parametrize("key", ["catalogue", "objects", "quota"])
def test_the_shared_engine_names_what_it_lacks(key: str) -> None:
    assert f"engine: shared needs {key}" in refusal(**{key: None})


def test_keys_of_the_shared_engine_are_refused_without_it() -> None:
    assert "catalogue and objects need engine: shared" in refusal(engine="embedded")


@pytest.mark.parametrize(
    "url", ["postgresql://cache:secret@db/x", "postgresql://cache@db/x?password=secret"]
)
def test_a_password_in_the_url_of_the_catalogue_is_refused(url: str) -> None:
    assert "passfile" in refusal(catalogue=url)


@pytest.mark.parametrize("prefix", ["site", "/site/", "a//"])
def test_a_prefix_has_to_end_like_a_folder(prefix: str) -> None:
    assert "a prefix ends with /" in refusal(objects={"bucket": "build-cache", "prefix": prefix})


@pytest.mark.parametrize("endpoint", ["s3.example.com", "ftp://s3", "https://key@s3.example.com"])
def test_an_endpoint_is_a_plain_url(endpoint: str) -> None:
    objects = {"bucket": "build-cache", "endpoint": endpoint}
    assert "an endpoint is http or https" in refusal(objects=objects)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("catalogue", "postgresql://cache:hush@db/x"),
        ("catalogue", "postgresql://cache@db/x?password=hush"),
        ("objects", '{bucket: build-cache, endpoint: "https://key:hush@s3.example.com"}'),
    ],
)
def test_a_secret_in_the_wrong_place_is_not_shown(key: str, value: str) -> None:
    with pytest.raises(ConfigError) as refused:
        loads(f"storage:\n  engine: shared\n  {key}: {value}\n", Path("node.yaml"), {})
    assert f"storage.{key}" in str(refused.value)
    assert "hush" not in str(refused.value)
