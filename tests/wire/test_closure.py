from __future__ import annotations

from collections.abc import Iterator

import pytest

from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation._proto.buildstream.v2 import artifact_pb2, source_pb2
from federation.closure.names import (
    ARTIFACT_URN,
    SLICE,
    SOURCE_URN,
    Names,
    Shape,
    Structure,
    names_of_action_result,
    names_of_entry,
    names_of_structure,
)
from federation.core.digest import EMPTY, Digest, DigestFunction, digest_of
from federation.core.errors import InvalidRequest
from federation.core.index import Entry, EntryKey, EntryKind
from federation.wire.protobuf import length_field
from tests.support.messages import directory, message_of, tree

SHA256 = DigestFunction.SHA256


def blob(text: str) -> Digest:
    return digest_of(text.encode())


def gathered(parts: Iterator[Names]) -> tuple[set[Digest], set[Structure]]:
    blobs: set[Digest] = set()
    structures: set[Structure] = set()
    for names in parts:
        blobs.update(names.blobs)
        structures.update(names.structures)
    return blobs, structures


def read(shape: Shape, data: bytes) -> tuple[set[Digest], set[Structure]]:
    return gathered(names_of_structure(shape, data, SHA256))


def action_entry(result: reapi.ActionResult, function: DigestFunction = SHA256) -> Entry:
    key = EntryKey(EntryKind.ACTION_RESULT, "", bytes((function,)) + bytes(40))
    return Entry(key, result.SerializeToString(), "")


def test_a_directory_names_its_files_and_subdirectories() -> None:
    data = directory({"a": blob("a"), "b": blob("b")}, {"d": blob("d")})
    assert read(Shape.DIRECTORY, data) == (
        {blob("a"), blob("b")},
        {(Shape.DIRECTORY, blob("d"))},
    )


def test_a_large_directory_comes_in_slices() -> None:
    data = directory({f"file{n}": blob(str(n)) for n in range(2 * SLICE + 1)})
    sizes = [len(names.blobs) for names in names_of_structure(Shape.DIRECTORY, data, SHA256)]
    assert sizes == [SLICE, SLICE, 1]


def test_node_properties_and_symlinks_name_nothing() -> None:
    message = reapi.Directory()
    message.symlinks.add(name="link", target="../elsewhere")
    message.node_properties.unix_mode.value = 0o755
    assert read(Shape.DIRECTORY, message.SerializeToString()) == (set(), set())


def test_fields_of_a_later_specification_are_skipped_beside_known_ones() -> None:
    data = directory({"a": blob("a")}) + length_field(99, b"\xff\x00")
    assert read(Shape.DIRECTORY, data)[0] == {blob("a")}


def test_a_digest_is_of_the_function_of_its_closure() -> None:
    data = directory({"a": blob("a")})
    parts = names_of_structure(Shape.DIRECTORY, data, DigestFunction.BLAKE3)
    assert gathered(parts)[0] == {blob("a")._replace(function=DigestFunction.BLAKE3)}


def test_a_tree_names_the_files_of_all_its_directories() -> None:
    leaf = directory({"leaf": blob("leaf")})
    middle = directory({"middle": blob("middle")}, {"leaf": digest_of(leaf)})
    root = directory({"top": blob("top")}, {"middle": digest_of(middle)})
    assert read(Shape.TREE, tree(root, middle, leaf)) == (
        {blob("leaf"), blob("middle"), blob("top")},
        set(),
    )


def test_a_tree_that_lacks_a_child_is_none() -> None:
    gone = directory({"f": blob("f")})
    between = directory({}, {"gone": digest_of(gone)})
    root = directory({}, {"between": digest_of(between)})
    for parts in ((root,), (root, between), (root, gone)):
        with pytest.raises(InvalidRequest, match="not a whole Tree"):
            read(Shape.TREE, tree(*parts))
    assert read(Shape.TREE, tree(root, gone, between)) == ({blob("f")}, set())


def test_a_tree_need_not_hold_the_empty_directory() -> None:
    assert read(Shape.TREE, tree(directory({}, {"empty": EMPTY}))) == (set(), set())


def test_a_tree_root_in_two_fields_is_one_root() -> None:
    first, second = directory({"a": blob("a")}), directory({"b": blob("b")})
    assert read(Shape.TREE, tree(first) + tree(second))[0] == {blob("a"), blob("b")}


def test_a_tree_counts_its_directories() -> None:
    child = directory({"a": blob("a")})
    data = tree(directory({}, {"x": digest_of(child)}), *[child] * 50)
    parts = list(names_of_structure(Shape.TREE, data, SHA256))
    assert sum(names.directories_held for names in parts) == 51
    assert not any(names.structures for names in parts)


