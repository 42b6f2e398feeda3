"""What a node has acknowledged, written down outside its data directory, and read back from it.

A record is on disk (fsync) before the test acts on the acknowledgement, so the journal also
survives what is done to the node's machine. Reading back trusts nothing that the node says about
itself: bytes are hashed here.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import grpc

from federation._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from federation.core.digest import Digest
from tests.support.process_client import Client, code_of

_BATCH_BYTES = 2 * 2**20


@dataclass
class Finding:
    """What one look at a node found."""

    blobs: int = 0
    entries: int = 0
    problems: list[str] = field(default_factory=list)

    def check(self) -> Finding:
        """Fail with the problems, if there are any."""
        assert not self.problems, (
            f"{len(self.problems)} lost or wrong of {self.blobs} blobs and {self.entries} "
            f"entries:\n" + "\n".join(self.problems[:40])
        )
        return self


class Oracle:
    """The journal of one test. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self.blobs: dict[Digest, None] = {}  # a dict keeps the order of acknowledgement
        self.actions: dict[tuple[str, Digest], reapi.ActionResult] = {}
        self.assets: dict[tuple[str, str], Digest] = {}
        self.attempted: set[Digest] = set()
        self._file = path.open("a+b", buffering=0)
        self._file.seek(0)
        for line in self._file:
            self._remember(json.loads(line))

    def __enter__(self) -> Oracle:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def attempt(self, digests: Iterable[Digest]) -> None:
        """Note what is about to be sent: from now on it is absent or right, never anything else."""
        with self._lock:
            self.attempted.update(digests)

    def recent(self, count: int) -> list[Digest]:
        """Return the blobs that were acknowledged last, newest first."""
        with self._lock:
            return list(islice(reversed(self.blobs), count))

    def acknowledged(self, *digests: Digest) -> None:
        """Note blobs that the node said OK to."""
        self._record(*({"blob": [d.hash_hex, d.size_bytes]} for d in digests))

    def action_acknowledged(
        self, action: Digest, result: reapi.ActionResult, instance: str = ""
    ) -> None:
        """Note an action result that the node said OK to."""
        key = [instance, action.hash_hex, action.size_bytes]
        self._record({"action": key, "result": result.SerializeToString().hex()})

    def asset_acknowledged(self, uri: str, digest: Digest, instance: str = "") -> None:
        """Note an asset that the node said OK to."""
        self._record({"asset": [instance, uri], "blob": [digest.hash_hex, digest.size_bytes]})

    def verify(
        self,
        client: Client,
        *,
        blobs: Collection[Digest] | None = None,
        newest_entries: int | None = None,
    ) -> Finding:
        """Read everything (or these blobs) back from the node and hash it here.

        newest_entries: how many action results, and how many assets, are asked for; None: all.
        """
        finding = Finding()
        wanted = list(self.blobs if blobs is None else blobs)
        self._verify_blobs(client, wanted, finding)
        self._verify_entries(client, finding, newest_entries)
        return finding

    def verify_unacknowledged(self, client: Client) -> Finding:
        """Whatever was sent without an OK must be missing or whole, in every call alike."""
        finding = Finding()
        open_ends = sorted(self.attempted - self.blobs.keys())
        missing = client.find_missing(open_ends) if open_ends else set()
        for digest in open_ends:
            there = self._read(client, digest, finding)
            if there == (digest in missing):
                finding.problems.append(
                    f"{digest}: FindMissing says {'missing' if not there else 'present'}"
                    f" but Read {'found it' if there else 'did not find it'}"
                )
        self.attempted &= self.blobs.keys()
        return finding

    def _verify_blobs(self, client: Client, wanted: list[Digest], finding: Finding) -> None:
        small = [d for d in wanted if d.size_bytes < _BATCH_BYTES // 8]
        for batch in _batches(small):
            got = client.batch_read(batch)
            for digest in batch:
                if digest in got:
                    self._judge(digest, got[digest], finding)
                # A batch does not show here why it has no bytes of a blob; a read raises it.
                elif not self._read(client, digest, finding):
                    finding.problems.append(f"{digest}: acknowledged and not found")
        for digest in wanted:
            if digest.size_bytes >= _BATCH_BYTES // 8 and not self._read(client, digest, finding):
                finding.problems.append(f"{digest}: acknowledged and not found")

    def _judge(self, digest: Digest, data: bytes, finding: Finding) -> None:
        finding.blobs += 1
        if len(data) != digest.size_bytes or hashlib.sha256(data).digest() != digest.hash:
            finding.problems.append(f"{digest}: answered {len(data)} wrong bytes")

    def _read(self, client: Client, digest: Digest, finding: Finding) -> bool:
        """Read one blob; whether it is there. Wrong bytes under an OK are a problem."""
        finding.blobs += 1
        hasher, size = hashlib.sha256(), 0
        try:
            for chunk in client.read_chunks(digest):
                hasher.update(chunk)
                size += len(chunk)
        except grpc.RpcError as error:
            if code_of(error) is not grpc.StatusCode.NOT_FOUND:
                raise
            return False
        if size != digest.size_bytes or hasher.digest() != digest.hash:
            finding.problems.append(f"{digest}: Read ended OK with {size} wrong bytes")
        return True

    def _verify_entries(self, client: Client, finding: Finding, newest: int | None) -> None:
        with self._lock:
            actions = list(islice(reversed(self.actions.items()), newest))
            assets = list(islice(reversed(self.assets.items()), newest))
        for (instance, action), wanted in actions:
            if instance == client.instance:
                finding.entries += 1
                got = client.get_action_result(action)
                if got != wanted:
                    finding.problems.append(f"action {action}: {wanted} became {got}")
        for (instance, uri), digest in assets:
            if instance == client.instance:
                finding.entries += 1
                found = client.fetch_blob(uri)
                if found != digest:
                    finding.problems.append(f"asset {uri}: {digest} became {found}")

    def _record(self, *records: dict[str, Any]) -> None:
        with self._lock:
            self._file.write(b"".join(json.dumps(r).encode() + b"\n" for r in records))
            os.fsync(self._file.fileno())
            for record in records:
                self._remember(record)

    def _remember(self, record: dict[str, Any]) -> None:
        if "action" in record:
            instance, hash_hex, size = record["action"]
            result = reapi.ActionResult.FromString(bytes.fromhex(record["result"]))
            self.actions[instance, Digest(bytes.fromhex(hash_hex), size)] = result
            return
        digest = Digest(bytes.fromhex(record["blob"][0]), record["blob"][1])
        if "asset" in record:
            instance, uri = record["asset"]
            self.assets[instance, uri] = digest
        else:
            self.blobs[digest] = None


def _batches(digests: list[Digest]) -> Iterable[list[Digest]]:
    batch: list[Digest] = []
    total = 0
    for digest in digests:
        if batch and total + digest.size_bytes > _BATCH_BYTES:
            yield batch
            batch, total = [], 0
        batch.append(digest)
        total += digest.size_bytes + 100
    if batch:
        yield batch
