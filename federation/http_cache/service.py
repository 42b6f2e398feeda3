"""All methods of the HTTP cache, and which request is which of them."""

from __future__ import annotations

from collections.abc import Mapping

from federation.config.model import Config, LimitsConfig
from federation.core.clock import Clock
from federation.core.index import Index
from federation.core.purges import Purges
from federation.core.store import LocalStore
from federation.http_cache.blobs import BlobCalls
from federation.http_cache.deleting import DeleteCalls
from federation.http_cache.entries import EntryCalls
from federation.http_cache.folders import FolderCalls
from federation.http_cache.namespaces import Namespaces
from federation.http_cache.reading import BlobSender
from federation.http_cache.receiving import BodyReceiver
from federation.http_cache.results import ResultCalls
from federation.http_cache.sizes import SizesByHash
from federation.http_cache.target import Kind
from federation.http_cache.turborepo import TurborepoCalls
from federation.observability.metrics import Metrics
from federation.services.bytestream import ByteStreamService
from federation.services.method import Exchanged, Method
from federation.upstream.entry_finder import Finder

METHODS: Mapping[tuple[str, Kind], str] = {
    ("GET", Kind.BLOB): "GetBlob",
    ("HEAD", Kind.BLOB): "GetBlob",
    ("PUT", Kind.BLOB): "PutBlob",
    ("GET", Kind.RESULT): "GetResult",
    ("HEAD", Kind.RESULT): "GetResult",
    ("PUT", Kind.RESULT): "PutResult",
    ("GET", Kind.ENTRY): "GetEntry",
    ("HEAD", Kind.ENTRY): "GetEntry",
    ("PUT", Kind.ENTRY): "PutEntry",
    ("GET", Kind.FOLDER): "FindFolder",
    ("HEAD", Kind.FOLDER): "FindFolder",
    ("GET", Kind.STATUS): "Status",
    ("HEAD", Kind.STATUS): "Status",
    ("GET", Kind.TURBOREPO_STATUS): "TurborepoStatus",
    ("POST", Kind.TURBOREPO_EVENTS): "TurborepoEvents",
    ("POST", Kind.TURBOREPO_QUERY): "TurborepoQuery",
}
OF_ANY_KIND: Mapping[str, str] = {
    "DELETE": "Delete",
    "MKCOL": "MakeFolder",
    "OPTIONS": "Options",
    "PROPFIND": "FindFolder",
}


class HttpCacheService:
    """The calls of the listeners with `protocol: http`, which share one."""

    name = "http.Cache"

    def __init__(
        self,
        store: LocalStore,
        presence: LocalStore,
        presence_for_pushers: LocalStore,
        index: Index,
        finder: Finder,
        stream: ByteStreamService,
        config: Config,
        limits: LimitsConfig,
        clock: Clock,
        metrics: Metrics,
        purges: Purges,
    ) -> None:
        """presence, presence_for_pushers: see BlobSender. stream: shares its bounds."""
        self._namespaces = Namespaces(config.namespaces)
        self.sizes = sizes = SizesByHash()
        sender = BlobSender(store, presence, presence_for_pushers, clock, metrics, stream.budgets)
        receiver = BodyReceiver(store, stream.uploads, limits, clock, metrics)
        self._blobs = BlobCalls(store, sender, receiver, sizes, metrics)
        self._entries = EntryCalls(
            store, index, finder, sender, receiver, self._namespaces, metrics
        )
        self._results = ResultCalls(store, index, finder, self._entries, receiver, sizes, metrics)
        self._turborepo = TurborepoCalls(self._entries, receiver)
        self._folders = FolderCalls()
        self._deletes = DeleteCalls(store, index, purges)

    def methods(self) -> Mapping[str, Method]:
        """See Service."""
        return {
            "GetBlob": Exchanged(self._blobs.get),
            "PutBlob": Exchanged(self._blobs.put, writes=True),
            "GetResult": Exchanged(self._results.get),
            "PutResult": Exchanged(self._results.put, writes=True),
            "GetEntry": Exchanged(self._entries.get),
            "PutEntry": Exchanged(self._entries.put, writes=True),
            "FindFolder": Exchanged(self._folders.find),
            "MakeFolder": Exchanged(self._folders.make, writes=True),
            "Delete": Exchanged(self._deletes.delete, writes=True),
            "Options": Exchanged(self._folders.options, open_to_all=True),
            "Status": Exchanged(self._folders.status, open_to_all=True),
            "TurborepoStatus": Exchanged(self._turborepo.status),
            "TurborepoEvents": Exchanged(self._turborepo.events),
            "TurborepoQuery": Exchanged(self._turborepo.query),
        }

    def apply_config(self, config: Config) -> None:
        """Take a new configuration, in all that can change while the node runs."""
        self._namespaces.apply_config(config.namespaces)
