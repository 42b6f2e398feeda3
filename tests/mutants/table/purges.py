"""Mistakes by which something purged comes back or is still shown, or a later push is lost."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_RECORDS = "federation/storage/catalogue/purges.py"
_PURGING = "federation/storage/purging.py"
_SENDER = "federation/replication/purge_sender.py"
_SHIPPING = "federation/replication/shipping.py"
_CONTRACT = ("tests/contracts/replication_log/test_purges.py",)
_STORAGE = ("tests/storage/test_purges.py",)
_UPSTREAM = ("tests/upstream/test_purged.py",)
_PEERS = ("tests/replication/test_purges.py",)

_SITE = "federation/storage/shared"
_ON_SITES = ("tests/storage/shared/test_purged_site.py",)

PURGES = [
    Mutant(
        "purge-allowed-late",
        _SENDER,
        "                    self._told_late = True",
        "                    self._told_late = False",
        ("tests/replication/test_purge_sender.py",),
        "What was pushed again while a peer took no records is there only after the next check.",
    ),
    Mutant(
        "purge-older-record",
        _PURGING,
        "        if old is not None and old.stamp >= purge.stamp:",
        "        if old is not None and old.stamp == purge.stamp:",
        _CONTRACT,
        "A purge that arrives late undoes the later push of the same blob, and nodes disagree.",
    ),
    Mutant(
        "purge-later-entry",
        _PURGING,
        "        if held is None or held.entry.stamp < purge.stamp:",
        "        if held is not None:",
        _CONTRACT,
        "A purge that arrives late removes what was pushed after it.",
    ),
    Mutant(
        "purge-pulled-entry",
        "federation/storage/catalogue/hlc.py",
        "        source is Source.UPSTREAM or (brings_stamp and entry.stamp <= purged)",
        "        brings_stamp and entry.stamp <= purged",
        _CONTRACT,
        "An upstream brings a purged entry back.",
    ),
    Mutant(
        "purge-peers-blob",
        _RECORDS,
        "    if not purged or is_push:",
        "    if True:",
        _CONTRACT,
        "A peer that does not know of the purge brings a blob back.",
    ),
    Mutant(
        "purge-epoch",
        _PURGING,
        "                    core.epoch.bump()",
        "                    pass",
        _STORAGE,
        "Processes go on answering with a purged blob from memory.",
    ),
    Mutant(
        "purge-quarantine",
        _PURGING,
        "        quarantine.forget(self.transaction, self._directory, key)\n",
        "",
        _STORAGE,
        "A purged blob is put back from quarantine/ as if a client had pushed it.",
    ),
    Mutant(
        "purge-free-pages",
        _PURGING,
        '    connection.execute("PRAGMA secure_delete = ON").fetchall()',
        "    pass",
        _STORAGE,
        "The bytes of a secret stay in free pages of the catalogue.",
    ),
    Mutant(
        "purge-write-ahead-log",
        _PURGING,
        "                await empty_log(core)",
        "                pass",
        _STORAGE,
        "The bytes of a secret stay in the write-ahead log while the node runs.",
    ),
    Mutant(
        "purge-running-read",
        "federation/storage/streaming.py",
        "            if self._purge_watch.is_due:\n                await",
        "            if False:\n                await",
        _STORAGE,
        "A read that began before the purge gets all of the blob.",
    ),
    Mutant(
        "purge-untold-peers",
        "federation/storage/upkeep/retention.py",
        "    upto = min(told, default=purges.newest(transaction.connection))",
        "    upto = purges.newest(transaction.connection)",
        _STORAGE,
        "A peer that was away for longer than purges are kept brings everything back.",
    ),
    Mutant(
        "purge-running-pull",
        "federation/upstream/pull.py",
        "                    await self._check_purged()",
        "                    pass",
        _UPSTREAM,
        "A pull under way gives its readers the end of a purged blob.",
    ),
    Mutant(
        "purge-asks-upstreams",
        "federation/upstream/entry_finder.py",
        "                if await self._purged([entry.key]) or not await query.acceptable(entry):",
        "                if not await query.acceptable(entry):",
        _UPSTREAM,
        "An upstream's value is given out under a purged name.",
    ),
    Mutant(
        "purge-told-late",
        _SHIPPING,
        "        await self.purges.bring()\n        left = ",
        "        left = ",
        _PEERS,
        "A peer lets a blob fall that was pushed again, since it knows of the purge alone.",
    ),
    Mutant(
        "purge-told-nobody",
        _SENDER,
        "                if not self._api.identity.node_id:",
        "                if self._api.identity.node_id:",
        _PEERS,
        "Nodes of this project are told of no purge.",
    ),
    Mutant(
        "purge-by-anybody",
        "federation/services/purges.py",
        "            call.check_known_peer(None if isinstance(each.thing, Digest) else "
        "each.thing.instance)",
        "            call.check_known_peer(request.instance_name)",
        ("tests/services/test_purges.py",),
        "A peer of one instance purges blobs of all others.",
    ),
    Mutant(
        "purge-delete-by-pushers",
        "federation/access/rights.py",
        "        return self._role >= _ADMIN and is_there",
        "        return is_there",
        ("tests/http_cache/test_deleting.py",),
        "Whoever may push deletes for everybody.",
    ),
    Mutant(
        "site-purge-peers-blob",
        f"{_SITE}/catalogue/sql/blobs.sql",
        "ON i.key = p.key WHERE p_sources[i.came] <> 0;",
        "ON i.key = p.key WHERE false;",
        _CONTRACT,
        "A peer that does not know of the purge brings a blob back to a site.",
        marked="servers",
    ),
    Mutant(
        "site-purge-peers-entry",
        f"{_SITE}/catalogue/sql/entries.sql",
        "      IF purged.seq IS NOT NULL AND (p_source = 1 OR",
        "      IF purged.seq IS NOT NULL AND (p_source = 1 AND",
        _CONTRACT,
        "Upstreams and peers bring a purged entry back to a site.",
        marked="servers",
    ),
    Mutant(
        "site-purge-cached",
        f"{_SITE}/cache_purges.py",
        "        return self._told >= row.purge_seq and self._epoch == row.log_epoch",
        "        return True",
        _ON_SITES,
        "Caches of a site keep what was purged, and a node gives it out.",
        marked="servers",
    ),
    Mutant(
        "site-purge-too-old",
        f"{_SITE}/cache_purges.py",
        " and not self._catalogue.connections.are_given_up",
        "",
        _ON_SITES,
        "A node that is too old for its site gives out for ever what is purged from then on.",
        marked="servers",
    ),
    Mutant(
        "site-purge-away",
        f"{_SITE}/cache_purges.py",
        "        if self._told < forgotten:",
        "        if False:",
        _ON_SITES,
        "A node that was away for longer than purges are kept gives out what was purged.",
        marked="servers",
    ),
    Mutant(
        "site-purge-objects",
        f"{_SITE}/catalogue/sql/purges.sql",
        "    INSERT INTO gone VALUES (p_key, held.attempt, held.size, p_now);",
        "    INSERT INTO gone VALUES (p_key, held.attempt, held.size, p_now + 86400000);",
        _ON_SITES,
        "The objects of a purged blob stay in the bucket.",
        marked="servers",
    ),
    Mutant(
        "site-purge-untold",
        f"{_SITE}/catalogue/sql/purges.sql",
        "p_keep AND seq <= told LIMIT p_rows",
        "p_keep LIMIT p_rows",
        _ON_SITES,
        "A peer that was away for longer than purges are kept brings everything back to a site.",
        marked="servers",
    ),
]
