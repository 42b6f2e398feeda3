"""The quota of a shared site, and what a reload changes of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from federation.config.model import StorageConfig
from federation.core.errors import BlobTooLarge, StorageFull
from tests.storage.conftest import until
from tests.storage.shared.test_large_blobs import fresh, pieces
from tests.support.sites import TestSite

pytestmark = pytest.mark.servers
KIB = 1024


async def test_a_full_site_refuses_writes_and_keeps_none_of_their_objects(
    site: TestSite, tmp_path: Path
) -> None:
    async with site.node(tmp_path / "data", quota=300 * KIB) as node:
        first, first_data = fresh(200 * KIB)
        await node.write(first, pieces(first_data))
        large, large_data = fresh(200 * KIB)
        ingest = node.begin_unsized(large.function)  # its size shows at the end only
        await ingest.append(large_data)
        with capture_logs() as logged, pytest.raises(StorageFull):
            await ingest.commit()
        (told,) = [each for each in logged if each["event"] == "write_refused_for_room"]
        assert told["quota_bytes"] == 300 * KIB
        many = [fresh(16 * KIB) for _ in range(10)]
        with capture_logs() as logged:
            refused = await node.write_small(many)
        assert "write_refused_for_room" not in [each["event"] for each in logged], "once a minute"
        assert all(isinstance(error, StorageFull) for error in refused if error is not None)
        assert any(refused)
        site.sql("UPDATE gone SET due_ms = 0")

        async def only_the_first() -> bool:
            names = await asyncio.to_thread(site.objects)
            return [name for name in names if first.hash_hex not in name] == []

        await until(only_the_first)
        assert await node.find_missing([first, large]) == {large}


async def test_a_reload_changes_the_quota_of_the_site_and_the_bound_of_the_cache(
    site: TestSite, tmp_path: Path
) -> None:
    async with site.node(tmp_path / "data", quota=300 * KIB) as node:
        digest, data = fresh(400 * KIB)
        with pytest.raises(StorageFull):
            await node.write(digest, pieces(data))
        changed = StorageConfig.model_validate(site.keys(quota="1G", cache="2G"))
        node.apply_config(changed)
        assert await node.write(digest, pieces(data))
        assert node.quota_bytes == 2**30
        assert node.core.cache.core.settings.quota == 2 * 2**30


async def test_a_blob_above_max_blob_is_refused(site: TestSite, tmp_path: Path) -> None:
    async with site.node(tmp_path / "data", **{"max-blob": 100 * KIB}) as node:
        digest, _ = fresh(101 * KIB)
        with pytest.raises(BlobTooLarge):
            node.begin(digest)