@pytest.mark.parametrize("child", [b"", directory({}, {"empty": EMPTY})])
def test_a_tree_of_many_directories_without_files_still_comes_in_slices(child: bytes) -> None:
    data = tree(directory({}), *[child] * (3 * SLICE))
    parts = list(names_of_structure(Shape.TREE, data, SHA256))
    held = [names.directories_held for names in parts]
    assert sum(held) == 3 * SLICE + 1
    assert max(held) <= SLICE
    slices = 3 + (3 if child else 0)  # what is named is looked for in a second pass
    assert len(parts) > slices


def test_the_empty_message_is_an_empty_directory_and_an_empty_tree() -> None:
    assert read(Shape.DIRECTORY, b"") == (set(), set())
    assert read(Shape.TREE, b"") == (set(), set())
    assert read(Shape.TREE, tree(b"")) == (set(), set())


def artifact() -> artifact_pb2.Artifact:
    return artifact_pb2.Artifact(
        version=2,
        files=message_of(blob("files")),
        buildtree=message_of(blob("buildtree")),
        sources=message_of(blob("sources")),
        buildroot=message_of(blob("buildroot")),
        public_data=message_of(blob("public")),
        low_diversity_meta=message_of(blob("low")),
        high_diversity_meta=message_of(blob("high")),
        logs=[artifact_pb2.Artifact.LogFile(name="log", digest=message_of(blob("log")))],
    )


def test_an_artifact_names_what_every_pull_needs_and_not_its_build_tree() -> None:
    assert read(Shape.ARTIFACT, artifact().SerializeToString()) == (
        {blob("public"), blob("low"), blob("high"), blob("log")},
        {(Shape.DIRECTORY, blob("files"))},
    )


def test_a_failed_build_has_an_artifact_without_files() -> None:
    message = artifact()
    message.ClearField("files")
    assert read(Shape.ARTIFACT, message.SerializeToString())[1] == set()


def test_a_source_names_its_files() -> None:
    data = source_pb2.Source(version=1, files=message_of(blob("files"))).SerializeToString()
    assert read(Shape.SOURCE, data) == (set(), {(Shape.DIRECTORY, blob("files"))})


def test_an_action_result_names_files_trees_roots_stdout_and_stderr() -> None:
    result = reapi.ActionResult(
        output_files=[reapi.OutputFile(path="o", digest=message_of(blob("o")))],
        output_directories=[
            reapi.OutputDirectory(path="t", tree_digest=message_of(blob("t"))),
            reapi.OutputDirectory(path="r", root_directory_digest=message_of(blob("r"))),
        ],
        stdout_digest=message_of(blob("out")),
        stderr_digest=message_of(EMPTY),
    )
    assert gathered(names_of_entry(action_entry(result))) == (
        {blob("o"), blob("out"), EMPTY},
        {(Shape.TREE, blob("t")), (Shape.DIRECTORY, blob("r"))},
    )


def test_an_action_result_of_symlinks_only_or_of_nothing_names_nothing() -> None:
    links = reapi.ActionResult(output_symlinks=[reapi.OutputSymlink(path="a", target="b")])
    for result in (links, reapi.ActionResult(), reapi.ActionResult(exit_code=1)):
        assert gathered(names_of_entry(action_entry(result))) == (set(), set())


def test_names_of_a_blake3_action_result_are_blake3() -> None:
    result = reapi.ActionResult(stdout_digest=message_of(blob("out")))
    names, _ = gathered(names_of_entry(action_entry(result, DigestFunction.BLAKE3)))
    assert {each.function for each in names} == {DigestFunction.BLAKE3}


def asset_entry(push: asset.PushBlobRequest | asset.PushDirectoryRequest, uri: str) -> Entry:
    is_blob = isinstance(push, asset.PushBlobRequest)
    kind = EntryKind.ASSET_BLOB if is_blob else EntryKind.ASSET_DIRECTORY
    return Entry(EntryKey(kind, "", bytes(32)), push.SerializeToString(), uri)


def test_an_asset_names_its_content_and_its_references() -> None:
    push = asset.PushBlobRequest(
        blob_digest=message_of(blob("it")),
        references_blobs=[message_of(blob("ref"))],
        references_directories=[message_of(blob("dir"))],
    )
    assert gathered(names_of_entry(asset_entry(push, "https://example.com/it"))) == (
        {blob("it"), blob("ref")},
        {(Shape.DIRECTORY, blob("dir"))},
    )


@pytest.mark.parametrize(
    ("urn", "shape"), [(ARTIFACT_URN, Shape.ARTIFACT), (SOURCE_URN, Shape.SOURCE)]
)
def test_a_blob_behind_a_buildstream_urn_is_read_as_what_it_is(urn: str, shape: Shape) -> None:
    push = asset.PushBlobRequest(blob_digest=message_of(blob("it")))
    assert gathered(names_of_entry(asset_entry(push, urn + "p/e/key"))) == (
        set(),
        {(shape, blob("it"))},
    )


