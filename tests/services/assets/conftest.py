from __future__ import annotations

import pytest

from federation.closure.checker import ClosureChecker
from federation.config.model import LimitsConfig
from federation.core.clock import ManualClock
from federation.observability.metrics import Metrics
from federation.services.checksum import ChecksumVerifier
from federation.services.references import ReferenceService
from federation.services.remote_asset import FetchService, PushService
from tests.services.assets.served import Assets, MakeAssets
from tests.services.conftest import Serve
from tests.support.fakes import MemoryIndex, MemoryStore
from tests.support.local_finder import LocalFinder


@pytest.fixture
def make_assets(serve: Serve, store: MemoryStore) -> MakeAssets:
    async def make(may_push: bool = True, index: MemoryIndex | None = None) -> Assets:
        metrics, clock = Metrics(), ManualClock()
        index = index or MemoryIndex(clock)
        closures = ClosureChecker(store, LimitsConfig(), clock, store)
        checksums = ChecksumVerifier(store)
        fetch = FetchService(LocalFinder(index, closures), checksums, clock, metrics)
        push = PushService(index, checksums)
        references = ReferenceService(fetch, push)
        served = await serve(fetch, push, references, may_push=may_push, metrics=metrics)
        return Assets(served, store, index, clock)

    return make


@pytest.fixture
async def assets(make_assets: MakeAssets) -> Assets:
    return await make_assets()
