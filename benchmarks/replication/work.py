"""What is pushed at the sender, and how it is found out when the peer has it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from benchmarks import payloads
from benchmarks.link import CAS, Link, expect
from benchmarks.payloads import KIB
from benchmarks.replication.site import Site
from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re_pb2

BLOB_BYTES = 4 * KIB
_THERE_WITHIN_S = 120.0
_ASKED_EVERY_S = 0.01
_ASKED_AT_ONCE = 5000  # digests
_LAST = 100  # asked for again and again: with more of them the peer would mostly answer us


def blobs(label: str, count: int) -> list[bytes]:
    """Return small blobs that are new for each label."""
    return [payloads.blob(f"{label}/{number}", BLOB_BYTES) for number in range(count)]


def burst(site: Site, label: str, count: int) -> float:
    """Return the seconds from the last OK of the sender until the peer has all blobs."""
    pushed = blobs(label, count)
    names = [payloads.digest_of(data) for data in pushed]
    there = Link(site.peer.address)
    here = Link(site.sender.address)
    here.upload(pushed)
    began = time.perf_counter()
    wait_until_there(there, names, began)
    took_s = time.perf_counter() - began
    _check(there, pushed, names)
    here.close()
    there.close()
    return took_s


def catch_up(site: Site, label: str, count: int) -> float:
    """Return the seconds from the peer's return until it has all that came while it was away."""
    pushed = blobs(label, count)
    names = [payloads.digest_of(data) for data in pushed]
    here = Link(site.sender.address)
    site.frozen(lambda: here.upload(pushed))
    began = time.perf_counter()
    there = Link(site.peer.address)
    wait_until_there(there, names, began)
    took_s = time.perf_counter() - began
    _check(there, pushed, names)
    here.close()
    there.close()
    return took_s


def push(address: str, label: str, count: int) -> list[float]:
    """Return the seconds of each push of one small blob, one after the other."""
    link = Link(address)
    update = link.unary(CAS, "BatchUpdateBlobs")
    requests = [payloads.batch_update([data]) for data in blobs(label, count)]
    took = []
    for request in requests:
        began = time.perf_counter()
        update(request)
        took.append(time.perf_counter() - began)
    link.close()
    return took


def wait_until_there(link: Link, names: Sequence[re_pb2.Digest], began: float) -> None:
    """Ask until nothing is missing; raises WrongAnswerError after two minutes."""
    find = link.unary(CAS, "FindMissingBlobs")
    left = list(names)
    while left:
        expect(time.perf_counter() - began < _THERE_WITHIN_S, f"{len(left)} blobs did not come")
        # As a rule the last ones come last: while they are missing the others need not be asked.
        last = _missing(find, left[-_LAST:])
        left = [*left[:-_LAST], *last]
        if last:
            time.sleep(_ASKED_EVERY_S)
            continue
        parts = (left[at : at + _ASKED_AT_ONCE] for at in range(0, len(left), _ASKED_AT_ONCE))
        left = [name for part in parts for name in _missing(find, part)]


def _missing(find: Callable[[bytes], bytes], names: Sequence[re_pb2.Digest]) -> list[re_pb2.Digest]:
    """Ask once for all of them."""
    answer = re_pb2.FindMissingBlobsResponse.FromString(find(payloads.find_missing(names)))
    return list(answer.missing_blob_digests)


def _check(link: Link, pushed: Sequence[bytes], names: Sequence[re_pb2.Digest]) -> None:
    """Prove a sample of what came right."""
    step = max(1, len(pushed) // 100)
    answer = link.unary(CAS, "BatchReadBlobs")(payloads.batch_read(names[::step]))
    items = re_pb2.BatchReadBlobsResponse.FromString(answer).responses
    expect({item.data for item in items} == set(pushed[::step]), "other blobs came")
