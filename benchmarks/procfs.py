"""What the kernel says about a process and its descendants: CPU time and memory."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


def tree(pid: int) -> list[int]:
    """Return pid and every living descendant."""
    found = [pid]
    for parent in found:
        for task in _listing(_PROC / str(parent) / "task"):
            found += [int(child) for child in _text(task / "children").split()]
    return found


def cpu_s(pid: int) -> float:
    """Return the CPU seconds used by the tree, descendants that have ended included."""
    ticks = 0
    for member in tree(pid):
        stat = _text(_PROC / str(member) / "stat")
        # The command's name is in brackets and may hold spaces; utime, stime, cutime and cstime
        # are fields 14 to 17 of the line.
        ticks += sum(map(int, stat.rpartition(")")[2].split()[11:15]))
    return ticks / _TICKS_PER_S


def resident_bytes(pid: int, *, peak: bool = False) -> int:
    """Return the tree's resident set now, or the sum of each member's highest."""
    field = "VmHWM:" if peak else "VmRSS:"
    total = 0
    for member in tree(pid):
        for line in _text(_PROC / str(member) / "status").splitlines():
            if line.startswith(field):
                total += int(line.split()[1]) * 1024
    return total


def _text(path: Path) -> str:
    # A process that ends between the listing and the look counts as nothing.
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _listing(path: Path) -> list[Path]:
    try:
        return list(path.iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return []
