"""What the numbers depend on and a reader elsewhere needs to know: cores, disk, hash rate."""

from __future__ import annotations

import hashlib
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks import payloads

_SYNCS = 20


def describe(folder: Path) -> str:
    """Return one line about the machine and the file system that folder is on."""
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), Linux {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}, SHA-256 {_sha256_rate() / 1e9:.2f} GB/s on one core, "
        f"{_file_system(folder)}, fdatasync of 4 KiB {_sync_s(folder) * 1e3:.2f} ms"
    )


def _sha256_rate() -> float:
    data = payloads.large_blob(64 * payloads.MIB)
    began_s = time.process_time()
    hashlib.sha256(data).digest()
    return len(data) / (time.process_time() - began_s)


def _sync_s(folder: Path) -> float:
    times_s = []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(_SYNCS):
            file.write(bytes(4096))
            began_s = time.perf_counter()
            os.fdatasync(file.fileno())
            times_s.append(time.perf_counter() - began_s)
    return statistics.median(times_s)


def _file_system(folder: Path) -> str:
    device = folder.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, source = line.partition(" - ")
        if mount.split()[2] == wanted:
            return source.split()[0]
    return "unknown file system"
