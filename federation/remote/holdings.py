"""The question of one node of this project to another which of many blobs it lacks."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import DecodeError

from federation.core.digest import Digest
from federation.core.errors import InvalidRequest
from federation.remote.client import Remote
from federation.remote.failures import FailureKind, NotFound, failure
from federation.remote.methods import FIND_LACKING
from federation.wire.holdings import NAMES_MAX, encode_question, lacking_in


async def find_lacking(remote: Remote, digests: Sequence[Digest]) -> set[Digest]:
    """Return those that the remote does not hold. See protos/federation/v1/holdings.proto.

    A tenth of the bytes of FindMissingBlobs and no lease: what is not returned may be evicted at
    any moment.

    Raises RemoteFailed: Unsupported where the remote is no node of ours, or an older one; Denied
    where it does not take this node for a peer.
    """
    lacking: set[Digest] = set()
    for at in range(0, len(digests), NAMES_MAX):
        part = digests[at : at + NAMES_MAX]
        question = encode_question(remote.settings.instance_name, part)
        try:
            answer = await remote.calls.unary(FIND_LACKING, question)
            lacking.update([part[place] for place in lacking_in(answer, len(part))])
        except (InvalidRequest, DecodeError, NotFound) as error:
            raise failure(remote.name, FailureKind.MALFORMED, str(error)) from None
    return lacking
