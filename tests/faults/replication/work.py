"""What is pushed in these tests, and what is asked about it afterwards."""

from __future__ import annotations

import random
from collections.abc import Sequence

from federation.core.digest import Digest, digest_of
from tests.faults.replication.mesh import Mesh, wrong_bytes_in
from tests.support.process_client import Client, action_result

BLOB_BYTES = 4096
_BATCH_BYTES = 3 * 2**20


def noise(label: object, size: int = BLOB_BYTES) -> bytes:
    """Bytes that no compressor makes smaller, the same for the same label."""
    return random.Random(str(label)).randbytes(size)


def push(client: Client, label: object, count: int, size: int = BLOB_BYTES) -> list[Digest]:
    """Push blobs in batches; returns their names."""
    digests: list[Digest] = []
    step = max(1, _BATCH_BYTES // size)
    for at in range(0, count, step):
        blobs = [noise(f"{label}/{number}", size) for number in range(at, min(count, at + step))]
        codes = client.batch_update(blobs)
        assert {code.name for code in codes} == {"OK"}, codes
        digests += [digest_of(blob) for blob in blobs]
    return digests


def name_all(client: Client, label: object, digests: Sequence[Digest], each: int = 10) -> int:
    """Push action results and assets that name these blobs, some each; returns how many."""
    count = 0
    for at in range(0, len(digests), each):
        some = digests[at : at + each]
        outputs = [(f"out/{number}", digest) for number, digest in enumerate(some)]
        client.update_action_result(action_of(label, at), action_result(outputs))
        client.push_blob(uri_of(label, at), some[0], some[1:])
        count += 2
    return count


def action_of(label: object, number: int) -> Digest:
    """Whose result name_all pushed."""
    return digest_of(f"action {label} {number}".encode())


def uri_of(label: object, number: int) -> str:
    """What name_all pushed an asset under."""
    return f"urn:example:{label}:{number}"


def settle(mesh: Mesh, within_s: float = 60) -> None:
    """Wait until all nodes hold the same and nothing is on its way; check every byte."""
    mesh.wait_until_equal(within_s=within_s)
    mesh.wait_until_idle(within_s=within_s)
    for name, node in mesh.nodes.items():
        wrong = wrong_bytes_in(node.data_dir)
        assert not wrong, f"{name} holds wrong bytes: {wrong[:5]}"
