from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.closure.names import (
    Shape,
    Structure,
    names_of_action_result,
    names_of_structure,
)
from federation.core.digest import Digest, DigestFunction, digest_of
from federation.core.errors import InvalidRequest
from federation.wire.action_result import STDERR, STDOUT, with_inlined
from federation.wire.protobuf import length_field
from tests.support.messages import directory, tree

pytestmark = pytest.mark.slow

SHA256 = DigestFunction.SHA256

# Bytes near the messages: fields of small numbers, nested, some of them cut or noisy.
leaf_fields = st.one_of(
    st.binary(max_size=20),
    st.text(max_size=8).map(lambda text: length_field(1, text.encode())),
    st.binary(max_size=8).map(lambda data: length_field(2, data)),
    st.just(length_field(1, digest_of(b"x").hash_hex.encode()) + b"\x10\x01"),
    st.integers(0, 2**70).map(lambda n: b"\x10" + bytes([n & 0x7F])),
)
messages = st.recursive(
    leaf_fields,
    lambda inner: st.lists(
        st.tuples(st.integers(1, 18), inner).map(lambda pair: length_field(*pair)), max_size=4
    ).map(b"".join),
    max_leaves=12,
)


@given(messages, st.sampled_from(Shape))
@example(b"", Shape.TREE)
def test_w42_a_structure_is_read_or_refused_and_nothing_else(data: bytes, shape: Shape) -> None:
    try:
        parts = list(names_of_structure(shape, data, SHA256))
    except InvalidRequest:
        return
    for names in parts:
        assert all(isinstance(digest, Digest) for digest in names.blobs)
        assert all(isinstance(shape, Shape) for shape, _ in names.structures)


@given(messages)
def test_w42_an_action_result_is_read_or_refused_and_nothing_else(data: bytes) -> None:
    try:
        list(names_of_action_result(data, SHA256))
    except InvalidRequest:
        return
    reapi.ActionResult.FromString(data)


digests = st.integers(0, 50).map(lambda n: digest_of(b"%d" % n))
names = st.text(min_size=1, max_size=5)
directories = st.builds(
    directory, st.dictionaries(names, digests, max_size=4), st.dictionaries(names, digests)
)


@given(directories, st.lists(directories, max_size=4))
def test_a_tree_names_exactly_the_files_of_its_directories_and_has_to_hold_all_of_them(
    root: bytes, children: list[bytes]
) -> None:
    wanted_blobs: set[Digest] = set()
    wanted_directories: set[Structure] = set()
    for data in (root, *children):
        for part in names_of_structure(Shape.DIRECTORY, data, SHA256):
            wanted_blobs.update(part.blobs)
            wanted_directories.update(part.structures)
    held = {(Shape.DIRECTORY, digest_of(data)) for data in (root, *children)}
    found_blobs: set[Digest] = set()
    parts = names_of_structure(Shape.TREE, tree(root, *children), SHA256)
    if wanted_directories - held:
        with pytest.raises(InvalidRequest, match="not a whole Tree"):
            list(parts)
        return
    for part in parts:
        found_blobs.update(part.blobs)
        assert not part.structures
    assert found_blobs == wanted_blobs


@given(
    st.lists(st.tuples(names, st.binary(max_size=9)), max_size=5),
    st.sets(st.integers(0, 4)),
    st.booleans(),
    st.binary(max_size=9),
)
def test_inlining_is_what_setting_the_fields_would_have_been(
    files: list[tuple[str, bytes]], places: set[int], streams: bool, noise: bytes
) -> None:
    result = reapi.ActionResult(exit_code=1)
    for path, data in files:
        digest = reapi.Digest(hash=digest_of(data).hash_hex, size_bytes=len(data))
        result.output_files.add(path=path, digest=digest)
    value = length_field(77, noise) + result.SerializeToString() + length_field(78, noise)
    contents = {place: files[place][1] for place in places if place < len(files)}
    if streams:
        contents |= {STDOUT: b"out", STDERR: b"err"}
    wanted = reapi.ActionResult.FromString(value)
    for place in contents:
        if place >= 0:
            wanted.output_files[place].contents = contents[place]
    if streams:
        wanted.stdout_raw, wanted.stderr_raw = b"out", b"err"
    assert reapi.ActionResult.FromString(with_inlined(value, contents)) == wanted
