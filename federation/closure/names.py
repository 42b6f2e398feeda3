"""Reads which blobs and structures a stored message names: all must be held before it is served.

A structure is a blob that names others in turn: a Directory, a Tree, BuildStream's Artifact and
Source. Nothing here recurses, and every reader yields after at most SLICE nodes, so that a caller
on the event loop can pause in between.

Every malformed message raises InvalidRequest: a message that cannot be read cannot be known to be
complete. Unknown fields are skipped, as the specification asks of readers, but a message with
nothing but unknown fields is refused: it is some other kind of message. That catches every mix-up
of well-formed messages, since a node needs both a name and a well-formed digest (where a node has
its digest, a Tree or an Action has a message in the place of size_bytes). Two cases cannot be told
from the bytes: an empty Directory, Tree and blob are the same, and a message crafted to be valid as
two kinds is read as the kind that the message naming it says.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple, TypeVar

from google.protobuf.message import Message

from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation._proto.buildstream.v2 import artifact_pb2, source_pb2
from federation.core.digest import Digest, DigestFunction, digest_of
from federation.core.errors import InvalidRequest
from federation.core.index import Entry, EntryKind
from federation.wire.asset_request import pushed_of
from federation.wire.bounds import STRUCTURE_FIELDS_MAX, check_fields, check_nested, pieces
from federation.wire.digests import function_of, to_digest
from federation.wire.protobuf import LENGTH, Buffer, fields, parse_message

SLICE = 1000  # nodes read between two yields: about 2 ms
_ROOT_PARTS_MAX = 100
_WHOLE_MAX_BYTES = 16 * 2**20
_WHOLE_FIELD_BYTES = 32  # the least average size of a field in such a message
_STREAMS = ("stdout_digest", "stderr_digest")

_M = TypeVar("_M", bound=Message)

ARTIFACT_URN = "urn:fdc:buildstream.build:2020:artifact:"
SOURCE_URN = "urn:fdc:buildstream.build:2020:source:"


class Shape(enum.IntEnum):
    """How to read a structure."""

    DIRECTORY = 1
    TREE = 2
    ARTIFACT = 3
    SOURCE = 4


Structure = tuple[Shape, Digest]


class Names(NamedTuple):
    """A part of what a message names, and how many directories of a Tree were read for it."""

    blobs: Sequence[Digest] = ()
    structures: Sequence[Structure] = ()
    directories_held: int = 0


def names_of_entry(entry: Entry) -> Iterator[Names]:
    """Yield what an index entry itself names; the structures among it name more.

    Raises InvalidRequest, here and while iterating.
    """
    if entry.key.kind == EntryKind.ACTION_RESULT:
        return names_of_action_result(entry.value, function_of_entry(entry))
    return _names_of_asset(entry)


def function_of_entry(entry: Entry) -> DigestFunction:
    """Return the digest function of everything that an entry names."""
    if entry.key.kind == EntryKind.ACTION_RESULT:
        return function_of(entry.key.name[0])
    return function_of(pushed_of(entry).digest_function)


def names_of_structure(shape: Shape, data: Buffer, function: DigestFunction) -> Iterator[Names]:
    """Yield what the structure in data names. Raises InvalidRequest while iterating."""
    if shape is Shape.DIRECTORY:
        return _names_of_directory(data, function)
    if shape is Shape.TREE:
        return _names_of_tree(data, function)
    if shape is Shape.ARTIFACT:
        return _names_of_artifact(_parsed_whole(artifact_pb2.Artifact, data), function)
    return _names_of_source(_parsed_whole(source_pb2.Source, data), function)


def _parsed_whole(kind: type[_M], data: Buffer) -> _M:
    """Parse one of BuildStream's messages. They are small: their large parts are blobs."""
    name = kind.DESCRIPTOR.name
    if len(data) > _WHOLE_MAX_BYTES:
        raise InvalidRequest(
            f"{name} of {len(data)} bytes; at most {_WHOLE_MAX_BYTES} are accepted"
        )
    # Before parsing: 16 MiB of empty fields would be gigabytes of objects.
    check_fields(data, _WHOLE_FIELD_BYTES)
    check_nested(kind.DESCRIPTOR, data, 0, len(data))
    return parse_message(kind, data)


