"""Hits of the index: an action result as Bazel asks for it, an asset as BuildStream does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat

from benchmarks import payloads
from benchmarks.base import CallRow, RowSpec
from benchmarks.link import ACTION_CACHE, FETCH, PUSH, expect
from benchmarks.rows.tree import build_tree
from federation._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as ra_pb2
from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as re_pb2
from federation._proto.buildstream.v2 import artifact_pb2

_OUTPUTS = 10
_DIRECTORIES = 10
_FILES_EACH = 10
_URN = "urn:fdc:buildstream.build:2020:artifact:project/element/"


class GetActionResult(CallRow):
    """One action result with ten output files and a standard output."""

    def set_up(self) -> None:
        """See CallRow."""
        outputs = [payloads.blob(f"output/{i}", 100) for i in range(_OUTPUTS + 1)]
        self.link.upload(outputs)
        result = re_pb2.ActionResult(stdout_digest=payloads.digest_of(outputs[-1]))
        for number, data in enumerate(outputs[:-1]):
            path = f"bazel-out/bin/package/output-{number}.o"
            result.output_files.add(path=path, digest=payloads.digest_of(data))
        action = payloads.digest_of(b"an action")
        update = re_pb2.UpdateActionResultRequest(action_digest=action, action_result=result)
        self.link.unary(ACTION_CACHE, "UpdateActionResult")(update.SerializeToString())
        request = re_pb2.GetActionResultRequest(action_digest=action).SerializeToString()
        call = self.link.unary(ACTION_CACHE, "GetActionResult")
        answer = re_pb2.ActionResult.FromString(call(request))
        expect(list(answer.output_files) == list(result.output_files), "another result came")
        self._call = partial(call, request)

    def calls(self) -> Iterator[Callable[[], object]]:
        """See CallRow."""
        return repeat(self._call)


class FetchBlob(CallRow):
    """One asset under two URIs that references a tree of a hundred files in ten directories."""

    def set_up(self) -> None:
        """See CallRow."""
        directories, files = build_tree("asset", _DIRECTORIES, _FILES_EACH)
        # A server may read the artifact to know what it names, so it has to be a real one.
        artifact = artifact_pb2.Artifact(
            version=1,
            build_success=True,
            strong_key=64 * "a",
            weak_key=64 * "b",
            files=payloads.digest_of(directories[-1]),
        ).SerializeToString()
        self.link.upload([artifact, *directories, *files])
        uris = [_URN + 64 * "a", _URN + 64 * "b"]
        push = ra_pb2.PushBlobRequest(uris=uris, blob_digest=payloads.digest_of(artifact))
        push.references_directories.append(payloads.digest_of(directories[-1]))
        self.link.unary(PUSH, "PushBlob")(push.SerializeToString())
        request = ra_pb2.FetchBlobRequest(uris=uris).SerializeToString()
        call = self.link.unary(FETCH, "FetchBlob")
        answer = ra_pb2.FetchBlobResponse.FromString(call(request))
        expect(answer.blob_digest == payloads.digest_of(artifact), "another blob came")
        self._call = partial(call, request)

    def calls(self) -> Iterator[Callable[[], object]]:
        """See CallRow."""
        return repeat(self._call)


def rows(*, quick: bool) -> list[RowSpec]:
    """Return this module's rows."""
    del quick
    result = f"GetActionResult, hit, {_OUTPUTS} outputs"
    asset = f"FetchBlob, hit, {_DIRECTORIES * _FILES_EACH} files behind it"
    return [
        RowSpec("get-action-result", result, GetActionResult),
        # BuildGrid has no Remote Asset service.
        RowSpec("fetch-blob", asset, FetchBlob, servers=("federation", "casd")),
    ]
