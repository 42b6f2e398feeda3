"""What the tests of pins store and pin, on whichever storage."""

from __future__ import annotations

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.core.digest import Digest, digest_of
from federation.core.index import NO_STAMP, Entry, Stamp
from federation.core.pins import Pin, PinKind, PinReport, PinTarget
from federation.core.uses import Peek
from federation.wire.action_result import key_of as action_key
from tests.contracts.pins.sites import PinningSite
from tests.support.messages import directory, message_of

LEAF, OTHER = b"a leaf" * 1000, b"another" * 1000
LARGE = b"large leaf" * 10_000
MAIN = PinTarget(PinKind.INSTANCE, "main")
DAY_S = 86_400.0


async def put(site: PinningSite, data: bytes) -> Digest:
    (refused,) = await site.store.write_small([(digest_of(data), data)])
    assert refused is None
    return digest_of(data)


def result(name: bytes, *roots: Digest, instance: str = "main") -> Entry:
    """An action result whose output directories these are."""
    value = reapi.ActionResult(exit_code=1)
    for at, root in enumerate(roots):
        value.output_directories.add(path=f"d{at}", root_directory_digest=message_of(root))
    action = digest_of(name)
    return Entry(action_key(instance, action), value.SerializeToString(), str(action))


async def tree_of(site: PinningSite, *leaves: bytes) -> list[Digest]:
    """Store leaves below a directory in a directory; return the root and all of them."""
    digests = [await put(site, leaf) for leaf in leaves]
    inner = await put(site, directory({f"f{at}": each for at, each in enumerate(digests)}))
    return [await put(site, directory({}, {"sub": inner})), inner, *digests]


def wanted(target: PinTarget = MAIN, until_s: float | None = None) -> Pin:
    return Pin(target, NO_STAMP, "a target", until_s, "why", "alice")


async def pin(
    site: PinningSite, target: PinTarget = MAIN, until_s: float | None = None
) -> PinReport:
    return await site.pins.pin(wanted(target, until_s), site.walker())


async def of_a_peer(site: PinningSite, *, ticks: int = 5, until_s: float | None = None) -> int:
    theirs = wanted(until_s=until_s)._replace(stamp=Stamp(ticks << 16, "peer"))
    return await site.pins.apply([theirs])


async def report(site: PinningSite) -> PinReport:
    (found,) = (await site.asked.report()).pins
    return found


async def held(site: PinningSite, digests: list[Digest]) -> list[Digest]:
    missing = await Peek(site.store).find_missing(digests)
    return [digest for digest in digests if digest not in missing]


async def names(site: PinningSite, *entries: Entry) -> list[bool]:
    found = await site.index.get([entry.key for entry in entries])
    return [each is not None for each in found]
