"""A store that cannot tell what it holds: the answer is UNAVAILABLE, never "missing".

"All are missing" would have every client upload everything, "held" would lose what is not.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import grpc
import pytest

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from federation._proto.google.bytestream import bytestream_pb2 as bs
from federation.config.model import LimitsConfig
from federation.core.digest import Digest, digest_of
from federation.core.errors import SourceUnavailable
from federation.core.provenance import FROM_CLIENT, Provenance
from federation.core.store import DigestCodec
from federation.observability.metrics import Metrics
from federation.services.cas import CasService
from federation.services.cpu_pool import Compute
from federation.wire.resource_name import upload_name
from tests.services.conftest import Connect, Serve, status_of
from tests.support.fakes import MemoryStore

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
BLOB = digest_of(b"blob")


class AwayStore(MemoryStore):
    """Its catalogue is a server that does not answer."""

    async def find_missing(self, digests: Collection[Digest]) -> set[Digest]:
        raise SourceUnavailable("catalogue", "no answer")

    async def find_missing_named(self, names: Sequence[bytes], spelling: DigestCodec) -> set[bytes]:
        raise SourceUnavailable("catalogue", "no answer")

    async def write_one(
        self, digest: Digest, data: bytes, *, provenance: Provenance = FROM_CLIENT
    ) -> bool:
        raise SourceUnavailable("catalogue", "no answer")

    async def accept_held(self, digest: Digest, *, provenance: Provenance = FROM_CLIENT) -> bool:
        raise SourceUnavailable("catalogue", "no answer")


@pytest.mark.parametrize("function", [pb.DigestFunction.SHA256, pb.DigestFunction.BLAKE3])
async def test_find_missing_is_refused(
    serve: Serve, compute: Compute, function: pb.DigestFunction.Value
) -> None:
    service = CasService(AwayStore(), LimitsConfig(), Metrics(), compute)
    served = await serve(service)
    wanted = pb.Digest(hash=BLOB.hash_hex, size_bytes=BLOB.size_bytes)
    request = pb.FindMissingBlobsRequest(blob_digests=[wanted], digest_function=function)
    assert await status_of(served.cas.FindMissingBlobs(request)) is UNAVAILABLE


async def test_a_write_is_neither_called_needless_nor_taken(connect: Connect) -> None:
    store = AwayStore()
    client = await connect(other=store)
    name = upload_name(BLOB, "uuid")
    message = bs.WriteRequest(resource_name=name, data=b"blob", finish_write=True)
    assert await status_of(client.write(message)) is UNAVAILABLE
    assert await status_of(client.query(name)) is UNAVAILABLE
    assert store.blobs == {}