def names_of_action_result(value: bytes, function: DigestFunction) -> Iterator[Names]:
    """Yield what an ActionResult names: output files and directories, stdout and stderr."""
    # Gathered to the end: a part of a field is not yet a digest.
    streams: dict[str, reapi.Digest] = {}
    for part in pieces(reapi.ActionResult, value):
        if part.output_files:
            yield Names([to_digest(each.digest, function) for each in part.output_files])
        if outputs := part.output_directories:
            yield Names(
                structures=[s for each in outputs for s in _output_directory(each, function)]
            )
        for name in _STREAMS:
            if part.HasField(name):  # protobuf merges a field that is sent in parts
                streams.setdefault(name, reapi.Digest()).MergeFrom(getattr(part, name))
    yield Names([to_digest(streams[name], function) for name in _STREAMS if name in streams])


def _output_directory(
    output: reapi.OutputDirectory, function: DigestFunction
) -> Iterator[Structure]:
    """Yield its Tree, its root Directory, or both, as Command.output_directory_format asked."""
    named = False
    if output.HasField("tree_digest"):
        # Both count where both are named: clients may read either.
        yield Shape.TREE, to_digest(output.tree_digest, function)
        named = True
    if output.HasField("root_directory_digest"):
        digest = to_digest(output.root_directory_digest, function)
        yield Shape.DIRECTORY, digest
        named = True
    if not named:
        raise InvalidRequest("an output directory without tree_digest and root_directory_digest")


def _names_of_asset(entry: Entry) -> Iterator[Names]:
    pushed = pushed_of(entry)
    function = function_of(pushed.digest_function)
    if isinstance(pushed, asset.PushDirectoryRequest):
        root = to_digest(pushed.root_directory_digest, function)
        yield Names(structures=[(Shape.DIRECTORY, root)])
    else:
        blob = to_digest(pushed.blob_digest, function)
        yield _names_of_asset_blob(entry.label, blob)
    for blobs in _slices(pushed.references_blobs):
        yield Names([to_digest(each, function) for each in blobs])
    for roots in _slices(pushed.references_directories):
        yield Names(structures=_directories(roots, function))


def _names_of_asset_blob(uri: str, blob: Digest) -> Names:
    """Return an asset's blob, as a structure where its URI is one of BuildStream's URNs."""
    # Only these say what is in their blob; any other asset is opaque, whatever it looks like.
    if uri.startswith(ARTIFACT_URN):
        return Names(structures=[(Shape.ARTIFACT, blob)])
    if uri.startswith(SOURCE_URN):
        return Names(structures=[(Shape.SOURCE, blob)])
    return Names([blob])


def _names_of_directory(data: Buffer, function: DigestFunction) -> Iterator[Names]:
    # The empty directory has no bytes, and so no field that could be known.
    known = not data
    for part in pieces(reapi.Directory, data):
        known = known or bool(part.ListFields())
        for files in _slices(part.files):
            yield Names([_node(each, function) for each in files])
        for nodes in _slices(part.directories):
            yield Names(structures=[(Shape.DIRECTORY, _node(each, function)) for each in nodes])
        for links in _slices(part.symlinks):
            if not all(each.name for each in links):
                raise InvalidRequest("a symlink without a name")
            yield Names()  # names nothing, but the caller can let others run behind so many links
    if not known:
        raise InvalidRequest("not a Directory: all its fields are unknown")


def _node(node: reapi.FileNode | reapi.DirectoryNode, function: DigestFunction) -> Digest:
    if not node.name:
        raise InvalidRequest("a node without a name")
    return to_digest(node.digest, function)