def test_a_directory_asset_names_its_root_whatever_its_urn() -> None:
    push = asset.PushDirectoryRequest(root_directory_digest=message_of(blob("root")))
    for uri in (f"{SOURCE_URN}local/key", "urn:fdc:buildstream.build:2020:v1:p/e/k"):
        assert gathered(names_of_entry(asset_entry(push, uri))) == (
            set(),
            {(Shape.DIRECTORY, blob("root"))},
        )


ACTION = reapi.Action(
    command_digest=message_of(blob("command")), input_root_digest=message_of(blob("root"))
)
FULL_DIRECTORY = directory({"hello.txt": blob("f")}, {"sub": blob("d")})
CONFUSED = {
    "tree as directory": (Shape.DIRECTORY, tree(FULL_DIRECTORY)),
    "tree with children as directory": (Shape.DIRECTORY, tree(b"", FULL_DIRECTORY)),
    "tree of an empty root as directory": (Shape.DIRECTORY, tree(b"")),
    "directory as tree": (Shape.TREE, FULL_DIRECTORY),
    "directory of files as tree": (Shape.TREE, directory({"hello.txt": blob("f")})),
    "directory of directories as tree": (Shape.TREE, directory({}, {"sub": blob("d")})),
    "directory of symlinks as tree": (
        Shape.TREE,
        reapi.Directory(symlinks=[reapi.SymlinkNode(name="a", target="b")]).SerializeToString(),
    ),
    "action as directory": (Shape.DIRECTORY, ACTION.SerializeToString()),
    "action as tree": (Shape.TREE, ACTION.SerializeToString()),
    "text as directory": (Shape.DIRECTORY, b"hello, world\n"),
    "text as tree": (Shape.TREE, b"hello, world\n"),
    "text as artifact": (Shape.ARTIFACT, b"hello, world\n"),
    "unknown fields alone": (Shape.DIRECTORY, length_field(99, b"x")),
    "directory as artifact": (Shape.ARTIFACT, FULL_DIRECTORY),
    "nothing as artifact": (Shape.ARTIFACT, b""),
    "directory as source": (Shape.SOURCE, FULL_DIRECTORY),
    "nothing as source": (Shape.SOURCE, b""),
}


@pytest.mark.parametrize("case", CONFUSED)
def test_w32_one_kind_of_message_read_as_another_is_refused(case: str) -> None:
    with pytest.raises(InvalidRequest):
        read(*CONFUSED[case])


def _nested_groups(depth: int) -> bytes:
    return b"\x0b" * depth + b"\x0c" * depth


BROKEN = {
    "truncated": FULL_DIRECTORY[:-3],
    "length past the end": b"\x0a\x7fabc",
    "over-long varint": b"\x08" + b"\xff" * 11 + b"\x01",
    "field number zero": b"\x02\x01a",
    "groups nested 10,000 deep": _nested_groups(10_000),
    "a name that is not UTF-8": length_field(1, length_field(1, b"\xff\xfe")),
    "a node without a digest": length_field(1, length_field(1, b"name")),
    "a node without a name": directory({"": blob("f")}),
    "a digest with an upper-case hash": directory({"a": blob("f")}).replace(
        blob("f").hash_hex.encode(), blob("f").hash_hex.upper().encode()
    ),
    "a negative size": reapi.Directory(
        files=[reapi.FileNode(name="a", digest=reapi.Digest(hash=EMPTY.hash_hex, size_bytes=-1))]
    ).SerializeToString(),
    "a symlink without a name": length_field(3, b""),
}


@pytest.mark.parametrize("shape", [Shape.DIRECTORY, Shape.TREE, Shape.ARTIFACT, Shape.SOURCE])
@pytest.mark.parametrize("case", BROKEN)
def test_w33_broken_bytes_are_refused_whatever_they_are_read_as(case: str, shape: Shape) -> None:
    with pytest.raises(InvalidRequest):
        read(shape, BROKEN[case])


@pytest.mark.parametrize(
    "result",
    [
        reapi.ActionResult(output_files=[reapi.OutputFile(path="a")]),
        reapi.ActionResult(output_directories=[reapi.OutputDirectory(path="a")]),
        reapi.ActionResult(stdout_digest=reapi.Digest()),
        reapi.ActionResult(stderr_digest=reapi.Digest(hash="ab", size_bytes=1)),
    ],
)
def test_an_action_result_with_a_malformed_digest_is_refused(result: reapi.ActionResult) -> None:
    with pytest.raises(InvalidRequest):
        gathered(names_of_action_result(result.SerializeToString(), SHA256))
