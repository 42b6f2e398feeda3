"""What is said of an entry's closure: what is missing, and where the walk had to stop."""

from collections.abc import Iterable
from typing import cast

import pytest

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.config.model import LimitsConfig
from federation.core.digest import Digest, digest_of
from federation.core.index import Entry
from federation.server.status.closure_report import MISSING_MAX, ClosureReport, closure_of
from federation.storage.contract import Explainer
from federation.wire.action_result import key_of
from tests.support.process_client import action_result, message

KEY = key_of("", digest_of(b"action"))
FILES = [digest_of(bytes([n])) for n in range(30)]


class Held:
    """The part of Explainer that is asked, over a dict."""

    def __init__(self, *blobs: bytes) -> None:
        self.blobs = {digest_of(data): data for data in blobs}

    def missing(self, digests: Iterable[Digest]) -> set[Digest]:
        return set(digests) - self.blobs.keys()

    def read(self, digest: Digest) -> bytes | None:
        return self.blobs.get(digest)


def entry(result: reapi.ActionResult) -> Entry:
    return Entry(KEY, result.SerializeToString(), "label")


def names_files(count: int) -> Entry:
    return entry(action_result([(f"out{n}", FILES[n]) for n in range(count)]))


def directory(files: Iterable[Digest] = (), below: Iterable[bytes] = ()) -> bytes:
    made = reapi.Directory()
    for n, digest in enumerate(files):
        made.files.add(name=f"f{n}", digest=message(digest))
    for n, data in enumerate(below):
        made.directories.add(name=f"d{n}", digest=message(digest_of(data)))
    return made.SerializeToString()


def names_root(data: bytes) -> Entry:
    result = reapi.ActionResult()
    result.output_directories.add(path="out", root_directory_digest=message(digest_of(data)))
    return entry(result)


def report(made: Entry, held: Held, limits: LimitsConfig) -> ClosureReport:
    return closure_of(made, cast("Explainer", held), limits)


def test_everything_is_here() -> None:
    held = Held(*(bytes([n]) for n in range(5)))
    assert report(names_files(5), held, LimitsConfig()) == (True, 5, 0, [], None)


def test_what_is_missing_below_directories_is_named() -> None:
    leaf = directory([FILES[1]])
    root = directory([FILES[0]], [leaf])
    found = report(names_root(root), Held(root, leaf, bytes([0])), LimitsConfig())
    assert (found.complete, found.structures, found.missing) == (False, 2, [FILES[1]])
    found = report(names_root(root), Held(root), LimitsConfig())
    assert set(found.missing) == {FILES[0], digest_of(leaf)}
    assert found.problem is None


def test_the_walk_ends_once_enough_is_missing() -> None:
    found = report(names_files(30), Held(), LimitsConfig())
    assert (found.complete, len(found.missing)) == (False, MISSING_MAX)
    assert found.problem == "more than 20 are missing; the rest was not checked"


def test_exactly_as_many_missing_as_are_shown_is_no_problem() -> None:
    found = report(names_files(MISSING_MAX), Held(), LimitsConfig())
    assert (len(found.missing), found.problem) == (MISSING_MAX, None)


@pytest.mark.parametrize(
    ("made", "limits", "problem"),
    [
        (names_files(3), LimitsConfig(closure_blobs=2), "it names more than 2 blobs"),
        (
            names_root(directory(below=[b"a", b"b"])),
            LimitsConfig(tree_directories=2),
            "it has more than 2 directories",
        ),
        (entry(reapi.ActionResult())._replace(value=b"\xff"), LimitsConfig(), "malformed: "),
    ],
)
def test_what_cannot_be_walked_is_not_complete(
    made: Entry, limits: LimitsConfig, problem: str
) -> None:
    found = report(made, Held(directory(below=[b"a", b"b"])), limits)
    assert found.complete is False
    assert found.problem is not None
    assert found.problem.startswith(problem)
