"""What must be true of a data directory after every fault, read from the disk and not the node.

No temporary file, no stray blob file, no row without its file, every byte right, the running
totals equal to the sum of the rows, and a catalogue that SQLite finds whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import SEEK_END, BytesIO
from pathlib import Path
from typing import BinaryIO

import apsw
import blake3

from tests.support.polling import wait_until

_PIECE_BYTES = 2**20


@contextmanager
def catalogue(data_dir: Path, *, write: bool = False) -> Iterator[apsw.Connection]:
    """A second connection to the catalogue, beside a node or after its end."""
    connection = apsw.Connection(
        str(data_dir / "catalogue.sqlite"), flags=apsw.SQLITE_OPEN_READWRITE
    )
    try:
        connection.set_busy_timeout(10_000)
        if not write:
            connection.execute("PRAGMA query_only = ON")
        yield connection
    finally:
        connection.close()


def assert_clean(data_dir: Path, *, sweep_s: float = 20, contents: bool = True) -> int:
    """Check everything above; waits for the background sweep. Returns the number of blobs.

    contents: also hash every blob (else only sizes are compared).
    """
    wait_until(
        lambda: not leftovers(data_dir),
        f"the sweep to remove what was left: {leftovers(data_dir)[:5]}",
        timeout_s=sweep_s,
    )
    with catalogue(data_dir) as connection:
        (verdict,) = connection.execute("PRAGMA integrity_check").fetchone() or ("no answer",)
        assert verdict == "ok", verdict
        for _ in range(5):
            with connection:  # one snapshot for all that follows
                problems = [*_row_problems(connection, data_dir, contents), *_sums(connection)]
                (count,) = connection.execute("SELECT count(*) FROM blob").fetchone() or (0,)
            if not problems:
                return int(count)
            # A node that evicts may have removed a file after the snapshot; what is really wrong
            # is still wrong in the next one.
    raise AssertionError(f"{len(problems)} problems: {problems[:10]}")


def leftovers(data_dir: Path) -> list[str]:
    """Files that no row vouches for: being received, or never made visible."""
    received = [path.name for path in (data_dir / "incoming").iterdir()]
    with catalogue(data_dir) as connection:
        rows = {
            bytes(key) for (key,) in connection.execute("SELECT key FROM blob WHERE NOT inline")
        }
    strays = [
        path.name for path in (data_dir / "blobs").glob("??/*") if _key_of(path.name) not in rows
    ]
    return received + strays


def blob_path(data_dir: Path, hash_hex: str, size: int) -> Path:
    """Where the file of a SHA-256 blob lies."""
    return data_dir / "blobs" / hash_hex[:2] / f"{hash_hex}-{size}"


def _key_of(name: str) -> bytes:
    hash_hex, _, rest = name.partition("-")
    try:
        return bytes([9 if rest.endswith(".blake3") else 1]) + bytes.fromhex(hash_hex)
    except ValueError:
        return b""


def _row_problems(connection: apsw.Connection, data_dir: Path, contents: bool) -> Iterator[str]:
    rows = connection.execute(
        "SELECT b.key, b.size, b.inline, s.data FROM blob b LEFT JOIN small s"
        " ON b.inline AND s.seq = b.seq"
    )
    for key, size, inline, data in rows:
        function, hash_hex = key[0], key[1:].hex()
        name = f"{hash_hex}/{size}"
        suffix = ".blake3" if function == 9 else ""
        path = data_dir / "blobs" / hash_hex[:2] / f"{hash_hex}-{size}{suffix}"
        if inline and data is None:
            yield f"{name}: a row and no inline content"
            continue
        try:
            # Held open while it is looked at: a node that evicts may remove it at any moment.
            file = BytesIO(data) if inline else path.open("rb")
        except FileNotFoundError:
            yield f"{name}: a row and no file"
            continue
        with file:
            found_size = file.seek(0, SEEK_END)
            if found_size != size:
                yield f"{name}: {found_size} bytes are stored"
            elif contents and _hash(function, file) != key[1:]:
                yield f"{name}: other bytes are stored"
    (loose,) = connection.execute(
        "SELECT count(*) FROM small WHERE seq NOT IN (SELECT seq FROM blob WHERE inline)"
    ).fetchone() or (0,)
    if loose:
        yield f"{loose} inline contents without a row"


def _sums(connection: apsw.Connection) -> Iterator[str]:
    totals = connection.execute("SELECT bytes, blobs, entries, seq FROM totals").fetchone()
    summed = connection.execute(
        "SELECT (SELECT coalesce(sum(size), 0) FROM blob)"
        " + (SELECT coalesce(sum(length(value) + length(CAST(label AS BLOB))), 0) FROM entry),"
        " (SELECT count(*) FROM blob), (SELECT count(*) FROM entry),"
        " (SELECT coalesce(max(seq), 0) FROM log)"
    ).fetchone()
    if totals != summed:
        yield f"totals {totals}, but the rows sum to {summed}"


def _hash(function: int, file: BinaryIO) -> bytes:
    hasher = blake3.blake3() if function == 9 else hashlib.sha256()
    file.seek(0)
    while piece := file.read(_PIECE_BYTES):
        hasher.update(piece)
    return hasher.digest()