def _names_of_tree(data: Buffer, function: DigestFunction) -> Iterator[Names]:
    """Yield the files of all directories in a Tree. Raises InvalidRequest if it lacks a directory.

    A directory's digest is that of its bytes as they stand in the Tree, so the fields are read raw.
    Only the digests that are named are kept in memory: a Tree may hold far more directories.
    """
    named: set[Digest] = set()
    blobs: list[Digest] = []
    directories = nodes = 0
    for raw in _directories_of_tree(data):
        directories += 1
        if not raw:  # a fast path: 32 million empty directories fit into the largest structure
            if directories >= SLICE:
                yield Names(blobs, directories_held=directories)
                blobs, directories, nodes = [], 0, 0
            continue
        for names in chain((Names(),), names_of_structure(Shape.DIRECTORY, raw, function)):
            blobs += names.blobs
            named.update(each for _, each in names.structures)
            nodes += len(names.blobs) + len(names.structures)
            if nodes + directories >= SLICE:
                yield Names(blobs, directories_held=directories)
                blobs, directories, nodes = [], 0, 0
    yield Names(blobs, directories_held=directories)
    # A second pass, since a child may stand before or behind the directory that names it.
    for count, raw in enumerate(_directories_of_tree(data)):
        if not named:
            break
        named.discard(digest_of(bytes(raw), function))
        if count % SLICE == 0:
            yield Names()
    # The empty directory may be left out: everybody knows its content.
    if lacking := next((each for each in named if not each.is_empty), None):
        raise InvalidRequest(f"not a whole Tree: it names directory {lacking} and does not hold it")


def _directories_of_tree(data: Buffer) -> Iterator[Buffer]:
    """Yield the bytes of each child, then of the root, which all Trees but the empty one have."""
    roots: list[Buffer] = []
    for count, (number, kind, start, end) in enumerate(fields(data)):
        if count == STRUCTURE_FIELDS_MAX:
            raise InvalidRequest(f"a Tree with more than {count} fields")
        # REAPI: readers skip unknown fields. 1 is root, 2 is children.
        if number not in {1, 2}:
            continue
        if kind != LENGTH:
            raise InvalidRequest("not a Tree: a number where a Directory belongs")
        if number == 2:
            yield data[start:end]
        else:
            if len(roots) == _ROOT_PARTS_MAX:
                raise InvalidRequest(f"a Tree whose root comes in more than {len(roots)} parts")
            roots.append(data[start:end])
    if roots:
        yield b"".join(roots)  # protobuf merges a field that is sent in parts
    elif data:
        raise InvalidRequest("not a Tree: it has no root")


def _names_of_artifact(
    artifact: artifact_pb2.Artifact, function: DigestFunction
) -> Iterator[Names]:
    """Yield what every pull of an artifact needs.

    The buildtree, sources, buildroot and buildsandbox are left out: clients pull and push artifacts
    without them. A push that includes them lists them as references.
    """
    # Every BuildStream writes one, so a message without it is of another kind.
    if artifact.version <= 0:
        raise InvalidRequest("not an Artifact: it has no version")
    blobs = [
        to_digest(getattr(artifact, name), function)
        for name in ("public_data", "low_diversity_meta", "high_diversity_meta")
        # BuildStream leaves out what an element does not have.
        if artifact.HasField(name)
    ]
    files = [artifact.files] if artifact.HasField("files") else []
    yield Names(blobs, _directories(files, function))
    for logs in _slices(artifact.logs):
        yield Names([to_digest(each.digest, function) for each in logs])


def _names_of_source(source: source_pb2.Source, function: DigestFunction) -> Iterator[Names]:
    yield Names(structures=_directories([source.files], function))


def _directories(digests: Sequence[reapi.Digest], function: DigestFunction) -> list[Structure]:
    return [(Shape.DIRECTORY, to_digest(each, function)) for each in digests]


def _slices(nodes: Any) -> Iterator[Any]:
    """Cut a repeated field into slices of SLICE elements."""
    for at in range(0, len(nodes), SLICE):
        yield nodes[at : at + SLICE]
