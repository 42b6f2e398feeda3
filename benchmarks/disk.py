"""What keeping bytes costs at least: plain writes to a file, and waiting for the disk."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path


def seconds_to_keep(folder: Path, pieces: Iterable[bytes | memoryview]) -> tuple[float, float]:
    """Write a new file below folder; return the seconds until it was written, and until synced."""
    began_s = time.perf_counter()
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for piece in pieces:
            file.write(piece)
        written_s = time.perf_counter() - began_s
        os.fdatasync(file.fileno())
        return written_s, time.perf_counter() - began_s
