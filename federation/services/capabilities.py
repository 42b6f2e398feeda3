"""Capabilities: the same for every instance, but for the caller's rights.

A peer is also told this node's identity: see federation/wire/node_identity.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation._proto.build.bazel.semver import semver_pb2
from federation.config.model import LimitsConfig
from federation.core import hops
from federation.core.digest import DigestFunction
from federation.services.call import Call
from federation.services.method import SMALL_REQUEST, Method, Unary
from federation.wire import node_identity
from federation.wire.node_identity import UNKNOWN, NodeIdentity
from federation.wire.resource_name import check_instance

_LOW_API = semver_pb2.SemVer(major=2, minor=0)  # Bazel 4 speaks exactly 2.0
_HIGH_API = semver_pb2.SemVer(major=2, minor=11)


class CapabilitiesService:
    """build.bazel.remote.execution.v2.Capabilities."""

    name = "build.bazel.remote.execution.v2.Capabilities"

    def __init__(
        self,
        limits: LimitsConfig,
        max_blob_bytes: int,
        announce: Callable[[], NodeIdentity] = lambda: UNKNOWN,
    ) -> None:
        # Some clients ask in every job, so both answers are encoded in advance.
        self._answers = {
            may_push: capabilities(limits, max_blob_bytes, may_push).SerializeToString()
            for may_push in (False, True)
        }
        self._announce = announce

    def methods(self) -> Mapping[str, Method]:
        """See Service."""
        return {
            "GetCapabilities": Unary(
                self._get, request_max=SMALL_REQUEST, at_once=self._get_at_once
            )
        }

    async def _get(self, data: bytes, call: Call) -> bytes:
        answer = self._get_at_once(data, call)
        # Nobody else reads them, and the id is told to peers alone.
        if call.is_peer and hops.current().via:
            await call.transport.send_headers(node_identity.headers(self._announce()))
        return answer

    def _get_at_once(self, data: bytes, call: Call) -> bytes:
        """Answer; a peer is told more by _get, as its calls have hops."""
        instance = check_instance(reapi.GetCapabilitiesRequest.FromString(data).instance_name)
        call.check_pull(instance)
        # Bazel does not try to upload results where update_enabled is false.
        return self._answers[call.rights.may_push(instance)]


def capabilities(
    limits: LimitsConfig, max_blob_bytes: int, may_push: bool
) -> reapi.ServerCapabilities:
    """Return the capabilities for a caller; may_push: its right to write.

    IDENTITY is no entry of the lists of compressors: it is always supported (REAPI v2).
    """
    zstd = [reapi.Compressor.ZSTD]
    return reapi.ServerCapabilities(
        cache_capabilities=reapi.CacheCapabilities(
            digest_functions=[function.name for function in DigestFunction],
            action_cache_update_capabilities=reapi.ActionCacheUpdateCapabilities(
                update_enabled=may_push
            ),
            max_batch_total_size_bytes=limits.batch_total,
            max_cas_blob_size_bytes=max_blob_bytes,
            symlink_absolute_path_strategy=reapi.SymlinkAbsolutePathStrategy.ALLOWED,
            supported_compressors=zstd,
            supported_batch_update_compressors=zstd,
        ),
        low_api_version=_LOW_API,
        high_api_version=_HIGH_API,
    )
