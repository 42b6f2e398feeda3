"""Mistakes by which a peer lacks something, has another value, or is sent things without end."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_REPLICATION = "federation/replication"
_MACHINES = ("tests/replication/test_machines.py", "tests/replication/test_cursor.py")
_SCHEDULES = ("tests/replication/test_schedules.py",)
_SIMULATION = ("tests/replication/test_simulation.py",)
_FAULTS = ("tests/replication/test_faults.py",)
_STAMPS = ("tests/storage/test_stamps.py",)
_HLC = "federation/storage/catalogue/hlc.py"

REPLICATION = [
    Mutant(
        "cursor-over-gaps",
        f"{_REPLICATION}/cursor.py",
        "        end = self._done.end_of(self.cursor + 1)",
        "        end = last",
        (*_MACHINES, *_SCHEDULES),
        "The cursor passes rows that no peer has acknowledged.",
    ),
    Mutant(
        "cursor-release",
        f"{_REPLICATION}/cursor.py",
        "            self._claimed.remove(*gap)\n",
        "",
        (*_MACHINES, "tests/replication/test_lanes.py"),
        "Rows that were given back are never claimed again.",
    ),
    Mutant(
        "parked-after-the-cursor",
        f"{_REPLICATION}/follower.py",
        "        if outcome.fate is not Fate.PARKED:",
        "        if outcome.fate is not Fate.PARKED or rows:",
        (*_FAULTS, *_SIMULATION),
        "What a peer refuses is forgotten instead of parked.",
    ),
    Mutant(
        "parked-not-written",
        f"{_REPLICATION}/follower.py",
        "            await self._session.change_log.park([parked for _, parked in taken])\n",
        "",
        (*_FAULTS, *_SIMULATION),
        "The cursor passes what is set aside before that is written down.",
    ),
    Mutant(
        "unused-unsaid",
        f"{_REPLICATION}/remote_peer.py",
        "hops.of_replication(history.via, stamp, history.unused_s)",
        "hops.of_replication(history.via, stamp)",
        ("tests/replication/test_order_of_use.py",),
        "What a walk sends counts as used just now at the receiver.",
    ),
    Mutant(
        "ages-mixed",
        f"{_REPLICATION}/reconcile.py",
        "        if part and not ages.are_alike(part[0], digest):",
        "        if False:",
        ("tests/replication/test_order_of_use.py",),
        "Blobs of one batch get one age, however long each was unused.",
    ),
    Mutant(
        "lost-uncounted",
        f"{_REPLICATION}/reconcile.py",
        "        if purpose is not Purpose.RESYNC and digests:",
        "        if purpose is Purpose.REQUEST and digests:",
        _FAULTS,
        "What a check finds lost is sent, and not counted as forgotten.",
    ),
    Mutant(
        "summary-for-anybody",
        "federation/services/holdings.py",
        "        call.check_peer(request.instance_name)",
        "        call.check_pull(request.instance_name)",
        ("tests/services/test_holdings.py",),
        "Whoever may read can find out what is held by half of its hash.",
    ),
    Mutant(
        "trimmed-unnoticed",
        f"{_REPLICATION}/follower.py",
        "        if not found.is_whole:",
        "        if not found:",
        _FAULTS,
        "Rows that were trimmed before a peer got them are passed in silence.",
    ),
    Mutant(
        "unresolved-bound",
        f"{_REPLICATION}/follower.py",
        "            while self.progress.unresolved > UNRESOLVED_MAX:",
        "            while self.progress.unresolved > 1000 * UNRESOLVED_MAX:",
        ("tests/replication/test_send_memory.py",),
        "A peer that takes nothing lets the memory of who sends grow with the log.",
    ),
    Mutant(
        "superseded-row",
        f"{_REPLICATION}/selection.py",
        "        if now.seq > row.seq:",
        "        if now.seq > row.seq + 2**40:",
        ("tests/replication/test_rules.py",),
        "Each old row of a name sends its value again.",
    ),
    Mutant(
        "older-value-last",
        f"{_REPLICATION}/entry_sender.py",
        "            async with name.lock:\n                yield",
        "            yield",
        ("tests/replication/test_send_memory.py",),
        "A value that was read first and is sent last undoes a newer one.",
    ),
    Mutant(
        "back-where-it-came-from",
        f"{_REPLICATION}/selection.py",
        "        if was_there(row.via, self.node_id):",
        "        if was_there(row.via, self.node_id + '?'):",
        (*_MACHINES, *_SIMULATION, *_SCHEDULES),
        "Objects are offered to the node that sent them.",
    ),
    Mutant(
        "pulled-is-sent",
        f"{_REPLICATION}/rules.py",
        "return source is not Source.UPSTREAM or self.sends_pulled",
        "return source is not None",
        ("tests/replication/test_rules.py", *_MACHINES, *_FAULTS),
        "What upstreams gave floods the peers.",
    ),
    Mutant(
        "rule-of-size",
        f"{_REPLICATION}/rules.py",
        "return self.min_bytes <= size and (not self.max_bytes or size <= self.max_bytes)",
        "return self.min_bytes <= size",
        ("tests/replication/test_rules.py",),
        "A rule's size limit is not kept.",
    ),
    Mutant(
        "loop-end",
        f"{_REPLICATION}/rules.py",
        "    return len(via) < hops.HOPS_MAX",
        "    return len(via) <= hops.HOPS_MAX",
        ("tests/replication/test_rules.py",),
        "An object that passed sixteen nodes goes on under headers that cannot tell it.",
    ),
    Mutant(
        "peer-forgets",
        f"{_REPLICATION}/blob_sender.py",
        "        missing = await self.ask(taken) if taken else set()\n"
        "        if there := [digest for digest in taken if digest not in missing]:\n"
        "            self._forgotten.kept(",
        "        missing: set[Digest] = set()\n"
        "        if there := [digest for digest in taken if digest not in missing]:\n"
        "            self._forgotten.kept(",
        (*_FAULTS, "tests/faults/replication/test_stubs.py"),
        "A peer that says OK and stores nothing counts as having it.",
    ),
    Mutant(
        "other-node-answers",
        f"{_REPLICATION}/remote_peer.py",
        "        if node_id and self._remote.node_id != node_id:",
        "        if node_id and not self._remote:",
        (
            "tests/replication/test_real.py",
            "tests/faults/replication/test_identity.py",
            "tests/remote/test_replicating.py",
            "tests/replication/test_send_memory.py",
        ),
        "An entry goes to a node that has none of the blobs which another one confirmed.",
    ),
    Mutant(
        "entry-before-blobs",
        f"{_REPLICATION}/entry_sender.py",
        "        if (outcome := await self._closed(wanted)) is not None:\n"
        "            return outcome\n",
        "",
        (*_FAULTS, *_SIMULATION),
        "Entries reach the peer before what they name.",
    ),
    Mutant(
        "closure-half-sent",
        f"{_REPLICATION}/closure_sender.py",
        "            missing.add(digest)\n",
        "",
        (*_FAULTS, *_SIMULATION),
        "An entry is sent although a blob that it names was refused.",
    ),
    Mutant(
        "denied-parks-all",
        f"{_REPLICATION}/outcomes.py",
        "return Fault.PEER if len(self._denied) >= DENIED_IN_A_ROW else Fault.UNCLEAR",
        "return Fault.UNCLEAR",
        (*_MACHINES, *_FAULTS),
        "A peer that lets nobody in is asked about one object after the other.",
    ),
    Mutant(
        "silence-parks",
        f"{_REPLICATION}/outcomes.py",
        "            return Fault.PEER\n        count, taken_then",
        "            return Fault.OBJECT\n        count, taken_then",
        (*_MACHINES, *_FAULTS),
        "An object is set aside because the connection broke.",
    ),
    Mutant(
        "refusals-park-all",
        f"{_REPLICATION}/outcomes.py",
        "        if thing not in self._refused and len(self._refused) >= REFUSED_IN_A_ROW:",
        "        if thing is None:",
        (*_MACHINES, *_FAULTS),
        "A peer that refuses everything has everything parked.",
    ),
    Mutant(
        "stamp-tie",
        _HLC,
        "    return stamp, hashlib.sha256(value).digest()",
        '    return stamp, hashlib.sha256(value).digest() and b""',
        (*_STAMPS, *_SCHEDULES),
        "Of two values with one stamp, each node keeps its own.",
    ),
    Mutant(
        "stamp-order",
        _HLC,
        "        is_later = _rank(entry.stamp, entry.value) > _rank(held.stamp, held.value)",
        "        is_later = _rank(entry.stamp, entry.value) < _rank(held.stamp, held.value)",
        _STAMPS,
        "The older value wins.",
    ),
    Mutant(
        "stamp-monotone",
        _HLC,
        "    return max(last + 1, ticks_at(wall_s))",
        "    return ticks_at(wall_s)",
        _STAMPS,
        "A later push has an earlier stamp after the clock was set back.",
    ),
    Mutant(
        "stamp-observed",
        _HLC,
        "        ticks = max(ticks, entry.stamp.ticks)\n",
        "",
        _STAMPS,
        "A push that knew of another one is dated before it.",
    ),
    Mutant(
        "stamp-of-same-value",
        _HLC,
        "Verdict.TAKE if is_later else kept",
        "Verdict.TAKE if is_later and not same else kept",
        _STAMPS,
        "A third value wins here and loses elsewhere.",
    ),
    Mutant(
        "client-write-wins",
        _HLC,
        "        return Verdict.TAKE if is_later else kept\n"
        "    return Verdict.RENEW if same else Verdict.TAKE",
        "        return Verdict.TAKE if is_later else kept\n"
        "    return Verdict.RENEW if same else Verdict.LET_FALL",
        (*_STAMPS, "tests/contracts/store"),
        "A client's new value is acknowledged and let fall.",
    ),
    Mutant(
        "acknowledge-all",
        "federation/services/acknowledge.py",
        'needed = 1 if self._how == "one-peer" else len(peers)',
        "needed = 1",
        ("tests/services/test_acknowledge.py",),
        "all-peers is answered when one has it.",
    ),
    Mutant(
        "acknowledged-rows",
        "federation/storage/acknowledgements.py",
        "return sum(self._known(name) >= seq for name in peers) >= needed",
        "return sum(self._known(name) >= min(seq, 1) for name in peers) >= needed",
        ("tests/storage/test_acknowledgements.py",),
        "A write is called acknowledged for rows before it.",
    ),
    Mutant(
        "acknowledged-window",
        "federation/storage/acknowledgements.py",
        "        if lane is Lane.ALWAYS and seq > self._heard.get(name, -1):",
        "        if seq > self._heard.get(name, -1):",
        ("tests/storage/test_acknowledgements.py",),
        "What passed the window's lane counts as if the peer had everything.",
    ),
]
