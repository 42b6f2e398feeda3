from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Collection, Sequence

import pytest
import structlog

from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation._proto.buildstream.v2 import artifact_pb2
from federation.closure import walk as closure_walk
from federation.closure.checker import ClosureChecker
from federation.closure.names import ARTIFACT_URN
from federation.closure.whole import WholeClosures
from federation.config.limits import LiveLimits
from federation.config.model import LimitsConfig
from federation.core.clock import ManualClock
from federation.core.digest import EMPTY, Digest, DigestFunction, digest_of
from federation.core.errors import SourceUnavailable
from federation.core.index import Entry, EntryKey, EntryKind
from federation.core.store import SMALL_BLOB_BYTES
from tests.support.fakes import MemoryStore
from tests.support.messages import directory, message_of, tree


class WatchedStore(MemoryStore):
    """Counts what is asked, and can hold every call back until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[set[Digest]] = []
        self.read: list[list[Digest]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = asyncio.Event()

    async def _pass(self) -> None:
        if not self.gate.is_set():
            self.waiting.set()
            await self.gate.wait()

    async def find_missing(self, digests: Collection[Digest]) -> set[Digest]:
        self.asked.append(set(digests))
        missing = await super().find_missing(digests)
        await self._pass()
        return missing

    async def read_small(self, digests: Sequence[Digest]) -> list[bytes | None]:
        self.read.append(list(digests))
        found = await super().read_small(digests)
        await self._pass()
        return found

    def put(self, data: bytes) -> Digest:
        self.add(digest_of(data), data)
        return digest_of(data)


@pytest.fixture
def store() -> WatchedStore:
    return WatchedStore()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def checker(store: WatchedStore, clock: ManualClock) -> AsyncIterator[ClosureChecker]:
    checker = ClosureChecker(store, LimitsConfig(), clock, store)
    yield checker
    await checker.close()


def action_entry(
    *files: Digest, trees: Sequence[Digest] = (), roots: Sequence[Digest] = (), name: int = 0
) -> Entry:
    result = reapi.ActionResult()
    for file in files:
        result.output_files.add(path="f", digest=message_of(file))
    for each in trees:
        result.output_directories.add(path="t", tree_digest=message_of(each))
    for each in roots:
        result.output_directories.add(path="d", root_directory_digest=message_of(each))
    key = EntryKey(EntryKind.ACTION_RESULT, "", b"\x01" + name.to_bytes(40, "big"))
    return Entry(key, result.SerializeToString(), "action")


def asset_entry(blob: Digest, uri: str, **references: Sequence[Digest]) -> Entry:
    push = asset.PushBlobRequest(blob_digest=message_of(blob))
    for field, digests in references.items():
        getattr(push, field).extend(message_of(each) for each in digests)
    return Entry(EntryKey(EntryKind.ASSET_BLOB, "", bytes(32)), push.SerializeToString(), uri)


def deep(store: WatchedStore, levels: int, twins: int = 1) -> Digest:
    """Store a chain of directories, each naming the next one `twins` times."""
    child = store.put(directory({"leaf": store.put(b"leaf")}))
    for level in range(levels):
        children = {f"{level}-{twin}": child for twin in range(twins)}
        child = store.put(directory({}, children))
    return child


async def test_an_entry_is_complete_only_with_each_file_of_its_tree(
    store: WatchedStore, checker: ClosureChecker
) -> None:
    files = {f"f{n}": store.put(b"%d" % n) for n in range(5)}
    entry = action_entry(trees=[store.put(tree(directory(files)))])
    assert await checker.complete(entry)
    for digest in files.values():
        data = store.blobs[digest]
        store.remove(digest)
        assert not await checker.complete(entry)
        store.put(data)
        assert await checker.complete(entry)


async def test_everything_found_is_leased(store: WatchedStore, checker: ClosureChecker) -> None:
    leaf, root = store.put(b"leaf"), deep(store, 3)
    assert await checker.complete(action_entry(leaf, roots=[root]))
    read = {digest for batch in store.read for digest in batch}  # read_small leases, by contract
    assert store.leased | read >= set(store.blobs)


async def test_w03_the_right_hash_with_another_size_is_not_here(
    store: WatchedStore, checker: ClosureChecker
) -> None:
    digest = store.put(b"file")
    assert not await checker.complete(action_entry(digest._replace(size_bytes=5)))
    assert not await checker.complete(action_entry(digest._replace(size_bytes=0)))
    wrong = store.put(directory({}))
    assert not await checker.complete(action_entry(roots=[wrong._replace(size_bytes=1)]))


async def test_w06_the_empty_blob_directory_and_tree_are_always_here(
    checker: ClosureChecker,
) -> None:
    assert await checker.complete(action_entry(EMPTY, trees=[EMPTY], roots=[EMPTY]))


async def test_w28_blobs_of_another_function_do_not_count(
    store: WatchedStore, checker: ClosureChecker
) -> None:
    data = b"file"
    blake3 = digest_of(data, DigestFunction.BLAKE3)
    store.add(blake3, data)
    key = EntryKey(EntryKind.ACTION_RESULT, "", b"\x09" + bytes(40))
    entry = action_entry(blake3)
    assert not await checker.complete(entry)
    assert await checker.complete(entry._replace(key=key))


async def test_w29_a_diamond_of_40_levels_is_read_once_a_level(
    store: WatchedStore, checker: ClosureChecker
) -> None:
    root = deep(store, 40, twins=2)
    assert await checker.complete(action_entry(roots=[root]))
    assert len(store.read) == 41
    assert all(len(batch) == 1 for batch in store.read)


async def test_w30_a_long_chain_is_walked_without_recursion(
    store: WatchedStore, checker: ClosureChecker
) -> None:
    depth = 3 * sys.getrecursionlimit()
    assert await checker.complete(action_entry(roots=[deep(store, depth)]))


@pytest.mark.parametrize(
    ("data", "as_tree"),
    [
        (directory({"a": EMPTY}), True),
        (tree(directory({"a": EMPTY}, {"d": EMPTY})), False),
        (b"\x9f\x13 random", True),
        (b"\x9f\x13 random", False),
    ],
)
async def test_w32_confused_types_are_incomplete(
    store: WatchedStore, checker: ClosureChecker, data: bytes, as_tree: bool
) -> None:
    digest = store.put(data)
    entry = action_entry(trees=[digest]) if as_tree else action_entry(roots=[digest])
    assert not await checker.complete(entry)


async def test_w32_an_action_result_that_names_its_own_action_as_output(
    store: WatchedStore, checker: ClosureChecker
) -> None:
    action = store.put(reapi.Action(command_digest=message_of(digest_of(b"c"))).SerializeToString())
    assert await checker.complete(action_entry(action))  # as a file it is one
    assert not await checker.complete(action_entry(trees=[action]))
    assert not await checker.complete(action_entry(roots=[action]))


async def test_an_artifact_is_complete_without_its_build_tree_unless_that_is_referenced(
    store: WatchedStore, checker: ClosureChecker
) -> None:
    build_tree = directory({"o": digest_of(b"object file")})
    proto = artifact_pb2.Artifact(
        version=2,
        files=message_of(store.put(directory({"bin": store.put(b"bin")}))),
        buildtree=message_of(digest_of(build_tree)),
        low_diversity_meta=message_of(store.put(b"low")),
        high_diversity_meta=message_of(store.put(b"high")),
    )
    blob = store.put(proto.SerializeToString())
    uri = ARTIFACT_URN + "project/element/key"
    assert await checker.complete(asset_entry(blob, uri))
    referencing = asset_entry(blob, uri, references_directories=[digest_of(build_tree)])
    assert not await checker.complete(referencing)
    store.put(build_tree)
    assert not await checker.complete(referencing)
    store.put(b"object file")
    assert await checker.complete(referencing)


@pytest.mark.parametrize("gone", [b"bin", b"low", b"high", b"public", b"log"])
async def test_w34_an_artifact_is_incomplete_without_any_of_its_parts(
    store: WatchedStore, checker: ClosureChecker, gone: bytes
) -> None:
    proto = artifact_pb2.Artifact(
        version=2,
        files=message_of(store.put(directory({"bin": store.put(b"bin")}))),
        public_data=message_of(store.put(b"public")),
        low_diversity_meta=message_of(store.put(b"low")),
        high_diversity_meta=message_of(store.put(b"high")),
        logs=[artifact_pb2.Artifact.LogFile(name="l", digest=message_of(store.put(b"log")))],
    )
    entry = asset_entry(store.put(proto.SerializeToString()), ARTIFACT_URN + "p/e/k")
    assert await checker.complete(entry)
    store.remove(digest_of(gone))
    assert not await checker.complete(entry)


async def test_a_structure_too_large_for_read_small_is_streamed(
    store: WatchedStore, checker: ClosureChecker
) -> None:
    leaf = store.put(b"leaf")
    data = directory({f"{n}-{'x' * 1000}": leaf for n in range(SMALL_BLOB_BYTES // 1000)})
    assert len(data) > SMALL_BLOB_BYTES
    large = store.put(data)
    for entry in (
        action_entry(roots=[large]),
        action_entry(trees=[store.put(tree(directory({}, {"d": large}), data))]),
    ):
        assert await checker.complete(entry)
    assert not store.read
    assert large in store.leased
    store.remove(leaf)
    assert not await checker.complete(action_entry(roots=[large]))


async def test_a_structure_that_is_absurdly_large_is_not_read(
    store: WatchedStore, checker: ClosureChecker
) -> None:
    absurd = digest_of(b"x")._replace(size_bytes=closure_walk.STRUCTURE_MAX_BYTES + 1)
    store.blobs[absurd] = b"x"
    with structlog.testing.capture_logs() as logs:
        assert not await checker.complete(action_entry(roots=[absurd]))
    assert [line["event"] for line in logs] == ["closure_too_large"]


def _of_blobs(store: WatchedStore, count: int) -> Entry:
    return action_entry(*(store.put(b"%d" % n) for n in range(count)))


def _of_directories(store: WatchedStore, count: int) -> Entry:
    return action_entry(roots=[store.put(directory({f"{n}": EMPTY})) for n in range(count)])


def _of_directories_in_a_tree(store: WatchedStore, count: int) -> Entry:
    children = [directory({f"{n}": EMPTY}) for n in range(count - 2)]  # besides Tree and its root
    return action_entry(trees=[store.put(tree(directory({}), *children))])


@pytest.mark.parametrize(
    ("limit", "make"),
    [
        ("closure_blobs", _of_blobs),
        ("tree_directories", _of_directories),
        ("tree_directories", _of_directories_in_a_tree),
    ],
)
async def test_beyond_a_limit_an_entry_is_hidden_and_that_is_said_once(
    store: WatchedStore, clock: ManualClock, limit: str, make: Callable[[WatchedStore, int], Entry]
) -> None:
    checker = ClosureChecker(store, LimitsConfig.model_validate({limit: 10}), clock, store)
    with structlog.testing.capture_logs() as logs:
        assert await checker.complete(make(store, 10))
        assert not await checker.complete(make(store, 11))
        assert not await checker.complete(make(store, 11))
    assert [line["event"] for line in logs] == ["closure_too_large"]
    await checker.close()


async def test_what_was_whole_is_not_looked_up_while_the_store_is_certain(
    store: WatchedStore, checker: ClosureChecker
) -> None:
    entry = action_entry(store.put(b"a"), roots=[deep(store, 3)])
    for _ in range(3):
        assert await checker.complete(entry)
    assert (len(store.asked), len(store.read)) == (1, 4), "it was walked again"


async def test_each_hit_leases_all_that_the_entry_names(
    store: WatchedStore, checker: ClosureChecker
) -> None:
    root = deep(store, 3)
    entry = action_entry(
        EMPTY, store.put(b"a"), trees=[store.put(tree(directory({})))], roots=[root]
    )
    assert await checker.complete(entry)
    store.leased.clear()
    assert await checker.complete(entry)
    assert store.leased == set(store.blobs)


async def test_one_look_up_checks_a_closure_again_when_something_is_gone(
    store: WatchedStore, checker: ClosureChecker
) -> None:
    entry = action_entry(store.put(b"a"), roots=[deep(store, 3)])
    assert await checker.complete(entry)
    named = set(store.blobs)
    store.remove(store.put(b"other"))
    store.asked.clear()
    store.read.clear()
    assert await checker.complete(entry)
    assert (store.asked, store.read) == ([named], [])
    assert await checker.complete(entry)
    assert len(store.asked) == 1, "the look-up did not make it certain again"


@pytest.mark.parametrize("level", range(5))
async def test_w35_whatever_is_gone_hides_the_entry_until_it_is_back(
    store: WatchedStore, checker: ClosureChecker, level: int
) -> None:
    entry = action_entry(store.put(b"a"), roots=[deep(store, 3)])
    named = list(store.blobs.items())
    digest, data = named[level]
    assert await checker.complete(entry)
    store.remove(digest)
    for _ in range(2):
        assert not await checker.complete(entry)
    store.put(data)
    for _ in range(2):
        assert await checker.complete(entry)


async def test_a_large_closure_is_walked_again_when_something_is_gone(
    store: WatchedStore, checker: ClosureChecker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WholeClosures, "DIGESTS_MAX", 10)
    entry = action_entry(*(store.put(b"%d" % n) for n in range(11)))
    for _ in range(2):
        assert await checker.complete(entry)
    assert len(store.asked) == 1
    store.remove(digest_of(b"0"))
    assert not await checker.complete(entry)
    store.put(b"0")
    assert await checker.complete(entry)


async def test_what_goes_during_a_look_up_is_not_covered_by_it(
    store: WatchedStore, checker: ClosureChecker
) -> None:
    gone = store.put(b"gone")
    entry = action_entry(gone)
    assert await checker.complete(entry)
    store.epoch += 1
    store.gate.clear()
    again = asyncio.ensure_future(checker.complete(entry))
    await store.waiting.wait()
    store.remove(gone)
    store.gate.set()
    await again
    assert not await checker.complete(entry)


async def test_a_closure_is_walked_again_from_time_to_time(
    store: WatchedStore, checker: ClosureChecker, clock: ManualClock
) -> None:
    entry = action_entry(roots=[deep(store, 3)])
    assert await checker.complete(entry)
    clock.advance(600.0)
    assert await checker.complete(entry)
    assert len(store.read) == 4
    clock.advance(0.1)
    assert await checker.complete(entry)
    assert len(store.read) == 8


async def test_a_reload_that_lowers_a_limit_hides_what_was_whole(
    store: WatchedStore, clock: ManualClock
) -> None:
    limits = LiveLimits()
    checker = ClosureChecker(store, limits, clock, store)
    entry = action_entry(*(store.put(b"%d" % n) for n in range(11)))
    assert await checker.complete(entry)
    limits.apply_config(LimitsConfig(closure_blobs=10))
    assert not await checker.complete(entry)
    limits.apply_config(LimitsConfig())
    assert await checker.complete(entry)
    await checker.close()


async def test_nothing_is_remembered_of_what_upstreams_have(
    store: WatchedStore, clock: ManualClock
) -> None:
    checker = ClosureChecker(store, LimitsConfig(), clock, None)
    entry = action_entry(store.put(b"a"))
    for _ in range(3):
        assert await checker.complete(entry)
    assert len(store.asked) == 3
    await checker.close()


async def test_incomplete_is_never_remembered(store: WatchedStore, checker: ClosureChecker) -> None:
    entry = action_entry(digest_of(b"a"))
    assert not await checker.complete(entry)
    store.put(b"a")
    assert await checker.complete(entry)


async def test_a_verdict_is_about_one_value_of_one_entry(
    store: WatchedStore, checker: ClosureChecker
) -> None:
    whole, holed = action_entry(store.put(b"a")), action_entry(digest_of(b"b"))
    assert await checker.complete(whole)
    assert not await checker.complete(holed)
    assert not await checker.complete(holed._replace(key=whole.key))


async def test_what_goes_during_a_walk_is_not_covered_by_its_verdict(
    store: WatchedStore, checker: ClosureChecker
) -> None:
    gone = store.put(b"gone")
    entry = action_entry(gone)
    store.gate.clear()
    walk = asyncio.ensure_future(checker.complete(entry))
    await store.waiting.wait()
    store.remove(gone)
    store.gate.set()
    await walk
    assert not await checker.complete(entry)


@pytest.mark.parametrize("size", [1, 1000])
async def test_w35_a_closure_is_looked_up_each_time_where_files_are_not_watched(
    store: WatchedStore, checker: ClosureChecker, size: int
) -> None:
    store.is_certain = False
    entry = action_entry(*(store.put(b"%d" % n) for n in range(size)))
    assert await checker.complete(entry)
    del store.blobs[digest_of(b"0")]  # behind the node's back: no epoch moves
    assert not await checker.complete(entry)


async def test_what_is_remembered_is_bounded(store: WatchedStore, clock: ManualClock) -> None:
    closures = WholeClosures(clock, room_bytes=100_000)
    digests = [store.put(b"%d" % n) for n in range(100)]
    for n in range(100):
        closures.add(b"%d" % n, store.watch(), (1, 1), digests)
        assert closures.size_bytes <= 100_000
        assert closures.get(b"0", (1, 1)), "the one used last is gone"
    assert closures.get(b"99", (1, 1))
    assert closures.get(b"50", (1, 1)) is None
    assert 10 < len(closures) < 30
    kept = closures.get(b"0", (1, 1))
    assert kept is not None
    assert set(kept.digests()) == set(digests)


async def test_those_who_ask_at_once_share_one_walk(
    store: WatchedStore, checker: ClosureChecker
) -> None:
    entry = action_entry(*(store.put(b"%d" % n) for n in range(100)))  # small ones share none
    store.gate.clear()
    asking = [asyncio.ensure_future(checker.complete(entry)) for _ in range(20)]
    await store.waiting.wait()
    assert repr(checker) == "<ClosureChecker 0 whole, 1 walks>"
    store.gate.set()
    assert await asyncio.gather(*asking) == [True] * 20
    assert len(store.asked) == 1


async def test_a_caller_that_leaves_does_not_break_the_others(
    store: WatchedStore, checker: ClosureChecker
) -> None:
    entry = action_entry(*(store.put(b"%d" % n) for n in range(100)))  # small ones share none
    store.gate.clear()
    first, second = (asyncio.ensure_future(checker.complete(entry)) for _ in range(2))
    await store.waiting.wait()
    first.cancel()
    await asyncio.wait([first])
    assert first.cancelled()
    store.gate.set()
    assert await second
    assert len(store.asked) == 1


async def test_l18_a_walk_stops_with_the_last_who_waits(
    store: WatchedStore, checker: ClosureChecker
) -> None:
    leaves = {f"{n}": store.put(b"%d" % n) for n in range(10 * closure_walk._LEAVES)}
    entry = action_entry(roots=[store.put(directory(leaves))])
    store.gate.clear()
    asking = [asyncio.ensure_future(checker.complete(entry)) for _ in range(2)]
    await store.waiting.wait()
    for each in asking:
        each.cancel()
    await asyncio.wait(asking)
    assert repr(checker) == "<ClosureChecker 0 whole, 0 walks>"
    store.gate.set()
    for _ in range(100):
        await asyncio.sleep(0)
    assert not store.asked  # it was reading the directory, and has not gone on to its files
    assert await checker.complete(entry)
    assert len(store.asked) == 10


@pytest.mark.parametrize("directories", [1, 50])  # read in a thread, and on the loop
@pytest.mark.slow
async def test_l18_a_walk_over_100_000_files_lets_the_loop_run(
    store: WatchedStore, checker: ClosureChecker, directories: int
) -> None:
    leaves = [store.put(b"%d" % n) for n in range(100_000)]
    step = len(leaves) // directories
    roots = [
        store.put(directory({f"{n}": leaf for n, leaf in enumerate(leaves[at : at + step])}))
        for at in range(0, len(leaves), step)
    ]
    turns = 0
    asking = asyncio.ensure_future(checker.complete(action_entry(roots=roots)))
    while not asking.done():
        turns += 1
        await asyncio.sleep(0)
    assert await asking
    assert turns >= 100


async def test_who_joins_a_walk_late_sees_a_hole_filled_before(
    store: WatchedStore, checker: ClosureChecker
) -> None:
    hole = digest_of(b"hole")
    entry = action_entry(hole, *(store.put(b"%d" % n) for n in range(100)))  # no small one
    store.gate.clear()
    early = asyncio.ensure_future(checker.complete(entry))
    await store.waiting.wait()  # it has been told by now that the hole is missing
    assert store.put(b"hole") == hole
    late = asyncio.ensure_future(checker.complete(entry))
    await asyncio.sleep(0)
    assert repr(checker) == "<ClosureChecker 0 whole, 1 walks>", "it has not joined"
    store.gate.set()
    assert not await early
    assert await late


async def test_a_store_that_cannot_tell_is_not_one_with_a_hole() -> None:
    class Silent(WatchedStore):
        async def find_missing(self, digests: Collection[Digest]) -> set[Digest]:
            raise SourceUnavailable("disk", "gone")

    silent = Silent()
    checker = ClosureChecker(silent, LimitsConfig(), ManualClock(), silent)
    with pytest.raises(SourceUnavailable):
        await checker.complete(action_entry(digest_of(b"a")))
    await checker.close()


async def test_walks_over_something_large_run_one_at_a_time(
    store: WatchedStore, checker: ClosureChecker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closure_walk, "_LARGE_WALK_STRUCTURES", 1)
    entries = [
        action_entry(roots=[deep(store, 3), store.put(directory({f"{n}": EMPTY}))], name=n)
        for n in range(4)
    ]
    store.gate.clear()
    asking = [asyncio.ensure_future(checker.complete(each)) for each in entries]
    await store.waiting.wait()
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(store.read) == 1
    asking[0].cancel()
    store.gate.set()
    assert await asyncio.gather(*asking[1:]) == [True] * 3
