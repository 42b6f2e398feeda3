"""What tests need that break a node, its files or its disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.storage.disks import Disk, tmpfs
from tests.support.oracle import Oracle

_FILE_BYTES = 300_000  # more than fits the catalogue: such a blob is a file


@pytest.fixture
def oracle(tmp_path: Path) -> Iterator[Oracle]:
    with Oracle(tmp_path / "acknowledged.jsonl") as journal:
        yield journal


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 64 MiB."""
    _need_root()
    with tmpfs(tmp_path / "small", size="64m") as mounted:
        yield mounted


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """ext4 on a loop device."""
    _need_root()
    with Disk(tmp_path) as mounted:
        yield mounted


def _need_root() -> None:
    if os.geteuid() != 0:
        pytest.fail("this test mounts a file system and needs root")


def file_blob(size: int = _FILE_BYTES) -> bytes:
    """Random bytes that the node keeps as a file."""
    return os.urandom(size)


def small_blob(size: int = 1000) -> bytes:
    """Random bytes that the node keeps inside the catalogue."""
    return os.urandom(size)
