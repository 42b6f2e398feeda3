"""From an opened data directory to its parts, as a recipe."""

from __future__ import annotations

from functools import partial

from federation.config import model
from federation.core.clock import Clock
from federation.core.tasks import Background
from federation.observability.metrics import Metrics
from federation.storage.access_times import Touches
from federation.storage.catalogue import schema
from federation.storage.catalogue.entry_changes import EntryChanges
from federation.storage.catalogue.pool import Pool
from federation.storage.catalogue.resident import ResidentCatalogue
from federation.storage.catalogue.transaction import Totals
from federation.storage.catalogue.writer import Writer
from federation.storage.context import StorageContext
from federation.storage.file_watch import FileWatch
from federation.storage.log_end import LogEnd
from federation.storage.opening import Opened
from federation.storage.read_cache import ReadCache
from federation.storage.space import Space, measure_disk
from federation.storage.timing import Timing

_READS_CACHE_KIB = 8_000  # per thread; reading whole blobs rarely needs a page again


def assemble(
    opened: Opened,
    settings: model.StorageConfig,
    limits: model.LimitsConfig,
    metrics: Metrics,
    clock: Clock,
    timing: Timing,
) -> StorageContext:
    """Make the parts of a data directory that was opened; none of them runs yet."""
    root = opened.directory.root
    space = Space(settings.max_blob, lambda: measure_disk(root).free_bytes)
    path = opened.directory.catalogue
    connect = partial(schema.connect, path, read_only=True)
    head = LogEnd(opened.epoch, clock)
    entry_changes = EntryChanges(opened.epoch)

    def on_commit(totals: Totals, held_bytes: int) -> None:
        space.stored_bytes = held_bytes
        head.note(totals.seq)

    writer = Writer(
        partial(schema.connect, path, create=False, wal_pages=schema.wal_pages_for(settings.quota)),
        opened.store_clock,
        clock,
        quota_bytes=lambda: space.quota_bytes,
        on_commit=on_commit,
        metrics=metrics,
        node_id=opened.node_id,
        drift_s=settings.clock_drift,
        on_fail=lambda: opened.epoch.doubt_log(is_in_doubt=True),
        entry_changes=entry_changes,
    )
    return StorageContext(
        directory=opened.directory,
        settings=settings,
        clock=clock,
        store_clock=opened.store_clock,
        timing=timing,
        metrics=metrics,
        run=opened.run,
        epoch=opened.epoch,
        files=FileWatch(opened.directory.blobs, opened.directory.incoming),
        head=head,
        entry_changes=entry_changes,
        resident=ResidentCatalogue(path, clock),
        pool=Pool("look-up", limits.threads, connect),
        reads=Pool("read", limits.threads, partial(connect, cache_kib=_READS_CACHE_KIB)),
        # Pools of their own: see decisions, "Looking up, reading and writing have threads of their
        # own".
        writes=Pool("write", limits.threads, connect),
        writer=writer,
        touches=Touches(),
        read_cache=ReadCache(lambda: opened.epoch.value),
        space=space,
        background=Background(),
    )
