"""Without its packages the shared engine says which are missing."""

from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from federation.config.model import StorageConfig
from federation.core.errors import StorageRefused
from federation.storage import factory
from tests.config.test_shared_storage import SHARED


def absent(name: str) -> ModuleSpec | None:
    return None if name == "obstore" else ModuleSpec(name, None)


def test_a_package_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(factory, "find_spec", absent)
    with pytest.raises(StorageRefused, match="needs obstore: pip install"):
        factory.operations_on(tmp_path, StorageConfig.model_validate(SHARED))


def test_the_embedded_engine_needs_none_of_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(factory, "find_spec", lambda _: None)
    factory.operations_on(tmp_path, StorageConfig())
