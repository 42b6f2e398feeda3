"""An instance that reads from another shows what that one has, and changes nothing there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from federation.closure.checker import ClosureChecker
from federation.config.instances import InstanceConfig
from federation.config.model import LimitsConfig
from federation.core.clock import ManualClock
from federation.core.digest import Digest, digest_of
from federation.core.index import Entry, EntryKey
from federation.core.provenance import Source
from federation.core.purges import nothing_purged
from federation.upstream.entry_finder import EntryQuery
from federation.upstream.questions import AssetQuestion
from federation.upstream.read_through import InstanceSources, LayeredFinder
from federation.wire.asset_request import entries_of, pushed_of, wanted_by
from tests.support.fakes import MemoryIndex, MemoryStore
from tests.support.local_finder import LocalFinder
from tests.support.messages import message_of
from tests.upstream.finder_site import Here, There, finder_over, there

URI = "urn:test:one"
OURS, THEIRS, FAR = b"ours" * 100, b"theirs" * 100, b"far" * 100
RULES = (InstanceConfig(match="pr/*", reads_from=["main"]),)


class Tiers:
    """A finder over instances that read from each other."""

    def __init__(self, here: Here, rules: Sequence[InstanceConfig]) -> None:
        self.here = here
        self.sources = InstanceSources(rules)
        purged = here.storage.ledger.purges.entries_among
        self.finder = LayeredFinder(here.finder, here.storage, self.sources, purged)

    async def push(self, instance: str, data: bytes, uri: str = URI, *, holds: bool = True) -> None:
        digest = digest_of(data)
        if holds:
            await self.here.storage.write_small([(digest, data)])
        pushed = asset.PushBlobRequest(
            instance_name=instance, uris=[uri], blob_digest=message_of(digest)
        )
        await self.here.storage.put(entries_of(pushed))

    async def find(self, instance: str, uri: str = URI) -> Entry | None:
        request = asset.FetchBlobRequest(instance_name=instance, uris=[uri])
        wanted = wanted_by(request)

        async def is_own(entry: Entry) -> bool:  # as GetActionResult compares
            return entry.key in wanted.keys

        asked = EntryQuery(wanted.keys, is_own, AssetQuestion(request, wanted))
        return await self.finder.find(asked)

    async def fetch(self, instance: str) -> Digest | None:
        return content(await self.find(instance))

    async def held(self, instance: str) -> Entry | None:
        (entry,) = await self.here.storage.get([key_of(instance)])
        return entry


def key_of(instance: str, uri: str = URI) -> EntryKey:
    (key,) = wanted_by(asset.FetchBlobRequest(instance_name=instance, uris=[uri])).keys
    return key


def content(entry: Entry | None) -> Digest | None:
    if entry is None:
        return None
    found = pushed_of(entry)
    assert isinstance(found, asset.PushBlobRequest)
    return Digest(bytes.fromhex(found.blob_digest.hash), found.blob_digest.size_bytes)


@asynccontextmanager
async def tiers(
    path: Path, *upstreams: There, rules: Sequence[InstanceConfig] = RULES
) -> AsyncIterator[Tiers]:
    async with finder_over(path, *upstreams) as here:
        yield Tiers(here, rules)


async def test_an_entry_is_found_where_the_instance_reads_from(tmp_path: Path) -> None:
    async with tiers(tmp_path) as at:
        await at.push("main", OURS)
        found = await at.find("pr/7")
        assert found is not None
        assert (content(found), found.key) == (digest_of(OURS), key_of("pr/7"))
        assert await at.held("pr/7") is None
        assert await at.finder.keys_like([key_of("pr/7")]) == [key_of("pr/7")]


async def test_nothing_is_found_the_other_way_or_elsewhere(tmp_path: Path) -> None:
    async with tiers(tmp_path) as at:
        await at.push("pr/7", OURS)
        for instance in ("main", "pr/8", "", "pr"):
            assert await at.fetch(instance) is None
            assert await at.finder.keys_like([key_of(instance)]) == []


async def test_the_instances_own_entry_wins_and_that_of_the_other_stays(tmp_path: Path) -> None:
    async with tiers(tmp_path) as at:
        await at.push("main", THEIRS)
        before = await at.held("main")
        await at.push("pr/7", OURS)
        assert await at.fetch("pr/7") == digest_of(OURS)
        assert await at.fetch("main") == digest_of(THEIRS)
        assert await at.held("main") == before


async def test_an_own_entry_that_cannot_be_served_hides_nothing(tmp_path: Path) -> None:
    async with tiers(tmp_path) as at:
        await at.push("main", THEIRS)
        await at.push("pr/7", OURS, holds=False)
        assert await at.fetch("pr/7") == digest_of(THEIRS)


async def test_what_was_pushed_there_wins_over_an_upstream_that_is_not_asked(
    tmp_path: Path,
) -> None:
    up = there([], "up")
    up.names(URI, FAR)
    async with tiers(tmp_path, up) as at:
        await at.push("main", THEIRS)
        assert await at.fetch("pr/7") == digest_of(THEIRS)
        assert up.index.asked == 0


async def test_an_upstream_is_asked_once_and_its_answer_kept_in_the_instance_asked(
    tmp_path: Path,
) -> None:
    up = there([], "up")
    up.names(URI, FAR)
    async with tiers(tmp_path, up) as at:
        for _ in range(2):
            assert await at.fetch("pr/7") == digest_of(FAR)
        assert up.index.asked == 1
        assert await at.held("main") is None
        kept = await at.held("pr/7")
        assert kept is not None
        assert kept.source is Source.UPSTREAM


@pytest.mark.parametrize("was_pulled", [False, True])
async def test_no_upstream_brings_back_what_was_purged_there(
    tmp_path: Path, was_pulled: bool
) -> None:
    up = there([], "up")
    up.names(URI, FAR)
    async with tiers(tmp_path, up) as at:
        if was_pulled:
            assert await at.fetch("pr/7") == digest_of(FAR)
        await at.here.storage.ledger.purges.purge([(key_of("main"), URI)], "alice")
        assert await at.fetch("pr/7") is None
        await at.push("main", THEIRS)
        assert await at.fetch("pr/7") == digest_of(THEIRS)


async def test_rules_can_change_and_several_are_followed_in_order(tmp_path: Path) -> None:
    rules = (
        InstanceConfig(match="pr", reads_from=["next", "main"]),
        InstanceConfig(match="next", reads_from=["old"]),
    )
    async with tiers(tmp_path, rules=()) as at:
        await at.push("old", OURS)
        await at.push("main", THEIRS)
        assert await at.fetch("pr") is None
        at.sources.apply_config(rules)
        assert await at.fetch("pr") == digest_of(OURS)


class KnowingIndex(MemoryIndex):
    def lacks_at_once(self, keys: Sequence[EntryKey]) -> bool:
        return not self.entries.keys() & set(keys)


class AtOnce:
    """A finder of entries in memory, which knows everything without waiting."""

    def __init__(self, *rules: InstanceConfig) -> None:
        self.store, self.index = MemoryStore(), KnowingIndex()
        closures = ClosureChecker(self.store, LimitsConfig(), ManualClock(), self.store)
        self.finder = LayeredFinder(
            LocalFinder(self.index, closures), self.index, InstanceSources(rules), nothing_purged
        )
        self.closures = closures

    async def push(self, instance: str, data: bytes, *, holds: bool = True) -> None:
        digest = digest_of(data)
        if holds:
            self.store.blobs[digest] = data
        pushed = asset.PushBlobRequest(
            instance_name=instance, uris=[URI], blob_digest=message_of(digest)
        )
        (entry,) = entries_of(pushed)
        await self.index.put([entry])
        await self.closures.complete(entry)  # it is certain from then on, if it is whole

    def recalled(self, instance: str) -> Digest | None:
        entry = self.finder.recall(key_of(instance))
        assert entry is None or entry.key == key_of(instance)
        return content(entry)


async def test_what_others_have_is_known_at_once_where_the_own_instance_has_nothing() -> None:
    at = AtOnce(InstanceConfig(match="pr", reads_from=["next", "main"]))
    assert at.finder.misses_at_once([key_of("pr")])
    await at.push("main", THEIRS)
    assert at.recalled("pr") == digest_of(THEIRS)
    assert not at.finder.misses_at_once([key_of("pr")])
    assert at.finder.misses_at_once([key_of("next")])
    await at.push("next", FAR)
    assert at.recalled("pr") == digest_of(FAR)
    await at.push("pr", OURS)
    assert at.recalled("pr") == digest_of(OURS)
    assert at.recalled("main") == digest_of(THEIRS)


@pytest.mark.parametrize("instance", ["pr", "next"])
async def test_an_entry_nearer_by_that_cannot_be_served_leaves_it_to_a_look_up(
    instance: str,
) -> None:
    at = AtOnce(InstanceConfig(match="pr", reads_from=["next", "main"]))
    await at.push("main", THEIRS)
    await at.push(instance, OURS, holds=False)
    assert at.recalled("pr") is None
    assert not at.finder.misses_at_once([key_of("pr")])


@pytest.mark.parametrize(
    ("instance", "sources"),
    [
        ("pr/7", ("main",)),
        ("pr/7/kv/app", ("main/kv/app",)),
        ("pr/7/turborepo/team", ("main/turborepo/team",)),
        ("kv/app", ()),
        ("main/gradle", ()),
        ("", ()),
    ],
)
def test_a_rule_holds_for_the_namespaces_below_an_instance(
    instance: str, sources: tuple[str, ...]
) -> None:
    assert InstanceSources(RULES).of(instance) == sources


def test_namespaces_without_an_instance_are_below_the_empty_one() -> None:
    found = InstanceSources([InstanceConfig(match="pr", reads_from=[""])])
    assert found.of("pr/kv/app") == ("kv/app",)
    assert found.of("pr") == ("",)
    other = InstanceSources([InstanceConfig(match="", reads_from=["main"])])
    assert other.of("kv/app") == ("main/kv/app",)
