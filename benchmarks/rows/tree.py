"""GetTree, and the made-up trees that other rows use too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat

from benchmarks import payloads
from benchmarks.base import CallRow, RowSpec
from benchmarks.link import CAS, expect
from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re_pb2

DIRECTORIES = 1000
_CHILDREN = 10
_PAGE_SIZE = 500  # as BuildGrid's client asks


def build_tree(label: str, directories: int, files_each: int) -> tuple[list[bytes], list[bytes]]:
    """Return (serialised directories with the root last, file contents) of a tree of this size.

    Every directory has files of its own and up to ten directories below it, as in a heap.
    """
    built: dict[int, bytes] = {}
    contents: list[bytes] = []
    for number in reversed(range(directories)):
        directory = re_pb2.Directory()
        for file in range(files_each):
            contents.append(f"{label}, file {file} of directory {number}".encode())
            name = f"file-{file}.txt"
            directory.files.add(name=name, digest=payloads.digest_of(contents[-1]))
        first = number * _CHILDREN + 1
        for child in range(first, min(first + _CHILDREN, directories)):
            name = f"directory-{child:06}"
            directory.directories.add(name=name, digest=payloads.digest_of(built[child]))
        built[number] = directory.SerializeToString()
    return list(built.values()), contents


class GetTree(CallRow):
    """One tree of a thousand different directories with five files each."""

    def set_up(self) -> None:
        """See CallRow."""
        directories, _ = build_tree("tree", DIRECTORIES, files_each=5)
        self.link.upload(directories)
        root = payloads.digest_of(directories[-1])
        request = re_pb2.GetTreeRequest(root_digest=root, page_size=_PAGE_SIZE)
        self._get_tree = self.link.stream(CAS, "GetTree")
        self._request = request.SerializeToString()
        pages = map(re_pb2.GetTreeResponse.FromString, self._get_tree(self._request))
        came = {item.SerializeToString() for page in pages for item in page.directories}
        expect(came == set(directories), f"{len(came)} directories came")

    def calls(self) -> Iterator[Callable[[], object]]:
        """See CallRow."""
        return repeat(partial(self._drain))

    def _drain(self) -> int:
        return sum(len(message) for message in self._get_tree(self._request))


def rows(*, quick: bool) -> list[RowSpec]:
    """Return this module's rows."""
    del quick
    title = f"GetTree, {DIRECTORIES:,} directories"
    return [RowSpec("get-tree-1000", title, GetTree, items=DIRECTORIES, item="directory")]
